"""Events that the kubelet writes about a pod and its containers.

Source: k8s.io/kubernetes pkg/kubelet/events/event.go (reasons), 1.33.
"""

from __future__ import annotations

from collections.abc import Iterator

from kubenetlab.api.lab import PodRuntimeStatus
from kubenetlab.api.pods import ContainerStatus, Pod, PodStatus, Terminated
from kubenetlab.api.store import Change, Cluster
from kubenetlab.controllers.kubelet.containers import (
    CHANGED_MESSAGE,
    CONFIG_ERROR,
    CRASH_LOOP,
    termination_text,
)
from kubenetlab.controllers.kubelet.killing import is_kill, kill_events, pending_kills
from kubenetlab.controllers.nodes.nodes import network_error_of
from kubenetlab.controllers.support.events import event, is_recorded


def status_events(
    cluster: Cluster, pod: Pod, runtime: PodRuntimeStatus | None, status: PodStatus, now: float
) -> Iterator[Change]:
    """Yield the events for the change of a pod's status from `pod.status` to `status`."""
    source = _source(pod)
    if pod.status.pod_ip and not status.pod_ip and not pod.spec.host_network:
        message = "Pod sandbox changed, it will be killed and re-created."
        yield event(cluster, pod, "Normal", "SandboxChanged", message, source, now)
    for container in (*status.init_container_statuses, *status.container_statuses):
        yield from _container_events(cluster, pod, runtime, container, now)
    if status.message and status.message != pod.status.message:
        yield event(cluster, pod, "Warning", "FailedCreatePodSandBox", status.message, source, now)


def _container_events(
    cluster: Cluster,
    pod: Pod,
    runtime: PodRuntimeStatus | None,
    container: ContainerStatus,
    now: float,
) -> Iterator[Change]:
    """Yield the events for a container whose new status is `container`."""
    source, name = _source(pod), container.name
    old = pod.container_status(name)
    ended = _new_end(old, container)
    is_killed = ended is not None and is_kill(ended.message)
    report = runtime.containers.get(name) if runtime else None
    has_run = report is not None and report.state != "failed"
    was_running = old is not None and old.state.running is not None
    is_started = container.state.running is not None or (ended is not None and has_run)
    if is_started and not was_running:
        yield event(cluster, pod, "Normal", "Started", f"Started container {name}", source, now)
    if ended is not None and is_killed and name not in pending_kills(cluster, pod):
        yield from kill_events(cluster, pod, name, ended.message, now)
    is_failure = ended is not None and ended.exit_code and not is_killed
    if ended is not None and is_failure and report is not None and not pod.is_terminating:
        message = (
            f"Container {name} ended: {termination_text(ended)}"
            if has_run
            else f"Error: {ended.message}"
        )
        yield event(cluster, pod, "Warning", "Failed", message, source, now)
    waiting = container.state.waiting
    if waiting is not None and (old is None or old.state != container.state):
        if waiting.reason == CRASH_LOOP:
            message = f"Back-off restarting failed container {name}"
            yield event(cluster, pod, "Warning", "BackOff", message, source, now)
        elif waiting.reason == CONFIG_ERROR:
            yield event(cluster, pod, "Warning", "Failed", f"Error: {waiting.message}", source, now)
    if ended is not None and ended.message == CHANGED_MESSAGE:
        message = f"Container {name} definition changed, will be restarted"
        yield event(cluster, pod, "Normal", "Killing", message, source, now)


def _new_end(old: ContainerStatus | None, container: ContainerStatus) -> Terminated | None:
    """Return how the container ended since its last status `old`; None when it did not.

    A container that ran in `old` has ended when it does not run or runs again. One that did not run
    in `old` may have started and ended in between.
    """
    ended = container.state.terminated or container.last_state.terminated
    before = (old.state.terminated or old.last_state.terminated) if old is not None else None
    was_running = old is not None and old.state.running is not None
    is_over = container.state.running is None or (
        old is not None and container.restart_count > old.restart_count
    )
    return ended if (was_running and is_over) or ended != before else None


def unhealthy_events(
    cluster: Cluster, pod: Pod, runtime: PodRuntimeStatus | None, now: float
) -> Iterator[Change]:
    """Yield an event for each startup or readiness probe that keeps failing, once."""
    for key, probe in runtime.probes.items() if runtime else ():
        kind = key.rpartition("/")[2]
        message = f"{kind.capitalize()} probe failed: {probe.message}"
        is_reported = not probe.ok and probe.is_settled and kind in ("startup", "readiness")
        if is_reported and not is_recorded(cluster, pod, "Unhealthy", message):
            yield event(cluster, pod, "Warning", "Unhealthy", message, _source(pod), now)


def network_not_ready_events(cluster: Cluster, pod: Pod, now: float) -> Iterator[Change]:
    """Yield the event of a pod without a sandbox whose node has no network, once."""
    error = network_error_of(cluster, pod.spec.node_name)
    message = f"network is not ready: {error}"
    if not error or pod.status.pod_ip:
        return
    if not is_recorded(cluster, pod, "NetworkNotReady", message):
        yield event(cluster, pod, "Warning", "NetworkNotReady", message, _source(pod), now)


def _source(pod: Pod) -> str:
    """Return the source of the kubelet's events about a pod."""
    return f"kubelet, {pod.spec.node_name}"
