"""How a pod stops: its preStop hooks run, then each container gets SIGTERM, and in the end the pod is gone.

Hooks and programs together have terminationGracePeriodSeconds. A hook that takes all of it leaves its container 2 seconds.
Source: k8s.io/kubernetes pkg/kubelet/kuberuntime/kuberuntime_container.go (killContainer, executePreStopHook), 1.33.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import structs

from kubenetlab.api.containers import Container
from kubenetlab.api.lab import PodRuntimeStatus, Termination
from kubenetlab.api.meta import ObjectMeta, seconds
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Change, Cluster
from kubenetlab.controllers.events import event, is_recorded
from kubenetlab.controllers.wake import Wake

MIN_GRACE_S = 2.0
"""What a container has left after a preStop hook that took all the time."""


def has_stopped(pod: Pod, seen: PodRuntimeStatus, now: float) -> bool:
    """Return True when nothing of a terminating pod is waited for: no hook, no program that takes its time, no node's rules."""
    pending = _pending(pod, seen, now)
    runs = seen.containers.items()
    is_awaited = any(
        run.state == "running" and (run.is_process or run.ends_later or name in pending)
        for name, run in runs
    )
    return seen.is_detached and (now >= _deadline(pod, seen) or not is_awaited)


def advance_termination(
    cluster: Cluster, pod: Pod, seen: PodRuntimeStatus, now: float
) -> Iterator[Change | Wake]:
    """Take a terminating pod one step further: record which containers get SIGTERM, and when to look again."""
    hooked, pending = _hooked(pod), _pending(pod, seen, now)
    if hooked:
        for container in hooked:
            yield from failed_pre_stop_events(cluster, pod, container, seen, now)
        signalled = tuple(container.name for container in hooked if container.name not in pending)
        known = termination_of(cluster, pod)
        if known is None or known.signalled != signalled:
            base = known or Termination(ObjectMeta(name=pod.name, namespace=pod.namespace), pod.uid)
            yield structs.replace(base, signalled=signalled)
    if pending:
        yield Wake(_grace_ends(pod))
    elif seen.is_detached:
        yield Wake(_deadline(pod, seen))


def termination_of(cluster: Cluster, pod: Pod) -> Termination | None:
    """Return how far a pod's containers are on their way to the end; None for a pod whose preStop hooks never ran."""
    found = cluster.get(Termination, pod.namespace, pod.name)
    return found if found is not None and found.pod_uid == pod.uid else None


def gets_signal(pod: Pod, container: Container, signalled: tuple[str, ...]) -> bool:
    """Return True when a container of a terminating pod is told to end: it has no preStop hook, or that is over."""
    return pod.is_terminating and (not runs_pre_stop(pod, container) or container.name in signalled)


def runs_pre_stop(pod: Pod, container: Container) -> bool:
    """Return True when a preStop hook is run: without any grace period there is no time for it."""
    return container.lifecycle.pre_stop is not None and grace_s(pod) > 0


def _hooked(pod: Pod) -> list[Container]:
    """Return the containers whose preStop hooks are run."""
    return [
        container for container in pod.spec.long_running_containers if runs_pre_stop(pod, container)
    ]


def _pending(pod: Pod, seen: PodRuntimeStatus, now: float) -> list[str]:
    """Return the names of the containers whose preStop hooks have not ended."""
    return [container.name for container in _hooked(pod) if not _is_over(pod, container, seen, now)]


def _is_over(pod: Pod, container: Container, seen: PodRuntimeStatus, now: float) -> bool:
    """Return True when a container's preStop hook has ended, well or not, or there is no container or no time left for it."""
    run = seen.containers.get(container.name)
    is_running = run is not None and run.state == "running"
    return (
        not is_running
        or now >= _grace_ends(pod)
        or seen.hook(container.name, "preStop", run.attempt if run else 0) is not None
    )


def grace_s(pod: Pod) -> int:
    """Return how long a terminating pod may take, in seconds."""
    grace = pod.metadata.deletion_grace_period_seconds
    return pod.spec.termination_grace_period_seconds if grace is None else grace


def _grace_ends(pod: Pod) -> float:
    return seconds(pod.metadata.deletion_timestamp or "") + grace_s(pod)


def _deadline(pod: Pod, seen: PodRuntimeStatus) -> float:
    """Return when a terminating pod is killed."""
    end = _grace_ends(pod)
    for container in _hooked(pod):
        run = seen.containers.get(container.name)
        if run is not None and run.state == "running":
            hook = seen.hook(container.name, "preStop", run.attempt)
            hook_ended = min(hook.at, _grace_ends(pod)) if hook is not None else _grace_ends(pod)
            end = max(end, hook_ended + MIN_GRACE_S)
    return end


def failed_pre_stop_events(
    cluster: Cluster, pod: Pod, container: Container, seen: PodRuntimeStatus, now: float
) -> Iterator[Change]:
    """Yield the event that says why the preStop hook of a container failed."""
    run = seen.containers.get(container.name)
    hook = seen.hook(container.name, "preStop", run.attempt) if run is not None else None
    if hook is not None and not hook.ok:
        message = f"PreStopHook failed: {hook.message}"
        if not is_recorded(cluster, pod, "FailedPreStopHook", message):
            yield event(
                cluster,
                pod,
                "Warning",
                "FailedPreStopHook",
                message,
                f"kubelet, {pod.spec.node_name}",
                now,
            )
