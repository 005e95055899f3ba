"""Container statuses: the state of each container of a pod, computed from its runtime status.

A terminated container is started again after 0, 10, 20, 40 … 300 seconds: sidecars always, others
as the pod's restartPolicy says. An init container that succeeded is not started again. No other
probe counts until the startup probe has succeeded.
Source: k8s.io/kubernetes
pkg/kubelet/kuberuntime/{kuberuntime_container.go,kuberuntime_manager.go} (back-off, init
containers), 1.33.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import structs

from kubenetlab.api.containers import Container
from kubenetlab.api.lab import ContainerReport, Kill, PodRuntimeStatus
from kubenetlab.api.meta import seconds, timestamp
from kubenetlab.api.pods import ContainerState, ContainerStatus, Pod, Running, Terminated, Waiting
from kubenetlab.controllers.kubelet.killing import is_kill, kill_of, killed_at

FIRST_BACK_OFF_S = 10
MAX_BACK_OFF_S = 300

CREATING = "ContainerCreating"
INITIALIZING = "PodInitializing"
CONFIG_ERROR = "CreateContainerConfigError"
CRASH_LOOP = "CrashLoopBackOff"
KILLED_EXIT_CODE = 137
"""Exit code of a process that SIGKILL ended: 128 + 9."""
CHANGED_MESSAGE = "Container definition changed, will be restarted"
"""Message of a container that was ended because its image changed."""
STOPPED_PREFIX = "stopped by"
"""Start of the message of a container that a fault has ended."""
OOM_KILLED = "OOMKilled"
"""Reason of a container in which the kernel killed a process because of its memory limit."""
KILLED = "killed by signal"
"""Start of the message of a container that a signal has ended."""

ContainerRole = Literal["init", "sidecar", "app"]


def should_run(status: ContainerStatus) -> bool:
    """Return True when the container is running or about to be started.

    It is not while it waits for other containers or a back-off, or has terminated.
    """
    return status.state.running is not None or (
        status.state.waiting is not None and status.state.waiting.reason == CREATING
    )


def back_off_s(restarts: int) -> int:
    """Return the delay before the next start in seconds; 0 without restarts."""
    return min(FIRST_BACK_OFF_S * 2 ** min(restarts - 1, 10), MAX_BACK_OFF_S) if restarts else 0


def next_start(status: ContainerStatus) -> float | None:
    """Return the end of the container's back-off in seconds since 1970; None without one."""
    waiting, last = status.state.waiting, status.last_state.terminated
    if waiting is None or waiting.reason != CRASH_LOOP or last is None:
        return None
    return seconds(last.finished_at or "") + back_off_s(status.restart_count)


def termination_text(terminated: Terminated) -> str:
    """Return a terminated container's exit status and message: `exit status 3: bye`.

    Return only the message when the container was ended from outside.
    """
    if terminated.reason == OOM_KILLED:
        return f"{OOM_KILLED}: {terminated.message}"
    if is_kill(terminated.message) or terminated.message.startswith(
        (KILLED, CHANGED_MESSAGE, STOPPED_PREFIX)
    ):
        return terminated.message
    return f"exit status {terminated.exit_code}" + (
        f": {terminated.message}" if terminated.message else ""
    )


def container_statuses(
    pod: Pod,
    runtime: PodRuntimeStatus | None,
    now: float,
    config_errors: Mapping[str, str],
    kills: Mapping[str, Kill],
    *,
    is_initialized: bool,
    stopped_by: str = "",
) -> tuple[list[ContainerStatus], list[ContainerStatus]]:
    """Return the statuses of a pod's containers: (init containers and sidecars, app containers).

    Init containers run one after the other: before the next one starts, a sidecar must have started
    and every other must have succeeded. A pod stays initialized as long as its sandbox lives.

    runtime: state that the node reported; None before the first report.
    config_errors: container → reason why it cannot be started.
    kills: container → kill that waits for a preStop hook.
    stopped_by: reason why none of the containers may run; empty when they may.
    """
    may_start = True
    init_statuses: list[ContainerStatus] = []
    for container in pod.spec.init_containers:
        role: ContainerRole = "sidecar" if container.is_sidecar else "init"
        status = _status(
            pod,
            container,
            role,
            runtime,
            kills,
            now,
            _waiting_state(container, config_errors, may_start=may_start or is_initialized),
        )
        status = _stopped_status(pod, status, stopped_by, now) if stopped_by else status
        init_statuses.append(status)
        may_start = may_start and allows_next(container, status)
    may_start = may_start or is_initialized
    app_statuses: list[ContainerStatus] = []
    for container in pod.spec.containers:
        app_statuses.append(
            _status(
                pod,
                container,
                "app",
                runtime,
                kills,
                now,
                _waiting_state(container, config_errors, may_start=may_start),
            )
        )
        may_start = may_start and not _is_in_first_hook(container, app_statuses[-1])
    return init_statuses, [
        _stopped_status(pod, status, stopped_by, now) if stopped_by else status
        for status in app_statuses
    ]


def _is_in_first_hook(container: Container, status: ContainerStatus) -> bool:
    """Return True while the first postStart hook runs: the next container waits for it."""
    is_waiting = status.state.waiting is not None and status.last_state.terminated is None
    return container.lifecycle.post_start is not None and is_waiting and not status.restart_count


def _stopped_status(
    pod: Pod, status: ContainerStatus, stopped_by: str, now: float
) -> ContainerStatus:
    """Return the status of a container that a fault has ended and keeps from restarting."""
    before = pod.container_status(status.name)
    if before is not None and _was_stopped(before):
        return before
    started_at = status.state.running.started_at if status.state.running is not None else None
    terminated = Terminated(
        KILLED_EXIT_CODE,
        "Error",
        f"{STOPPED_PREFIX} {stopped_by}",
        started_at=started_at,
        finished_at=timestamp(now),
    )
    return structs.replace(
        status, state=ContainerState(terminated=terminated), ready=False, started=False
    )


def _was_stopped(status: ContainerStatus) -> bool:
    return status.state.terminated is not None and status.state.terminated.message.startswith(
        STOPPED_PREFIX
    )


def allows_next(container: Container, status: ContainerStatus) -> bool:
    """Return True when the next init container may start after this one.

    That is: an init container has succeeded, or a sidecar has started.
    """
    if container.is_sidecar:
        return status.started
    return status.state.terminated is not None and status.state.terminated.exit_code == 0


def _waiting_state(
    container: Container, config_errors: Mapping[str, str], *, may_start: bool
) -> ContainerState:
    """Return the state of a container that is not running yet."""
    if not may_start:
        return ContainerState(waiting=Waiting(INITIALIZING))
    if container.name in config_errors:
        return ContainerState(waiting=Waiting(CONFIG_ERROR, config_errors[container.name]))
    return ContainerState(waiting=Waiting(CREATING))


def _status(
    pod: Pod,
    container: Container,
    role: ContainerRole,
    runtime: PodRuntimeStatus | None,
    kills: Mapping[str, Kill],
    now: float,
    waiting_state: ContainerState,
) -> ContainerStatus:
    """Return the status of one container.

    waiting_state: its state while it is not running, or before a restart.
    """
    before = pod.container_status(container.name)
    attempt = before.restart_count if before else 0
    last = before.last_state if before else ContainerState()
    report = runtime.containers.get(container.name) if runtime else None
    base = ContainerStatus(
        container.name, restart_count=attempt, image=container.image, last_state=last
    )
    # The container was lost together with its sandbox.
    if report is None and before is not None and before.state.running is not None:
        lost = Terminated(
            KILLED_EXIT_CODE,
            "Error",
            started_at=before.state.running.started_at,
            finished_at=timestamp(now),
        )
        return structs.replace(
            base,
            restart_count=attempt + 1,
            state=waiting_state,
            last_state=ContainerState(terminated=lost),
        )
    if before is not None and _was_stopped(before):
        return structs.replace(
            base, restart_count=attempt + 1, state=waiting_state, last_state=before.state
        )
    if report is None or report.attempt != attempt:
        return structs.replace(base, state=waiting_state)
    terminated = _run_end(pod, container, report, runtime, kills, now)
    if (
        terminated is None
        and before is not None
        and before.image != container.image
        and role == "app"
    ):
        terminated = Terminated(
            0,
            "Completed",
            CHANGED_MESSAGE,
            started_at=timestamp(report.at),
            finished_at=timestamp(now),
        )
        return structs.replace(
            base,
            restart_count=attempt + 1,
            state=waiting_state,
            last_state=ContainerState(terminated=terminated),
        )
    if terminated is None and _awaits_post_start(container, runtime, attempt):
        return structs.replace(base, state=ContainerState(waiting=Waiting(CREATING)))
    if terminated is None:
        started = container.startup_probe is None or _passes(container, "startup", runtime, attempt)
        ready = started and _passes(container, "readiness", runtime, attempt)
        return structs.replace(
            base,
            state=ContainerState(running=Running(timestamp(report.at))),
            ready=ready,
            started=started,
        )
    if _is_final(pod, role, terminated):
        is_done = role == "init" and terminated.exit_code == 0
        return structs.replace(
            base, state=ContainerState(terminated=terminated), ready=is_done, started=False
        )
    delay_s = back_off_s(attempt)
    if now < seconds(terminated.finished_at or "") + delay_s:
        message = (
            f"back-off {delay_s}s restarting failed container={container.name}"
            f" pod={pod.name}_{pod.namespace}({pod.uid})"
        )
        state = ContainerState(waiting=Waiting(CRASH_LOOP, message))
        return structs.replace(base, state=state, last_state=ContainerState(terminated=terminated))
    return structs.replace(
        base,
        restart_count=attempt + 1,
        state=waiting_state,
        last_state=ContainerState(terminated=terminated),
    )


def _is_final(pod: Pod, role: ContainerRole, terminated: Terminated) -> bool:
    """Return True when a terminated container is not started again."""
    if pod.is_terminating:
        return True
    policy = pod.spec.restart_policy
    if role == "sidecar":
        return False
    if role == "init":
        return terminated.exit_code == 0 or policy == "Never"
    return policy == "Never" or (policy == "OnFailure" and terminated.exit_code == 0)


def _run_end(
    pod: Pod,
    container: Container,
    report: ContainerReport,
    runtime: PodRuntimeStatus | None,
    kills: Mapping[str, Kill],
    now: float,
) -> Terminated | None:
    """Return how this run of the container ended; None while it goes on."""
    if report.state != "running":
        reason = report.reason or ("Completed" if report.exit_code == 0 else "Error")
        return Terminated(
            report.exit_code, reason, report.message, finished_at=timestamp(report.at)
        )
    kill = kill_of(pod, container, report.attempt, runtime, kills) if runtime is not None else None
    at = (
        killed_at(pod, container, kill, runtime, now)
        if kill is not None and runtime is not None
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


def _awaits_post_start(
    container: Container, runtime: PodRuntimeStatus | None, attempt: int
) -> bool:
    """Return True until the container's postStart hook has succeeded.

    Until then the container does not count as running.
    """
    hook = runtime.hook(container.name, "postStart", attempt) if runtime is not None else None
    return container.lifecycle.post_start is not None and (hook is None or not hook.ok)


def _passes(
    container: Container,
    kind: Literal["startup", "readiness"],
    runtime: PodRuntimeStatus | None,
    attempt: int,
) -> bool:
    """Return True when the latest result of a probe of this run is a success."""
    report = runtime.probes.get(f"{container.name}/{kind}") if runtime else None
    return report is not None and report.attempt == attempt and report.ok


def terminated_with_pod(status: ContainerStatus, now: float) -> ContainerStatus:
    """Return the status of a sidecar after its pod has finished: terminated."""
    if status.state.running is None:
        return status
    terminated = Terminated(
        0, "Completed", started_at=status.state.running.started_at, finished_at=timestamp(now)
    )
    return structs.replace(
        status, state=ContainerState(terminated=terminated), ready=False, started=False
    )


def incomplete_init_containers(
    containers: Sequence[Container], statuses: Sequence[ContainerStatus]
) -> list[str]:
    """Return the names of the init containers that later containers wait for."""
    return [
        status.name
        for container, status in zip(containers, statuses, strict=True)
        if not allows_next(container, status)
    ]
