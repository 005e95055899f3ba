"""Verdicts on pods and Jobs: ready, on the way, or stuck for a reason that time does not fix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Literal

from msgspec import Struct

from kubenetlab.api.batch import Job
from kubenetlab.api.containers import Container
from kubenetlab.api.core import Event
from kubenetlab.api.lab import Decisions
from kubenetlab.api.pods import (
    CONDITIONS_ANNOTATION,
    READY_ANNOTATION,
    ContainerStatus,
    Pod,
    Terminated,
)
from kubenetlab.api.store import Cluster
from kubenetlab.controllers.cluster.faults import stopping_fault
from kubenetlab.controllers.kubelet.containers import CONFIG_ERROR, CRASH_LOOP, termination_text
from kubenetlab.controllers.kubelet.kubelet import runtime_status_of
from kubenetlab.controllers.kubelet.pod_status import GATES_NOT_READY
from kubenetlab.controllers.scheduling.scheduler import SCHEDULED, SCHEDULING_GATED
from kubenetlab.programs import image_name, is_one_shot, runs_until_stopped, setup
from kubenetlab.programs.command import runs_own_command
from kubenetlab.programs.support.ending import ending_in

State = Literal["ready", "unready", "completed", "waiting", "stuck"]
"""State of a pod.

unready: on purpose, by an annotation, by scheduling gates or by a fault.
"""

_CREATION_EVENTS = ("FailedCreatePodSandBox", "NetworkNotReady")
"""Reasons of events about a sandbox that cannot be created."""


class PodVerdict(Struct, frozen=True):
    """Verdict on one pod."""

    pod: str
    """`namespace/name` of the pod."""
    state: State
    reason: str = ""
    """Reason for the state, for example of a stuck pod.

    Example: `CrashLoopBackOff: container main: exit status 1: listen tcp :80: bind: address already
    in use`.
    """

    @property
    def is_settled(self) -> bool:
        return self.state != "waiting"


class JobVerdict(Struct, frozen=True):
    """Verdict on one Job."""

    job: str
    """`namespace/name` of the Job."""
    state: Literal["complete", "failed", "waiting", "suspended"]
    """State of a Job.

    failed: also for a Job that can never complete. suspended: no pod should run, by `suspend` or
    `parallelism: 0`.
    """
    reason: str = ""


def job_verdicts(cluster: Cluster) -> list[JobVerdict]:
    """Return one verdict for each Job, in order."""
    return [_job_verdict(cluster, job) for job in cluster.all(Job)]


def _job_verdict(cluster: Cluster, job: Job) -> JobVerdict:
    name, status = job.full_name, job.status
    if job.outcome == "Complete":
        return JobVerdict(name, "complete")
    if job.outcome == "Failed":
        ended = next(condition for condition in status.conditions if condition.type == "Failed")
        return JobVerdict(name, "failed", f"{ended.reason}: {ended.message}")
    if job.spec.suspend or job.spec.max_parallel == 0:
        return JobVerdict(
            name,
            "suspended",
            "spec.suspend is true" if job.spec.suspend else "spec.parallelism is 0",
        )
    pods = cluster.owned_by(Pod, job)
    if endless := _endless(cluster, job, pods):
        return JobVerdict(name, "failed", endless)
    progress = f"{status.succeeded} of {job.spec.required_completions or 1} completed"
    ends = [
        status_
        for pod in pods
        for status_ in pod.status.container_statuses
        if (_end_of(status_) or _NO_END).exit_code
    ]
    if ends:
        latest = max(ends, key=lambda status_: (_end_of(status_) or _NO_END).finished_at or "")
        progress += (
            f"; container {latest.name} failed last: {termination_text(_end_of(latest) or _NO_END)}"
        )
    return JobVerdict(name, "waiting", progress)


def _endless(cluster: Cluster, job: Job, pods: Sequence[Pod]) -> str:
    """Return why a Job never ends by itself; empty if it does.

    A Job with a deadline fails in the end.
    """
    decisions = cluster.get(Decisions, "", "decisions")
    real_commands = decisions.real_commands if decisions is not None else ()
    if job.spec.active_deadline_seconds is not None:
        return ""
    for pod in pods[:1]:  # all pods have the same template
        for container in pod.spec.containers:
            is_built_in = not runs_own_command(pod.metadata.annotations, container, real_commands)
            if is_built_in and runs_until_stopped(container) and ending_in(pod, container) is None:
                program = " ".join((image_name(container.image), *container.args[:1]))
                return (
                    f"it never completes: container {container.name} runs {program} "
                    "until it is stopped"
                )
    return ""


_NO_END: Final = Terminated(0)
"""State of a container that has not ended yet."""


def _end_of(status: ContainerStatus) -> Terminated | None:
    """Return the last end of a container; None if it has not ended yet."""
    return status.state.terminated or status.last_state.terminated


def verdicts(cluster: Cluster) -> list[PodVerdict]:
    """Return one verdict for each pod that is not being deleted, in order.

    Failed pods of a Job that has not failed itself are left out, since the Job replaces them.
    """
    events: dict[str, str] = {}
    for entry in cluster.all(Event):
        if entry.reason in _CREATION_EVENTS:
            events[entry.involved_object.uid] = f"{entry.reason}: {entry.message}"
    retried = {
        pod.uid
        for job in cluster.all(Job)
        if job.outcome != "Failed"
        for pod in cluster.owned_by(Pod, job)
    }
    return [
        verdict(cluster, pod, events.get(pod.uid, ""), is_retried=pod.uid in retried)
        for pod in cluster.all(Pod)
        if not pod.is_terminating and not (pod.uid in retried and pod.status.phase == "Failed")
    ]


def verdict(
    cluster: Cluster, pod: Pod, creation_failure: str = "", *, is_retried: bool = False
) -> PodVerdict:
    """Return the verdict on a pod.

    creation_failure: message of its events about its sandbox.
    is_retried: True if a Job retries what its containers fail in.
    """
    name = pod.full_name
    if pod.status.phase == "Succeeded":
        return PodVerdict(name, "completed")
    if pod.is_ready:
        is_passing = any(will_end(pod, container) for container in pod.spec.long_running_containers)
        return PodVerdict(name, "waiting" if is_passing else "ready")
    containers_ready = pod.status.condition("ContainersReady")
    if (
        pod.metadata.annotations.get(READY_ANNOTATION) == "false"
        and containers_ready is not None
        and containers_ready.status == "True"
    ):
        return PodVerdict(name, "unready", f'annotation {READY_ANNOTATION} is "false"')
    if (at_gates := _at_readiness_gates(pod)) is not None:
        return at_gates
    scheduled = pod.status.condition(SCHEDULED)
    if scheduled is not None and scheduled.status == "False":
        state: State = "unready" if scheduled.reason == SCHEDULING_GATED else "stuck"
        return PodVerdict(name, state, f"{scheduled.reason}: {scheduled.message}")
    if pod.spec.node_name and cluster.node(pod.spec.node_name) is None:
        return PodVerdict(name, "stuck", f"spec.nodeName: there is no node {pod.spec.node_name}")
    if (fault := stopping_fault(cluster, pod)) is not None:
        return PodVerdict(name, "unready", fault.title)
    reason = next(_faults(cluster, pod, is_retried=is_retried), "")
    if not reason and pod.status.phase == "Pending":
        reason = creation_failure
    return PodVerdict(name, "stuck", reason) if reason else PodVerdict(name, "waiting")


def _at_readiness_gates(pod: Pod) -> PodVerdict | None:
    """Return the verdict of a pod that is unready only because of its readiness gates; else None.

    A condition that does not exist never appears by itself. A condition that exists and is not True
    was set on purpose.
    """
    ready = pod.status.condition("Ready")
    if ready is None or ready.reason != GATES_NOT_READY:
        return None
    reason = f"{ready.reason}: {ready.message}"
    missing = [
        gate.condition_type
        for gate in pod.spec.readiness_gates
        if pod.status.condition(gate.condition_type) is None
    ]
    if not missing:
        return PodVerdict(pod.full_name, "unready", reason)
    example = ",".join(f"{type_}=True" for type_ in missing)
    hint = f'(set it by the annotation {CONDITIONS_ANNOTATION}: "{example}")'
    return PodVerdict(pod.full_name, "stuck", f"{reason} {hint}")


def will_end(pod: Pod, container: Container) -> bool:
    """Return True if a container's program ends by itself and is not always restarted."""
    ends = ending_in(pod, container) is not None or is_one_shot(setup(container).program)
    return pod.spec.restart_policy != "Always" and ends


def _faults(cluster: Cluster, pod: Pod, *, is_retried: bool) -> Iterator[str]:
    """Yield the reasons why containers of a pod are stuck."""
    report = runtime_status_of(cluster, pod)
    for container in pod.container_statuses:
        ended = container.state.terminated or container.last_state.terminated
        detail = termination_text(ended) if ended else ""
        waits = container.state.waiting
        if waits is not None and waits.reason == CONFIG_ERROR:
            yield f"{CONFIG_ERROR}: container {container.name}: {waits.message}"
        elif waits is not None and waits.reason == CRASH_LOOP and not is_retried:
            yield f"{CRASH_LOOP}: container {container.name}: {detail}"
        elif (
            container.state.terminated is not None
            and container.state.terminated.exit_code
            and not is_retried
        ):
            yield f"Error: container {container.name}: {detail}"
        for kind in ("startup", "readiness"):
            probe = (
                report.probes.get(f"{container.name}/{kind}")
                if report and container.state.running
                else None
            )
            if (
                probe is not None
                and probe.attempt == container.restart_count
                and probe.is_settled
                and not probe.ok
            ):
                yield (
                    f"Unhealthy: container {container.name}: "
                    f"{kind.capitalize()} probe failed: {probe.message}"
                )
