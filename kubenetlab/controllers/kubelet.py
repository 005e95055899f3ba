"""kubelet: what each pod's status says, from what was seen of it on its node.

Containers that end are started again after 0, 10, 20, 40 … 300 seconds, as restartPolicy says.
Source: k8s.io/kubernetes pkg/kubelet/kubelet_pods.go (phase), status/generate.go (conditions), kuberuntime (back-off).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Literal

from msgspec import structs

from kubenetlab.api.core import Node
from kubenetlab.api.lab import Attachment, ContainerReport, NetworkFacts, Observed
from kubenetlab.api.meta import Condition, seconds, timestamp
from kubenetlab.api.pods import (
    READY_ANNOTATION,
    Container,
    ContainerState,
    ContainerStatus,
    Pod,
    PodIP,
    PodStatus,
    Running,
    Terminated,
    Waiting,
)
from kubenetlab.api.store import Change, Cluster, Kind, deletion
from kubenetlab.controllers.events import event, is_recorded
from kubenetlab.controllers.ipam import attachment_of, network
from kubenetlab.controllers.nodes import NETWORK_NOT_READY
from kubenetlab.controllers.scheduler import SCHEDULED
from kubenetlab.controllers.wake import Wake

WATCHES: Final[tuple[Kind, ...]] = (NetworkFacts, Node, Pod, Attachment, Observed)

FIRST_BACK_OFF_S = 10
LONGEST_BACK_OFF_S = 300

CREATING = "ContainerCreating"
CRASH_LOOP = "CrashLoopBackOff"
KILLED_EXIT_CODE = 137
LIVENESS_FAILED = "Liveness probe failed"
CHANGED = "Container definition changed, will be restarted"


def reconcile(cluster: Cluster, now: float) -> Iterator[Change | Wake]:
    for pod in cluster.all(Pod):
        if pod.is_finished and not pod.is_terminating:
            continue
        if not pod.spec.node_name:
            if pod.is_terminating:
                yield deletion(pod)
            continue
        node = cluster.node(pod.spec.node_name)
        seen = observed_of(cluster, pod)
        has_left = node is None and pod.status.start_time is not None  # with its node; on one that never was it stays Pending
        if has_left or (pod.is_terminating and (seen is None or not seen.sandbox_pid or seen.is_detached)):
            yield deletion(pod)
            continue
        if node is None:
            continue
        statuses = [_container_status(pod, container, seen, now) for container in pod.spec.long_running_containers]
        status = _status(cluster, pod, node, seen, statuses, now)
        if status != pod.status:
            yield structs.replace(pod, status=status)
            yield from _events(cluster, pod, status, now)
        yield from _unhealthy(cluster, pod, seen, now)
        yield from (Wake(at) for container in statuses if (at := _next_start(container)) is not None)
        if not pod.spec.host_network and not network(cluster).has_network:
            yield from _network_not_ready(cluster, pod, now)


def observed_of(cluster: Cluster, pod: Pod) -> Observed | None:
    """What was seen of this very pod; None for news of an older one of the same name."""
    found = cluster.get(Observed, pod.namespace, pod.name)
    return found if found is not None and found.pod_uid == pod.uid else None


def should_run(status: ContainerStatus) -> bool:
    """True when the container is running or about to be started: not while it waits out a back-off or has ended for good."""
    return status.state.running is not None or (status.state.waiting is not None and status.state.waiting.reason == CREATING)


def back_off_s(restarts: int) -> int:
    """How long to wait before the next start, after so many restarts: the first follows at once."""
    return min(FIRST_BACK_OFF_S * 2 ** min(restarts - 1, 10), LONGEST_BACK_OFF_S) if restarts else 0


def _container_status(pod: Pod, container: Container, seen: Observed | None, now: float) -> ContainerStatus:
    before = next((status for status in pod.status.container_statuses if status.name == container.name), None)
    attempt = before.restart_count if before else 0
    last = before.last_state if before else ContainerState()
    report = seen.containers.get(container.name) if seen else None
    base = ContainerStatus(container.name, restart_count=attempt, image=container.image, last_state=last)
    if report is None and before is not None and before.state.running is not None:  # its sandbox has gone, and it with it
        lost = Terminated(KILLED_EXIT_CODE, "Error", started_at=before.state.running.started_at, finished_at=timestamp(now))
        return structs.replace(
            base, restart_count=attempt + 1, state=ContainerState(waiting=Waiting(CREATING)), last_state=ContainerState(terminated=lost)
        )
    if report is None or report.attempt != attempt:
        return structs.replace(base, state=ContainerState(waiting=Waiting(CREATING)))
    ended = _ended(container, report, seen)
    if ended is None and before is not None and before.image != container.image:
        ended = Terminated(0, "Completed", CHANGED, started_at=timestamp(report.at), finished_at=timestamp(now))
        return structs.replace(
            base, restart_count=attempt + 1, state=ContainerState(waiting=Waiting(CREATING)), last_state=ContainerState(terminated=ended)
        )
    if ended is None:
        ready = _passes(container, "readiness", seen, attempt)
        return structs.replace(base, state=ContainerState(running=Running(timestamp(report.at))), ready=ready, started=True)
    policy = pod.spec.restart_policy
    if policy == "Never" or (policy == "OnFailure" and ended.exit_code == 0):
        return structs.replace(base, state=ContainerState(terminated=ended))
    wait = back_off_s(attempt)
    if now < seconds(ended.finished_at or "") + wait:
        message = f"back-off {wait}s restarting failed container={container.name} pod={pod.name}_{pod.namespace}({pod.uid})"
        return structs.replace(
            base, state=ContainerState(waiting=Waiting(CRASH_LOOP, message)), last_state=ContainerState(terminated=ended)
        )
    return structs.replace(
        base, restart_count=attempt + 1, state=ContainerState(waiting=Waiting(CREATING)), last_state=ContainerState(terminated=ended)
    )


def _ended(container: Container, report: ContainerReport, seen: Observed | None) -> Terminated | None:
    """How this run ended, or None while it goes on."""
    if report.state != "running":
        return Terminated(
            report.exit_code, "Completed" if report.exit_code == 0 else "Error", report.message, finished_at=timestamp(report.at)
        )
    probe = seen.probes.get(f"{container.name}/liveness") if seen else None
    threshold = container.liveness_probe.failure_threshold if container.liveness_probe else 0
    if probe is not None and probe.attempt == report.attempt and threshold and probe.failures >= threshold:
        message = f"{LIVENESS_FAILED}: {probe.message}"
        return Terminated(KILLED_EXIT_CODE, "Error", message, started_at=timestamp(report.at), finished_at=timestamp(probe.at))
    return None


def _passes(container: Container, kind: Literal["readiness", "liveness"], seen: Observed | None, attempt: int) -> bool:
    report = seen.probes.get(f"{container.name}/{kind}") if seen else None
    return report is not None and report.attempt == attempt and report.ok


def _next_start(status: ContainerStatus) -> float | None:
    waiting, ended = status.state.waiting, status.last_state.terminated
    if waiting is None or waiting.reason != CRASH_LOOP or ended is None:
        return None
    return seconds(ended.finished_at or "") + back_off_s(status.restart_count)


def _status(cluster: Cluster, pod: Pod, node: Node, seen: Observed | None, containers: Sequence[ContainerStatus], now: float) -> PodStatus:
    has_sandbox = seen is not None and seen.sandbox_pid != 0
    addresses: tuple[str, ...] = ()
    if has_sandbox and pod.status.phase != "Failed":
        attachment = attachment_of(cluster, pod)
        addresses = node.addresses if pod.spec.host_network else attachment.addresses if attachment else ()
    init = tuple(
        _init_status(container, has_sandbox, now, pod) for container in pod.spec.init_containers if container.restart_policy != "Always"
    )
    return PodStatus(
        phase=_phase(containers, has_sandbox),
        conditions=_conditions(pod, containers, has_sandbox, now),
        host_ip=node.addresses[0] if node.addresses else "",
        host_ips=tuple(PodIP(address) for address in node.addresses),
        pod_ip=addresses[0] if addresses else "",
        pod_ips=tuple(PodIP(address) for address in addresses),
        start_time=pod.status.start_time or timestamp(now),
        container_statuses=tuple(containers),
        init_container_statuses=init,
        message=seen.sandbox_error if seen else "",
    )


def _init_status(container: Container, has_sandbox: bool, now: float, pod: Pod) -> ContainerStatus:
    """Init containers have nothing to do in the lab: they end well as soon as the sandbox is there."""
    before = next((status for status in pod.status.init_container_statuses if status.name == container.name), None)
    if before is not None and before.state.terminated is not None:
        return before
    if not has_sandbox:
        return ContainerStatus(container.name, ContainerState(waiting=Waiting("PodInitializing")), image=container.image)
    return ContainerStatus(
        container.name, ContainerState(terminated=Terminated(0, "Completed", finished_at=timestamp(now))), ready=True, image=container.image
    )


def _phase(containers: Sequence[ContainerStatus], has_sandbox: bool) -> Literal["Pending", "Running", "Succeeded", "Failed"]:
    ended = [status.state.terminated for status in containers if status.state.terminated is not None]
    if containers and len(ended) == len(containers):
        return "Succeeded" if all(end.exit_code == 0 for end in ended) else "Failed"
    never_started = any(status.state.waiting is not None and status.last_state.terminated is None for status in containers)
    return "Pending" if never_started or not has_sandbox else "Running"


def _conditions(pod: Pod, containers: Sequence[ContainerStatus], has_sandbox: bool, now: float) -> tuple[Condition, ...]:
    unready = [status.name for status in containers if not status.ready]
    is_completed = bool(containers) and all(status.state.terminated is not None for status in containers)
    reason, message = (
        ("PodCompleted", "") if is_completed else ("ContainersNotReady", f"containers with unready status: [{' '.join(unready)}]")
    )
    containers_ready = _condition("ContainersReady", not unready, reason, message)
    ready = structs.replace(containers_ready, type="Ready")
    gates = [gate.condition_type for gate in pod.spec.readiness_gates]
    if pod.metadata.annotations.get(READY_ANNOTATION) == "false":
        gates.append(READY_ANNOTATION)
    if not unready and gates:
        ready = _condition(
            "Ready", False, "ReadinessGatesNotReady", f'the status of pod readiness gate "{gates[0]}" is not "True", but False'
        )
    wanted = (
        _condition("PodReadyToStartContainers", has_sandbox),
        _condition("Initialized", has_sandbox),
        ready,
        containers_ready,
        _condition(SCHEDULED, True),
    )
    return tuple(_dated(condition, pod, now) for condition in wanted)


def _condition(type_: str, holds: bool, reason: str = "", message: str = "") -> Condition:
    return Condition(type_, "True") if holds else Condition(type_, "False", reason, message)


def _dated(condition: Condition, pod: Pod, now: float) -> Condition:
    """The condition with the time since when it has been so."""
    before = pod.status.condition(condition.type)
    since = before.last_transition_time if before is not None and before.status == condition.status else timestamp(now)
    return structs.replace(condition, last_transition_time=since)


def _events(cluster: Cluster, pod: Pod, status: PodStatus, now: float) -> Iterator[Change]:
    """What a change of status is worth telling."""
    source = f"kubelet, {pod.spec.node_name}"
    before = {container.name: container for container in pod.status.container_statuses}
    if pod.status.pod_ip and not status.pod_ip and not pod.spec.host_network:
        yield event(cluster, pod, "Normal", "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.", source, now)
    for container in status.container_statuses:
        old = before.get(container.name)
        was_running = old is not None and old.state.running is not None
        ended = container.last_state.terminated or container.state.terminated
        if container.state.running is not None and not was_running:
            yield event(cluster, pod, "Normal", "Started", f"Started container {container.name}", source, now)
        if (
            container.state.waiting is not None
            and container.state.waiting.reason == CRASH_LOOP
            and (old is None or old.state != container.state)
        ):
            yield event(cluster, pod, "Warning", "BackOff", f"Back-off restarting failed container {container.name}", source, now)
        if was_running and ended is not None and ended.message == CHANGED:
            message = f"Container {container.name} definition changed, will be restarted"
            yield event(cluster, pod, "Normal", "Killing", message, source, now)
        if was_running and ended is not None and ended.message.startswith(LIVENESS_FAILED):
            yield event(cluster, pod, "Warning", "Unhealthy", ended.message, source, now)
            yield event(
                cluster, pod, "Normal", "Killing", f"Container {container.name} failed liveness probe, will be restarted", source, now
            )
    if status.message and status.message != pod.status.message:
        yield event(cluster, pod, "Warning", "FailedCreatePodSandBox", status.message, source, now)


def _unhealthy(cluster: Cluster, pod: Pod, seen: Observed | None, now: float) -> Iterator[Change]:
    """A readiness probe that has failed for so long that it is worth telling."""
    for key, probe in seen.probes.items() if seen else ():
        message = f"Readiness probe failed: {probe.message}"
        is_told = probe.ok or not probe.is_settled or not key.endswith("/readiness")
        if not is_told and not is_recorded(cluster, pod, "Unhealthy", message):
            yield event(cluster, pod, "Warning", "Unhealthy", message, f"kubelet, {pod.spec.node_name}", now)


def _network_not_ready(cluster: Cluster, pod: Pod, now: float) -> Iterator[Change]:
    message = f"network is not ready: {NETWORK_NOT_READY}"
    if not is_recorded(cluster, pod, "NetworkNotReady", message):
        yield event(cluster, pod, "Warning", "NetworkNotReady", message, f"kubelet, {pod.spec.node_name}", now)
