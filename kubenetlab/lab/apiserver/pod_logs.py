"""Container logs as Kubernetes' API serves them: whole, their end, or followed line by line."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from kubenetlab import names
from kubenetlab.api.pods import Pod
from kubenetlab.lab.agent.clients.log_files import ENDED_LOGS
from kubenetlab.lab.apiserver.statuses import ApiFaultError, is_enabled, number_of, with_warnings
from kubenetlab.lab.messages.app_worker import RunSelection
from kubenetlab.lab.runtime.container_logs import LogPart
from kubenetlab.lab.transport.http import Answer, Stream
from kubenetlab.programs.support.http import Request, Response

if TYPE_CHECKING:
    from kubenetlab.lab.agent.agent import Agent

FOLLOW_INTERVAL_S: Final = 0.1
"""Time between two reads of a log that a client follows, in seconds."""
_LOST: Final = (
    "is not kept any more: "
    f"a lab keeps the logs of the last {ENDED_LOGS} containers that have ended"
)


async def pod_log(agent: Agent, pod: Pod, request: Request) -> Answer:
    """Return the log of a container; a stream if the request has the parameter `follow`.

    Raises ApiFaultError (400) if the pod has no such container, if the container has not started,
    if it has no previous run to show, and for parameters with invalid values.
    """
    container = _container(pod, request)
    attempt = _latest_attempt(pod, container)
    tail_lines, since = _line_count(request, "tailLines"), _since(request)
    if is_enabled(request, "previous"):
        part = await _read_log(agent, pod, container, "previous")
        if part is None:
            raise ApiFaultError(
                400,
                "BadRequest",
                f'previous terminated container "{container}" in pod "{pod.name}" not found',
            )
    elif is_enabled(request, "follow"):
        return Stream(
            _follow(agent, pod, container, attempt, tail_lines, since),
            "text/plain; charset=utf-8",
        )
    else:
        part = await _read_log(agent, pod, container)
    response = Response(200, _text(part, tail_lines, since))
    if part is not None:
        return response
    return with_warnings(response, [f"the log of container {container} in pod {pod.name} {_LOST}"])


def _container(pod: Pod, request: Request) -> str:
    """Return the name of the container whose log is requested: the pod's first one by default."""
    containers = [container.name for container in (*pod.spec.containers, *pod.spec.init_containers)]
    container = request.query.get("container") or containers[0]
    if container not in containers:
        raise ApiFaultError(
            400,
            "BadRequest",
            f"container {container} is not valid for pod {pod.name}; "
            f"it has: {', '.join(containers)}",
        )
    return container


def _latest_attempt(pod: Pod, container: str) -> int:
    """Return the number of a container's latest run. Raises ApiFaultError (400) if it has none."""
    status = pod.container_status(container)
    if status is None or (
        status.state.waiting is not None
        and status.restart_count == 0
        and status.last_state.terminated is None
    ):
        reason = (
            status.state.waiting.reason if status and status.state.waiting else "it has no node"
        )
        raise ApiFaultError(
            400,
            "BadRequest",
            f'container "{container}" in pod "{pod.name}" is waiting to start: {reason}',
        )
    return status.restart_count


async def _read_log(
    agent: Agent,
    pod: Pod,
    container: str,
    which: RunSelection = "latest",
    *,
    after: int = 0,
    is_running: bool = False,
) -> LogPart | None:
    """Return the part of a run's log that follows position `after`; None if no log is kept."""
    netns = names.pod_netns(pod.namespace, pod.name, pod.uid)
    return await agent.runtime.logs(
        netns, container, pod.spec.node_name, which, after=after, is_running=is_running
    )


async def _follow(
    agent: Agent,
    pod: Pod,
    container: str,
    attempt: int,
    tail_lines: int | None,
    since: float | None,
) -> AsyncGenerator[bytes, None]:
    """Yield the log of a run, and every later line until the run has ended."""
    end = 0
    while True:
        current = agent.cluster.get(Pod, pod.namespace, pod.name)
        has_ended = (
            current is None or current.uid != pod.uid or _has_ended(current, container, attempt)
        )
        part = await _read_log(agent, pod, container, attempt, after=end, is_running=not has_ended)
        if part is not None and part.lines:
            yield _text(part, tail_lines, since)
        if has_ended:
            return
        if part is not None:
            end, tail_lines, since = part.end, None, None
        await asyncio.sleep(FOLLOW_INTERVAL_S)


def _has_ended(pod: Pod, container: str, attempt: int) -> bool:
    """Return True if a run of a container has ended, whether another one follows or not."""
    status = pod.container_status(container)
    if status is None or status.restart_count != attempt or status.state.terminated is not None:
        return True
    return status.state.running is None and status.last_state.terminated is not None


def _since(request: Request) -> float | None:
    """Return the time from which log lines are requested, in seconds since 1970.

    The parameter is `sinceSeconds` or `sinceTime`. Raises ApiFaultError (400) for both of them,
    and for a value that is not a number or a time.
    """
    seconds, moment = number_of(request, "sinceSeconds"), request.query.get("sinceTime")
    if seconds is not None and moment is not None:
        raise ApiFaultError(
            400, "BadRequest", "at most one of sinceTime and sinceSeconds may be specified"
        )
    if moment is None:
        return time.time() - seconds if seconds is not None else None
    try:
        parsed = datetime.fromisoformat(moment)
        return (parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise ApiFaultError(
            400,
            "BadRequest",
            f"sinceTime: expected a time such as 2026-01-31T12:00:00Z, found {moment}",
        ) from None


def _text(part: LogPart | None, tail_lines: int | None, since: float | None = None) -> bytes:
    """Return the last `tail_lines` lines (None: all) of those written at `since` or later."""
    if part is not None and since is not None:
        part = part.since(since)
    lines = part.lines if part is not None else []
    if tail_lines is not None:
        lines = lines[max(0, len(lines) - tail_lines) :]
    return "".join(f"{line}\n" for line in lines).encode()


def _line_count(request: Request, name: str) -> int | None:
    """Return a parameter that is a whole number. Raises ApiFaultError (400) for other values."""
    value = number_of(request, name)
    if value is not None and value != int(value):
        raise ApiFaultError(400, "BadRequest", f"{name}: expected a whole number, found {value:g}")
    return int(value) if value is not None else None
