"""kubelet: what each pod's status says, from what was seen of it on its node; containers.py says how each container is.

Source: k8s.io/kubernetes pkg/kubelet/kubelet_pods.go (phase), status/generate.go (conditions), 1.33.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal

from msgspec import structs

from kubenetlab.api.core import Node
from kubenetlab.api.environment import ConfigMap, Secret
from kubenetlab.api.faults import Fault
from kubenetlab.api.lab import Attachment, Kill, NetworkFacts, PodRuntimeStatus, Termination
from kubenetlab.api.meta import Condition, timestamp
from kubenetlab.api.pods import (
    CONDITIONS_ANNOTATION,
    READY_ANNOTATION,
    ContainerStatus,
    Pod,
    PodIP,
    PodStatus,
    Terminated,
    conditions_in,
)
from kubenetlab.api.store import Change, Cluster, Kind, deletion
from kubenetlab.controllers.containers import (
    CHANGED,
    CONFIG_ERROR,
    CRASH_LOOP,
    how_it_ended,
    next_start,
    should_run,
    statuses,
    unfinished,
    with_pod_ended,
)
from kubenetlab.controllers.environment import faults
from kubenetlab.controllers.events import event, is_recorded
from kubenetlab.controllers.faults import what_stops
from kubenetlab.controllers.ipam import attachment_of, network
from kubenetlab.controllers.killing import (
    awaited,
    is_kill,
    kill_events,
    kills_after_hooks,
    record_kills,
)
from kubenetlab.controllers.nodes import NETWORK_NOT_READY
from kubenetlab.controllers.scheduler import SCHEDULED
from kubenetlab.controllers.stopping import has_stopped, stop
from kubenetlab.controllers.wake import Wake

WATCHES: Final[tuple[Kind, ...]] = (
    NetworkFacts,
    Node,
    Pod,
    Attachment,
    PodRuntimeStatus,
    ConfigMap,
    Secret,
    Fault,
)
CONVERGES_IN_ONE_PASS: Final = True

_FOR_ALL: Final[tuple[Kind, ...]] = (NetworkFacts, ConfigMap, Secret, Fault)

INITIALIZED = "Initialized"
GATES_NOT_READY = "ReadinessGatesNotReady"
"""Reason of the condition Ready."""


def reconcile(cluster: Cluster, now: float) -> Iterator[Change | Wake]:
    for pod in _affected(cluster):
        if pod.is_finished and not pod.is_terminating:
            continue
        if not pod.spec.node_name:
            if pod.is_terminating:
                yield deletion(pod)
            continue
        node = cluster.node(pod.spec.node_name)
        seen = observed_of(cluster, pod)
        has_left = (
            node is None and pod.status.start_time is not None
        )  # with its node; on one that never was it stays Pending
        if has_left or (pod.is_terminating and (seen is None or not seen.sandbox_pid)):
            yield deletion(pod)
            continue
        if pod.is_terminating and seen is not None:
            if has_stopped(pod, seen, now):
                yield deletion(pod)
                continue
            yield from stop(cluster, pod, seen, now)
        if node is None:
            continue
        kills = kills_after_hooks(cluster, pod, seen)
        status = _status(cluster, pod, node, seen, kills, now)
        known = (*status.init_container_statuses, *status.container_statuses)
        if seen is not None and (kills or awaited(cluster, pod)):
            attempts = {one.name: one.restart_count for one in known if should_run(one)}
            yield from record_kills(cluster, pod, seen, kills, attempts, now)
        if status != pod.status:
            yield structs.replace(pod, status=status)
            yield from _events(cluster, pod, seen, status, now)
        yield from _unhealthy(cluster, pod, seen, now)
        yield from (Wake(at) for container in known if (at := next_start(container)) is not None)
        if not pod.spec.host_network and not network(cluster).has_network:
            yield from _network_not_ready(cluster, pod, now)


def _affected(cluster: Cluster) -> Iterable[Pod]:
    """The pods for which something has changed since they were looked at: themselves, their node, what was seen of them; and those that wait
    for a time. At first, and when something has changed that may concern any, all."""
    news = cluster.since("kubelet", WATCHES)
    if news is None or any(news[kind] for kind in _FOR_ALL) or not network(cluster).has_network:
        return cluster.all(Pod)
    keys = {
        obj.key
        for kind in (Pod, Attachment, PodRuntimeStatus)
        for pair in news[kind]
        for obj in pair
        if obj is not None
    }
    keys |= {
        pod.key
        for pair in news[Node]
        for node in pair
        if node is not None
        for pod in cluster.pods_on(node.name)
    }
    keys |= {termination.key for termination in cluster.all(Termination) if termination.killed}
    keys |= cluster.derived(
        "pods that wait", lambda: {pod.key for pod in cluster.all(Pod) if _waits(pod)}, (Pod,)
    )
    return [pod for pod in cluster.all(Pod) if pod.key in keys]


def _waits(pod: Pod) -> bool:
    """True for one that is going, or of which a container is to be started again after a time."""
    return pod.is_terminating or any(
        next_start(status) is not None for status in pod.container_statuses
    )


def observed_of(cluster: Cluster, pod: Pod) -> PodRuntimeStatus | None:
    """What was seen of this very pod; None for news of an older one of the same name."""
    found = cluster.get(PodRuntimeStatus, pod.namespace, pod.name)
    return found if found is not None and found.pod_uid == pod.uid else None


def _status(
    cluster: Cluster,
    pod: Pod,
    node: Node,
    seen: PodRuntimeStatus | None,
    kills: Mapping[str, Kill],
    now: float,
) -> PodStatus:
    has_sandbox = seen is not None and seen.sandbox_pid != 0
    initialized = pod.status.condition(INITIALIZED)
    is_initialized = has_sandbox and initialized is not None and initialized.status == "True"
    stopping = what_stops(cluster, pod)
    why = stopping.title if stopping is not None else ""
    first, containers = statuses(
        pod, seen, now, faults(cluster, pod), kills, is_initialized=is_initialized, stopped=why
    )
    phase = _phase(pod, first, containers, has_sandbox)
    if phase in ("Succeeded", "Failed"):
        first = [with_pod_ended(status, now) for status in first]
    addresses: tuple[str, ...] = ()
    if has_sandbox and pod.status.phase != "Failed":
        attachment = attachment_of(cluster, pod)
        addresses = (
            node.addresses if pod.spec.host_network else attachment.addresses if attachment else ()
        )
    return PodStatus(
        phase=phase,
        conditions=_conditions(pod, phase, first, containers, has_sandbox, is_initialized, now),
        host_ip=node.addresses[0] if node.addresses else "",
        host_ips=tuple(PodIP(address) for address in node.addresses),
        pod_ip=addresses[0] if addresses else "",
        pod_ips=tuple(PodIP(address) for address in addresses),
        start_time=pod.status.start_time or timestamp(now),
        container_statuses=tuple(containers),
        init_container_statuses=tuple(first),
        message=seen.sandbox_error if seen else "",
    )


def _phase(
    pod: Pod,
    first: Sequence[ContainerStatus],
    containers: Sequence[ContainerStatus],
    has_sandbox: bool,
) -> Literal["Pending", "Running", "Succeeded", "Failed"]:
    """Sidecars do not count: they end with the pod."""
    broken = [
        status
        for container, status in zip(pod.spec.init_containers, first, strict=True)
        if not container.is_sidecar
        and status.state.terminated is not None
        and status.state.terminated.exit_code
    ]
    if broken:
        return "Failed"
    ended = [
        status.state.terminated for status in containers if status.state.terminated is not None
    ]
    if (
        containers
        and len(ended) == len(containers)
        and (pod.spec.restart_policy != "Always" or pod.is_terminating)
    ):  # else they come back
        return "Succeeded" if all(end.exit_code == 0 for end in ended) else "Failed"
    never_started = any(
        status.state.waiting is not None and status.last_state.terminated is None
        for status in containers
    )
    return "Pending" if never_started or not has_sandbox else "Running"


def _conditions(
    pod: Pod,
    phase: str,
    first: Sequence[ContainerStatus],
    containers: Sequence[ContainerStatus],
    has_sandbox: bool,
    is_initialized: bool,
    now: float,
) -> tuple[Condition, ...]:
    waiting_for = [] if is_initialized else unfinished(pod.spec.init_containers, first)
    sidecars = [
        status
        for container, status in zip(pod.spec.init_containers, first, strict=True)
        if container.is_sidecar
    ]
    unready = [status.name for status in (*sidecars, *containers) if not status.ready]
    ended = {"Succeeded": "PodCompleted", "Failed": "PodFailed"}.get(phase, "")
    reason, message = (
        (ended, "")
        if ended
        else ("ContainersNotReady", f"containers with unready status: [{' '.join(unready)}]")
    )
    containers_ready = _condition("ContainersReady", not unready, reason, message)
    ready = structs.replace(containers_ready, type="Ready")
    given = conditions_in(pod.metadata.annotations.get(CONDITIONS_ANNOTATION, ""))
    if not unready and (faults := _gate_faults(pod, given)):
        ready = _condition("Ready", False, GATES_NOT_READY, ", ".join(faults))
    wanted = (
        _condition("PodReadyToStartContainers", has_sandbox),
        _condition(
            INITIALIZED,
            not waiting_for,
            "ContainersNotInitialized",
            f"containers with incomplete status: [{' '.join(waiting_for)}]",
        ),
        ready,
        containers_ready,
        _condition(SCHEDULED, True),
        *given,
    )
    return tuple(_dated(condition, pod, now) for condition in wanted)


def _gate_faults(pod: Pod, given: Sequence[Condition]) -> list[str]:
    """Return a sentence for each readiness gate of a pod whose condition is not True, in upstream's words.

    The annotation that makes a pod unready counts as a gate. Source: pkg/kubelet/status/generate.go (GeneratePodReadyCondition).
    """
    statuses: dict[str, str] = {condition.type: condition.status for condition in given}
    gates = [gate.condition_type for gate in pod.spec.readiness_gates]
    if pod.metadata.annotations.get(READY_ANNOTATION) == "false":
        gates.append(READY_ANNOTATION)
        statuses[READY_ANNOTATION] = "False"
    return [
        f'the status of pod readiness gate "{gate}" is not "True", but {statuses[gate]}'
        if gate in statuses
        else f'corresponding condition of pod readiness gate "{gate}" does not exist.'
        for gate in gates
        if statuses.get(gate) != "True"
    ]


def _condition(type_: str, holds: bool, reason: str = "", message: str = "") -> Condition:
    return Condition(type_, "True") if holds else Condition(type_, "False", reason, message)


def _dated(condition: Condition, pod: Pod, now: float) -> Condition:
    """The condition with the time since when it has been so."""
    before = pod.status.condition(condition.type)
    since = (
        before.last_transition_time
        if before is not None and before.status == condition.status
        else timestamp(now)
    )
    return structs.replace(condition, last_transition_time=since)


def _events(
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
        if ended is not None and ended.message == CHANGED:
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


def _unhealthy(
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


def _network_not_ready(cluster: Cluster, pod: Pod, now: float) -> Iterator[Change]:
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
