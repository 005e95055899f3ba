"""Termination of a pod: preStop hooks, SIGTERM to each container, and removal of the pod.

Hooks and programs share terminationGracePeriodSeconds. A hook that takes all of it leaves its
container 2 seconds.
Source: k8s.io/kubernetes pkg/kubelet/kuberuntime/kuberuntime_container.go (killContainer,
executePreStopHook), 1.33.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import structs

from kubenetlab.api.containers import Container
from kubenetlab.api.lab import PodRuntimeStatus, Termination
from kubenetlab.api.meta import ObjectMeta, seconds
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Change, Cluster
from kubenetlab.controllers.support.events import event, is_recorded
from kubenetlab.controllers.support.wake import Wake

MIN_GRACE_S = 2.0
"""Time left to a container whose preStop hook used the whole grace period, in seconds."""


def has_stopped(pod: Pod, runtime: PodRuntimeStatus, now: float) -> bool:
    """Return True when a terminating pod can be removed.

    The rules of all nodes must no longer refer to it (`is_detached`). In addition, either no
    process, no delayed shutdown and no preStop hook is running any more, or the deadline has
    passed.
    """
    pending = _pending_hooks(pod, runtime, now)
    runs = runtime.containers.items()
    is_awaited = any(
        run.state == "running" and (run.is_process or run.ends_later or name in pending)
        for name, run in runs
    )
    return runtime.is_detached and (now >= _deadline(pod, runtime) or not is_awaited)


def advance_termination(
    cluster: Cluster, pod: Pod, runtime: PodRuntimeStatus, now: float
) -> Iterator[Change | Wake]:
    """Yield the next step of a pod's termination, and a Wake for its deadline.

    The step is a record of the containers that receive SIGTERM because their preStop hooks have
    ended.
    """
    hooked, pending = _containers_with_hook(pod), _pending_hooks(pod, runtime, now)
    if hooked:
        for container in hooked:
            yield from failed_pre_stop_events(cluster, pod, container, runtime, now)
        signalled = tuple(container.name for container in hooked if container.name not in pending)
        recorded = termination_of(cluster, pod)
        if recorded is None or recorded.signalled != signalled:
            base = recorded or Termination(
                ObjectMeta(name=pod.name, namespace=pod.namespace), pod.uid
            )
            yield structs.replace(base, signalled=signalled)
    if pending:
        yield Wake(_grace_ends(pod))
    elif runtime.is_detached:
        yield Wake(_deadline(pod, runtime))


def termination_of(cluster: Cluster, pod: Pod) -> Termination | None:
    """Return the termination record of the pod; None when none of its preStop hooks has run."""
    termination = cluster.get(Termination, pod.namespace, pod.name)
    return termination if termination is not None and termination.pod_uid == pod.uid else None


def gets_signal(pod: Pod, container: Container, signalled: tuple[str, ...]) -> bool:
    """Return True when a container of a terminating pod receives SIGTERM.

    That is: it has no preStop hook, or the hook has ended.
    signalled: names of the containers whose hook has ended.
    """
    return pod.is_terminating and (not runs_pre_stop(pod, container) or container.name in signalled)


def runs_pre_stop(pod: Pod, container: Container) -> bool:
    """Return True when the container's preStop hook runs: with a grace period of 0 it does not."""
    return container.lifecycle.pre_stop is not None and grace_s(pod) > 0


def _containers_with_hook(pod: Pod) -> list[Container]:
    """Return the containers whose preStop hooks run."""
    return [
        container for container in pod.spec.long_running_containers if runs_pre_stop(pod, container)
    ]


def _pending_hooks(pod: Pod, runtime: PodRuntimeStatus, now: float) -> list[str]:
    """Return the names of the containers whose preStop hooks have not ended."""
    return [
        container.name
        for container in _containers_with_hook(pod)
        if not _is_hook_over(pod, container, runtime, now)
    ]


def _is_hook_over(pod: Pod, container: Container, runtime: PodRuntimeStatus, now: float) -> bool:
    """Return True when a container's preStop hook has ended or nothing is left to wait for."""
    run = runtime.containers.get(container.name)
    is_running = run is not None and run.state == "running"
    return (
        not is_running
        or now >= _grace_ends(pod)
        or runtime.hook(container.name, "preStop", run.attempt if run else 0) is not None
    )


def grace_s(pod: Pod) -> int:
    """Return the pod's grace period in seconds."""
    grace = pod.metadata.deletion_grace_period_seconds
    return pod.spec.termination_grace_period_seconds if grace is None else grace


def _grace_ends(pod: Pod) -> float:
    """Return the end of the pod's grace period in seconds since 1970."""
    return seconds(pod.metadata.deletion_timestamp or "") + grace_s(pod)


def _deadline(pod: Pod, runtime: PodRuntimeStatus) -> float:
    """Return the time at which a terminating pod is killed, in seconds since 1970."""
    end = _grace_ends(pod)
    for container in _containers_with_hook(pod):
        run = runtime.containers.get(container.name)
        if run is not None and run.state == "running":
            hook = runtime.hook(container.name, "preStop", run.attempt)
            hook_ended = min(hook.at, _grace_ends(pod)) if hook is not None else _grace_ends(pod)
            end = max(end, hook_ended + MIN_GRACE_S)
    return end


def failed_pre_stop_events(
    cluster: Cluster, pod: Pod, container: Container, runtime: PodRuntimeStatus, now: float
) -> Iterator[Change]:
    """Yield the event that reports why a container's preStop hook failed, once."""
    run = runtime.containers.get(container.name)
    hook = runtime.hook(container.name, "preStop", run.attempt) if run is not None else None
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
