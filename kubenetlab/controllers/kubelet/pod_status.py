"""Pod status: phase, conditions and addresses of a pod, computed from its runtime status.

Source: k8s.io/kubernetes pkg/kubelet/kubelet_pods.go (phase), status/generate.go (conditions),
1.33.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import structs

from kubenetlab.api.annotation_values import conditions_in
from kubenetlab.api.core import Node
from kubenetlab.api.lab import Kill, PodRuntimeStatus
from kubenetlab.api.meta import Condition, timestamp
from kubenetlab.api.pods import (
    CONDITIONS_ANNOTATION,
    READY_ANNOTATION,
    ContainerStatus,
    Pod,
    PodIP,
    PodStatus,
)
from kubenetlab.api.store import Cluster
from kubenetlab.controllers.cluster.faults import stopping_fault
from kubenetlab.controllers.kubelet.containers import (
    container_statuses,
    incomplete_init_containers,
    terminated_with_pod,
)
from kubenetlab.controllers.kubelet.environment import container_config_errors
from kubenetlab.controllers.nodes.ipam import attachment_of, is_attached
from kubenetlab.controllers.scheduling.scheduler import SCHEDULED

INITIALIZED = "Initialized"
GATES_NOT_READY = "ReadinessGatesNotReady"
"""Reason of the condition Ready."""


def pod_status(
    cluster: Cluster,
    pod: Pod,
    node: Node,
    runtime: PodRuntimeStatus | None,
    kills: Mapping[str, Kill],
    now: float,
) -> PodStatus:
    """Return the status of a pod that is bound to `node`.

    kills: container → kill that waits for a preStop hook.
    """
    has_sandbox = runtime is not None and runtime.sandbox_pid != 0 and is_attached(cluster, pod)
    initialized = pod.status.condition(INITIALIZED)
    is_initialized = has_sandbox and initialized is not None and initialized.status == "True"
    fault = stopping_fault(cluster, pod)
    stopped_by = fault.title if fault is not None else ""
    init_statuses, app_statuses = container_statuses(
        pod,
        runtime,
        now,
        container_config_errors(cluster, pod),
        kills,
        is_initialized=is_initialized,
        stopped_by=stopped_by,
    )
    phase = _phase(pod, init_statuses, app_statuses, has_sandbox)
    if phase in ("Succeeded", "Failed"):
        init_statuses = [terminated_with_pod(status, now) for status in init_statuses]
    addresses: tuple[str, ...] = ()
    if has_sandbox and pod.status.phase != "Failed":
        attachment = attachment_of(cluster, pod)
        addresses = (
            node.addresses if pod.spec.host_network else attachment.addresses if attachment else ()
        )
    return PodStatus(
        phase=phase,
        conditions=_conditions(
            pod, phase, init_statuses, app_statuses, has_sandbox, is_initialized, now
        ),
        host_ip=node.addresses[0] if node.addresses else "",
        host_ips=tuple(PodIP(address) for address in node.addresses),
        pod_ip=addresses[0] if addresses else "",
        pod_ips=tuple(PodIP(address) for address in addresses),
        start_time=pod.status.start_time or timestamp(now),
        container_statuses=tuple(app_statuses),
        init_container_statuses=tuple(init_statuses),
        message=runtime.sandbox_error if runtime else "",
    )


def _phase(
    pod: Pod,
    init_statuses: Sequence[ContainerStatus],
    app_statuses: Sequence[ContainerStatus],
    has_sandbox: bool,
) -> Literal["Pending", "Running", "Succeeded", "Failed"]:
    """Return the pod's phase. Sidecars do not count, because they end with the pod."""
    failed = [
        status
        for container, status in zip(pod.spec.init_containers, init_statuses, strict=True)
        if not container.is_sidecar
        and status.state.terminated is not None
        and status.state.terminated.exit_code
    ]
    if failed:
        return "Failed"
    ended = [
        status.state.terminated for status in app_statuses if status.state.terminated is not None
    ]
    if (
        app_statuses
        and len(ended) == len(app_statuses)
        and (pod.spec.restart_policy != "Always" or pod.is_terminating)  # else they restart
    ):
        return "Succeeded" if all(state.exit_code == 0 for state in ended) else "Failed"
    never_started = any(
        status.state.waiting is not None and status.last_state.terminated is None
        for status in app_statuses
    )
    return "Pending" if never_started or not has_sandbox else "Running"


def _conditions(
    pod: Pod,
    phase: str,
    init_statuses: Sequence[ContainerStatus],
    app_statuses: Sequence[ContainerStatus],
    has_sandbox: bool,
    is_initialized: bool,
    now: float,
) -> tuple[Condition, ...]:
    incomplete = (
        []
        if is_initialized
        else incomplete_init_containers(pod.spec.init_containers, init_statuses)
    )
    sidecars = [
        status
        for container, status in zip(pod.spec.init_containers, init_statuses, strict=True)
        if container.is_sidecar
    ]
    unready = [status.name for status in (*sidecars, *app_statuses) if not status.ready]
    ended = {"Succeeded": "PodCompleted", "Failed": "PodFailed"}.get(phase, "")
    reason, message = (
        (ended, "")
        if ended
        else ("ContainersNotReady", f"containers with unready status: [{' '.join(unready)}]")
    )
    containers_ready = _condition("ContainersReady", not unready, reason, message)
    ready = structs.replace(containers_ready, type="Ready")
    given = conditions_in(pod.metadata.annotations.get(CONDITIONS_ANNOTATION, ""))
    if not unready and (messages := _gate_messages(pod, given)):
        ready = _condition("Ready", False, GATES_NOT_READY, ", ".join(messages))
    conditions = (
        _condition("PodReadyToStartContainers", has_sandbox),
        _condition(
            INITIALIZED,
            not incomplete,
            "ContainersNotInitialized",
            f"containers with incomplete status: [{' '.join(incomplete)}]",
        ),
        ready,
        containers_ready,
        _condition(SCHEDULED, True),
        *given,
    )
    return tuple(_with_transition_time(condition, pod, now) for condition in conditions)


def _gate_messages(pod: Pod, given: Sequence[Condition]) -> list[str]:
    """Return upstream's message for each readiness gate of the pod whose condition is not True.

    The annotation that makes a pod unready counts as a gate.
    Source: pkg/kubelet/status/generate.go (GeneratePodReadyCondition).
    """
    gate_statuses: dict[str, str] = {condition.type: condition.status for condition in given}
    gates = [gate.condition_type for gate in pod.spec.readiness_gates]
    if pod.metadata.annotations.get(READY_ANNOTATION) == "false":
        gates.append(READY_ANNOTATION)
        gate_statuses[READY_ANNOTATION] = "False"
    return [
        f'the status of pod readiness gate "{gate}" is not "True", but {gate_statuses[gate]}'
        if gate in gate_statuses
        else f'corresponding condition of pod readiness gate "{gate}" does not exist.'
        for gate in gates
        if gate_statuses.get(gate) != "True"
    ]


def _condition(type_: str, holds: bool, reason: str = "", message: str = "") -> Condition:
    return Condition(type_, "True") if holds else Condition(type_, "False", reason, message)


def _with_transition_time(condition: Condition, pod: Pod, now: float) -> Condition:
    """Return the condition with the time of its last change."""
    before = pod.status.condition(condition.type)
    since = (
        before.last_transition_time
        if before is not None and before.status == condition.status
        else timestamp(now)
    )
    return structs.replace(condition, last_transition_time=since)
