"""Events of the kubelet about a pod and its containers.

Source: k8s.io/kubernetes pkg/kubelet/events/event.go (reasons), 1.33.
"""

from __future__ import annotations

from collections.abc import Iterator

from kubenetlab.api.lab import PodRuntimeStatus
from kubenetlab.api.pods import (
    ContainerStatus,
    Pod,
    PodStatus,
    Terminated,
)
from kubenetlab.api.store import Change, Cluster
from kubenetlab.controllers.containers import (
    CHANGED_MESSAGE,
    CONFIG_ERROR,
    CRASH_LOOP,
    how_it_ended,
)
from kubenetlab.controllers.events import event, is_recorded
from kubenetlab.controllers.killing import (
    awaited,
    is_kill,
    kill_events,
)
from kubenetlab.controllers.nodes import NETWORK_NOT_READY


def status_events(
    cluster: Cluster, pod: Pod, seen: PodRuntimeStatus | None, status: PodStatus, now: float
) -> Iterator[Change]:
    """What a change of status is worth telling."""
    source = f"kubelet, {pod.spec.node_name}"
    before = {container.name: container for container in pod.container_statuses}
    if pod.status.pod_ip and not status.pod_ip and not pod.spec.host_network:
        yield event(
            cluster,
            pod,
            "Normal",
            "SandboxChanged",
            "Pod sandbox changed, it will be killed and re-created.",
            source,
            now,
        )
    for container in (*status.init_container_statuses, *status.container_statuses):
        old = before.get(container.name)
        was_running = old is not None and old.state.running is not None
        ended = _new_end(old, container)
        report = seen.containers.get(container.name) if seen else None
        has_run = report is not None and report.state != "failed"
        if not was_running and (
            container.state.running is not None or (ended is not None and has_run)
        ):
            yield event(
                cluster,
                pod,
                "Normal",
                "Started",
                f"Started container {container.name}",
                source,
                now,
            )
        is_killed = ended is not None and is_kill(ended.message)
        if ended is not None and is_killed and container.name not in awaited(cluster, pod):
            yield from kill_events(cluster, pod, container.name, ended.message, now)
        if (
            ended is not None
            and ended.exit_code
            and report is not None
            and not pod.is_terminating
            and not is_killed
        ):
            message = (
                f"Container {container.name} ended: {how_it_ended(ended)}"
                if has_run
                else f"Error: {ended.message}"
            )
            yield event(cluster, pod, "Warning", "Failed", message, source, now)
        waits = container.state.waiting
        if (
            waits is not None
            and waits.reason == CRASH_LOOP
            and (old is None or old.state != container.state)
        ):
            yield event(
                cluster,
                pod,
                "Warning",
                "BackOff",
                f"Back-off restarting failed container {container.name}",
                source,
                now,
            )
        if (
            waits is not None
            and waits.reason == CONFIG_ERROR
            and (old is None or old.state != container.state)
        ):
            yield event(cluster, pod, "Warning", "Failed", f"Error: {waits.message}", source, now)
        if ended is not None and ended.message == CHANGED_MESSAGE:
            message = f"Container {container.name} definition changed, will be restarted"
            yield event(cluster, pod, "Normal", "Killing", message, source, now)
    if status.message and status.message != pod.status.message:
        yield event(cluster, pod, "Warning", "FailedCreatePodSandBox", status.message, source, now)


def _new_end(old: ContainerStatus | None, container: ContainerStatus) -> Terminated | None:
    """How a container has ended since its last status: that is new where it ran until now, or has come and gone in between."""
    ended = container.state.terminated or container.last_state.terminated
    before = (old.state.terminated or old.last_state.terminated) if old is not None else None
    was_running = old is not None and old.state.running is not None
    is_over = container.state.running is None or (
        old is not None and container.restart_count > old.restart_count
    )
    return ended if (was_running and is_over) or ended != before else None


def unhealthy_events(
    cluster: Cluster, pod: Pod, seen: PodRuntimeStatus | None, now: float
) -> Iterator[Change]:
    """A probe that has failed for so long, without ending its container, that it is worth telling."""
    for key, probe in seen.probes.items() if seen else ():
        kind = key.rpartition("/")[2]
        message = f"{kind.capitalize()} probe failed: {probe.message}"
        is_told = probe.ok or not probe.is_settled or kind not in ("startup", "readiness")
        if not is_told and not is_recorded(cluster, pod, "Unhealthy", message):
            yield event(
                cluster, pod, "Warning", "Unhealthy", message, f"kubelet, {pod.spec.node_name}", now
            )


def network_not_ready_events(cluster: Cluster, pod: Pod, now: float) -> Iterator[Change]:
    message = f"network is not ready: {NETWORK_NOT_READY}"
    if not is_recorded(cluster, pod, "NetworkNotReady", message):
        yield event(
            cluster,
            pod,
            "Warning",
            "NetworkNotReady",
            message,
            f"kubelet, {pod.spec.node_name}",
            now,
        )
