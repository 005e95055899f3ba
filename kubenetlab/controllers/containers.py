"""Containers: how one container is, from what was seen of it on its node.

What ends is started again after 0, 10, 20, 40 … 300 seconds: sidecars always, others as the pod's restartPolicy says; an init
container that ended well has done its work. Until a startup probe has answered well no other is asked.
Source: k8s.io/kubernetes pkg/kubelet/kuberuntime/{kuberuntime_container.go,kuberuntime_manager.go} (back-off, init containers), 1.33.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import structs

from kubenetlab.api.containers import Container
from kubenetlab.api.lab import ContainerReport, Kill, PodRuntimeStatus
from kubenetlab.api.meta import seconds, timestamp
from kubenetlab.api.pods import ContainerState, ContainerStatus, Pod, Running, Terminated, Waiting
from kubenetlab.controllers.killing import is_kill, kill_of, killed_at

FIRST_BACK_OFF_S = 10
MAX_BACK_OFF_S = 300

CREATING = "ContainerCreating"
INITIALIZING = "PodInitializing"
CONFIG_ERROR = "CreateContainerConfigError"
CRASH_LOOP = "CrashLoopBackOff"
KILLED_EXIT_CODE = 137
CHANGED_MESSAGE = "Container definition changed, will be restarted"
STOPPED_PREFIX = "stopped by"
"""How the message begins of a container that a fault has ended."""
OOM_KILLED = "OOMKilled"
"""Reason of a container in which the kernel killed a process for its memory limit."""
KILLED = "killed by signal"
"""How the message begins of a container that a signal ended."""

ContainerRole = Literal["init", "sidecar", "app"]


def should_run(status: ContainerStatus) -> bool:
    """True when the container is running or about to be started: not while it waits for others or out a back-off, or has ended."""
    return status.state.running is not None or (
        status.state.waiting is not None and status.state.waiting.reason == CREATING
    )


def back_off_s(restarts: int) -> int:
    """How long to wait before the next start, after so many restarts: the first follows at once."""
    return min(FIRST_BACK_OFF_S * 2 ** min(restarts - 1, 10), MAX_BACK_OFF_S) if restarts else 0


def next_start(status: ContainerStatus) -> float | None:
    """When a container that waits out a back-off is started again."""
    waiting, ended = status.state.waiting, status.last_state.terminated
    if waiting is None or waiting.reason != CRASH_LOOP or ended is None:
        return None
    return seconds(ended.finished_at or "") + back_off_s(status.restart_count)


def how_it_ended(ended: Terminated) -> str:
    """`exit status 3: bye`: a container's exit status and its last words; only what ended it, where that was somebody else."""
    if ended.reason == OOM_KILLED:
        return f"{OOM_KILLED}: {ended.message}"
    if is_kill(ended.message) or ended.message.startswith(
        (KILLED, CHANGED_MESSAGE, STOPPED_PREFIX)
    ):
        return ended.message
    return f"exit status {ended.exit_code}" + (f": {ended.message}" if ended.message else "")


def container_statuses(
    pod: Pod,
    seen: PodRuntimeStatus | None,
    now: float,
    faults: Mapping[str, str],
    kills: Mapping[str, Kill],
    *,
    is_initialized: bool,
    stopped: str = "",
) -> tuple[list[ContainerStatus], list[ContainerStatus]]:
    """Return the statuses of a pod's containers: (init containers and sidecars, app containers).

    One init container runs after the other: a sidecar must have started, the others must have ended well. Once a pod is
    initialized it stays so as long as its sandbox lives.

    faults: why a container cannot be started, by container.
    kills: those that wait for a preStop hook, by container.
    stopped: why none of the containers may run; empty when they may.
    """
    may_start = True
    first: list[ContainerStatus] = []
    for container in pod.spec.init_containers:
        part: ContainerRole = "sidecar" if container.is_sidecar else "init"
        status = _status(
            pod,
            container,
            part,
            seen,
            kills,
            now,
            _waits(container, faults, may_start=may_start or is_initialized),
        )
        status = _stopped(pod, status, stopped, now) if stopped else status
        first.append(status)
        may_start = may_start and allows_next(container, status)
    may_start = may_start or is_initialized
    rest: list[ContainerStatus] = []
    for container in pod.spec.containers:
        rest.append(
            _status(
                pod,
                container,
                "app",
                seen,
                kills,
                now,
                _waits(container, faults, may_start=may_start),
            )
        )
        may_start = may_start and not _is_in_first_hook(container, rest[-1])
    return first, [_stopped(pod, status, stopped, now) if stopped else status for status in rest]


def _is_in_first_hook(container: Container, status: ContainerStatus) -> bool:
    """Return True while a container's postStart hook has not ended for the first time: the next container waits for that."""
    waits = status.state.waiting is not None and status.last_state.terminated is None
    return container.lifecycle.post_start is not None and waits and not status.restart_count


def _stopped(pod: Pod, status: ContainerStatus, why: str, now: float) -> ContainerStatus:
    """A container that was ended on purpose, and is not started again before the reason has gone."""
    before = pod.container_status(status.name)
    if before is not None and _was_stopped(before):
        return before
    since = status.state.running.started_at if status.state.running is not None else None
    ended = Terminated(
        KILLED_EXIT_CODE,
        "Error",
        f"{STOPPED_PREFIX} {why}",
        started_at=since,
        finished_at=timestamp(now),
    )
    return structs.replace(
        status, state=ContainerState(terminated=ended), ready=False, started=False
    )


def _was_stopped(status: ContainerStatus) -> bool:
    return status.state.terminated is not None and status.state.terminated.message.startswith(
        STOPPED_PREFIX
    )


def allows_next(container: Container, status: ContainerStatus) -> bool:
    """True when an init container has done its work, or a sidecar has started: the next may come."""
    if container.is_sidecar:
        return status.started
    return status.state.terminated is not None and status.state.terminated.exit_code == 0


def _waits(container: Container, faults: Mapping[str, str], *, may_start: bool) -> ContainerState:
    """How a container is that does not run yet."""
    if not may_start:
        return ContainerState(waiting=Waiting(INITIALIZING))
    if container.name in faults:
        return ContainerState(waiting=Waiting(CONFIG_ERROR, faults[container.name]))
    return ContainerState(waiting=Waiting(CREATING))


def _status(
    pod: Pod,
    container: Container,
    part: ContainerRole,
    seen: PodRuntimeStatus | None,
    kills: Mapping[str, Kill],
    now: float,
    waits: ContainerState,
) -> ContainerStatus:
    """`waits` is its state when it does not run yet, or is to be started again."""
    before = pod.container_status(container.name)
    attempt = before.restart_count if before else 0
    last = before.last_state if before else ContainerState()
    report = seen.containers.get(container.name) if seen else None
    base = ContainerStatus(
        container.name, restart_count=attempt, image=container.image, last_state=last
    )
    if (
        report is None and before is not None and before.state.running is not None
    ):  # its sandbox has gone, and it with it
        lost = Terminated(
            KILLED_EXIT_CODE,
            "Error",
            started_at=before.state.running.started_at,
            finished_at=timestamp(now),
        )
        return structs.replace(
            base, restart_count=attempt + 1, state=waits, last_state=ContainerState(terminated=lost)
        )
    if before is not None and _was_stopped(before):
        return structs.replace(
            base, restart_count=attempt + 1, state=waits, last_state=before.state
        )
    if report is None or report.attempt != attempt:
        return structs.replace(base, state=waits)
    ended = _ended(pod, container, report, seen, kills, now)
    if ended is None and before is not None and before.image != container.image and part == "app":
        ended = Terminated(
            0,
            "Completed",
            CHANGED_MESSAGE,
            started_at=timestamp(report.at),
            finished_at=timestamp(now),
        )
        return structs.replace(
            base,
            restart_count=attempt + 1,
            state=waits,
            last_state=ContainerState(terminated=ended),
        )
    if ended is None and _awaits_post_start(container, seen, attempt):
        return structs.replace(base, state=ContainerState(waiting=Waiting(CREATING)))
    if ended is None:
        started = container.startup_probe is None or _passes(container, "startup", seen, attempt)
        ready = started and _passes(container, "readiness", seen, attempt)
        return structs.replace(
            base,
            state=ContainerState(running=Running(timestamp(report.at))),
            ready=ready,
            started=started,
        )
    if _is_final(pod, part, ended):
        is_done = part == "init" and ended.exit_code == 0
        return structs.replace(
            base, state=ContainerState(terminated=ended), ready=is_done, started=False
        )
    wait = back_off_s(attempt)
    if now < seconds(ended.finished_at or "") + wait:
        message = f"back-off {wait}s restarting failed container={container.name} pod={pod.name}_{pod.namespace}({pod.uid})"
        state = ContainerState(waiting=Waiting(CRASH_LOOP, message))
        return structs.replace(base, state=state, last_state=ContainerState(terminated=ended))
    return structs.replace(
        base, restart_count=attempt + 1, state=waits, last_state=ContainerState(terminated=ended)
    )


def _is_final(pod: Pod, part: ContainerRole, ended: Terminated) -> bool:
    """True when a container that has ended is not started again."""
    if pod.is_terminating:
        return True
    policy = pod.spec.restart_policy
    if part == "sidecar":
        return False
    if part == "init":
        return ended.exit_code == 0 or policy == "Never"
    return policy == "Never" or (policy == "OnFailure" and ended.exit_code == 0)


def _ended(
    pod: Pod,
    container: Container,
    report: ContainerReport,
    seen: PodRuntimeStatus | None,
    kills: Mapping[str, Kill],
    now: float,
) -> Terminated | None:
    """Return how this run ended, or None while it goes on."""
    if report.state != "running":
        reason = report.reason or ("Completed" if report.exit_code == 0 else "Error")
        return Terminated(
            report.exit_code, reason, report.message, finished_at=timestamp(report.at)
        )
    kill = kill_of(pod, container, report.attempt, seen, kills) if seen is not None else None
    at = (
        killed_at(pod, container, kill, seen, now)
        if kill is not None and seen is not None
        else None
    )
    if kill is None or at is None:
        return None
    return Terminated(
        KILLED_EXIT_CODE,
        "Error",
        kill.message,
        started_at=timestamp(report.at),
        finished_at=timestamp(at),
    )


def _awaits_post_start(container: Container, seen: PodRuntimeStatus | None, attempt: int) -> bool:
    """Return True until a container's postStart hook has succeeded: until then the container does not count as running."""
    hook = seen.hook(container.name, "postStart", attempt) if seen is not None else None
    return container.lifecycle.post_start is not None and (hook is None or not hook.ok)


def _passes(
    container: Container,
    kind: Literal["startup", "readiness"],
    seen: PodRuntimeStatus | None,
    attempt: int,
) -> bool:
    report = seen.probes.get(f"{container.name}/{kind}") if seen else None
    return report is not None and report.attempt == attempt and report.ok


def terminated_with_pod(status: ContainerStatus, now: float) -> ContainerStatus:
    """A sidecar once its pod has ended: it is ended too."""
    if status.state.running is None:
        return status
    ended = Terminated(
        0, "Completed", started_at=status.state.running.started_at, finished_at=timestamp(now)
    )
    return structs.replace(
        status, state=ContainerState(terminated=ended), ready=False, started=False
    )


def incomplete_init_containers(
    containers: Sequence[Container], known: Sequence[ContainerStatus]
) -> list[str]:
    """The names of the init containers that the others still wait for."""
    return [
        status.name
        for container, status in zip(containers, known, strict=True)
        if not allows_next(container, status)
    ]
