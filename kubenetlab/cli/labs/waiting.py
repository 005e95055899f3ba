"""Wait until all pods of a lab are ready and all Jobs have ended, or until an error prevents it."""

from __future__ import annotations

import errno
import os
import re
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final, NoReturn

import typer

from kubenetlab.api.json_types import JsonObject
from kubenetlab.cli.terminal.printing import echo, hint, note, print_failures
from kubenetlab.cli.terminal.theme import BAD, HEADING, MUTED, paint
from kubenetlab.lab import rundir
from kubenetlab.lab.paths import LAB_API, WHOLE_LAB

RETRY_INTERVAL_S: Final = 0.05
"""Time between two requests to an agent that closes the connection without a reply, in seconds.

The progress itself is a stream of the API. The requests end at the timeout of the command.
"""

ANSWER_TIMEOUT_S: Final = 1.0
"""Maximum time for an answer after Ctrl-C, in seconds."""

_SANDBOX_ID: Final = re.compile(r' for sandbox "[0-9a-f]{64}"')
"""Identifier of a sandbox in the kubelet's message about a CNI plugin."""

_MAX_LINES: Final = 10
"""Maximum number of lines of each kind of problem."""

State = JsonObject
"""One line of the API's `settled` stream: pods and Jobs by state, failures, diagnostics."""


def wait(
    name: str, timeout_s: float, started: float, on_diagnostics: Callable[[list[Any]], bool]
) -> None:
    """Wait until every pod is ready or cannot become ready, then print a summary.

    Exits with status 1 and prints the reasons if a pod is not ready, a Job failed, or a diagnostic
    says that the lab cannot work.

    started: value of `time.monotonic()` when the command started.
    on_diagnostics: called with the lab's diagnostics, before the summary; it returns False if the
        lab cannot work.
    """
    state = _wait_until_settled(name, timeout_s)
    failed_jobs = _jobs(state, "failed")
    daemons = state.get("daemons", [])  # an agent of an older version sends none
    is_fine = state["settled"] and not state["stuck"] and not failed_jobs and not daemons
    has_reason = (
        state["failures"]
        or state["stuck"]
        or state["waiting"]
        or _jobs(state, "failed", "waiting")
        or daemons
    )
    _print_problems(state, timeout_s)
    if not is_fine and not has_reason:
        note(f"{paint('not settled:', BAD)} after {timeout_s:g} s the lab is still changing")
    can_work = on_diagnostics(state.get("diagnostics", []))  # an older agent sends none
    took = paint(f"({time.monotonic() - started:.2f} s)", MUTED)
    unready = f", {len(state['unready'])} unready on purpose" if state["unready"] else ""
    echo(
        f"lab {paint(name, HEADING)}: "
        f"{state['ready']} of {state['total']} pods ready{unready} {took}"
    )
    hint("kubenetlab ping" if is_fine else _next_after_failure(state), name_if_ambiguous(name))
    if not (is_fine and can_work):
        sys.stdout.flush()
        raise typer.Exit(1)


def _wait_until_settled(name: str, timeout_s: float) -> State:
    """Return the last state the agent reports: settled, or timed out.

    The agent may die while it reports; the request is then sent to its successor.
    Raises LabError if no agent replies before the timeout.
    """
    from kubenetlab.cli.labs.progress import WaitProgress
    from kubenetlab.errors import LabError
    from kubenetlab.lab.client import Client

    deadline = time.monotonic() + timeout_s
    progress = WaitProgress()
    state: State = {"settled": False, "timeout": False, "waiting": [], "jobs": []}
    try:
        while not (state["settled"] or state["timeout"]):
            left_s = max(0.0, deadline - time.monotonic())
            has_reply = False
            for line in Client(name).stream(f"{LAB_API}/settled", timeout=str(left_s)):
                has_reply, state = True, line
                progress.update(line)
            if not has_reply and not left_s:
                raise LabError(
                    f"the agent of lab {name} closes the connection without a reply; "
                    f"see its log: {rundir.run_directory(name)}/log"
                )
            if not has_reply:
                time.sleep(RETRY_INTERVAL_S)
    except KeyboardInterrupt:
        progress.stop()
        _stop_waiting(name, _latest(name, state)["waiting"])
    progress.stop()
    return state


def _latest(name: str, last: State) -> State:
    """Return the agent's present state; the last one if it does not answer at once."""
    from kubenetlab.errors import LabError
    from kubenetlab.lab.client import Client

    with suppress(LabError):
        for line in Client(name, ANSWER_TIMEOUT_S).stream(f"{LAB_API}/settled", timeout="0"):
            last = line
    return last


def _print_problems(state: State, timeout_s: float) -> None:
    """Print failed operations, and pods and Jobs that are not ready, with the reasons."""
    waited = f"after {timeout_s:g} s still waiting for"
    not_ready = paint("not ready:", BAD)
    print_failures(state["failures"], _MAX_LINES)
    by_reason = _pods_by_reason(state["stuck"])
    _print_first(
        (f"{not_ready} {_first_names(pods)}: {reason}" for reason, pods in by_reason.items()),
        "reasons: kubenetlab get pods -A",
    )
    if state["waiting"]:
        note(f"{not_ready} {waited} {_first_names(state['waiting'])}")
    _print_first(
        (
            f"{not_ready} {f'{waited} ' if daemon['state'] == 'waiting' else ''}"
            f"daemon {daemon['daemon']}: {daemon['reason']}"
            for daemon in state.get("daemons", [])
        ),
        "daemons: kubenetlab get pods -n kube-system",
    )
    for kind, title in (
        ("failed", paint("failed:", BAD)),
        ("waiting", f"{paint('not complete:', BAD)} {waited}"),
        ("suspended", "suspended:"),
    ):
        lines = (f"{title} Job {job['job']}: {job['reason']}" for job in _jobs(state, kind))
        _print_first(lines, "Jobs: kubenetlab get jobs -A")
    if state["unready"]:
        note(f"unready on purpose: {_first_names(state['unready'])}")


def _print_first(lines: Iterable[str], others: str) -> None:
    """Print the first lines of a list. `others`: noun for the others, and where to see them."""
    shown = list(lines)
    for line in shown[:_MAX_LINES]:
        note(line)
    if len(shown) > _MAX_LINES:
        note(f"  … and {len(shown) - _MAX_LINES} more {others}")


def _jobs(state: State, *states: str) -> list[dict[str, str]]:
    return [job for job in state["jobs"] if job["state"] in states]


def _next_after_failure(state: State) -> str:
    """Return the next step after a failed `up`.

    A missing CNI plugin and a full disk come first: nothing else changes before they are fixed.
    Otherwise it is the command that describes the first pod or Job that is not ready.
    """
    if any(
        "NetworkPluginNotReady" in entry["reason"]
        or "node.kubernetes.io/not-ready" in entry["reason"]
        for entry in state["stuck"]
    ):
        if state.get("has_network"):
            return "kubenetlab describe node"
        return "install a network: kubenetlab up --cni bridge"
    no_space = os.strerror(errno.ENOSPC)
    if any(place == WHOLE_LAB and no_space in text for place, text in state["failures"].items()):
        return f"free disk space in {rundir.base_directory()}, then: kubenetlab up"
    pods = [entry["pod"] for entry in state["stuck"]] or state["waiting"]
    jobs = [job["job"] for job in _jobs(state, "failed", "waiting")]
    for kind, names in (("pod", pods), ("job", jobs)):
        if names:
            namespace, _, name = names[0].partition("/")
            return f"kubenetlab describe {kind} {name} -n {namespace}"
    return "kubenetlab diff"


def _stop_waiting(name: str, waiting: list[str]) -> NoReturn:
    """Exit after Ctrl-C: the lab stays up, and its pods continue to start."""
    from kubenetlab.lab.up import STOPPED_BY_SIGINT

    pods = f"; pods not ready yet: {_first_names(waiting)}" if waiting else ""
    note(f"stopped waiting; lab {name} stays up{pods}")
    hint("kubenetlab get pods -A -w", name_if_ambiguous(name))
    raise typer.Exit(STOPPED_BY_SIGINT)


def _pods_by_reason(stuck: list[dict[str, str]]) -> dict[str, list[str]]:
    """Return pods by reason, so that a reason that many pods share is printed once.

    Reasons of failed CNI plugins contain the identifier of the sandbox, which is omitted for
    several pods.
    """
    entries: dict[str, list[dict[str, str]]] = {}
    for entry in stuck:
        entries.setdefault(_SANDBOX_ID.sub("", entry["reason"]), []).append(entry)
    return {
        reason if len(group) > 1 else group[0]["reason"]: [entry["pod"] for entry in group]
        for reason, group in entries.items()
    }


def _first_names(pods: list[str]) -> str:
    return ", ".join(pods[:5]) + (f" and {len(pods) - 5} more" if len(pods) > 5 else "")


def name_if_ambiguous(name: str) -> str | None:
    """Return the lab's name for a hint if several labs are up, so that commands need --lab."""
    from kubenetlab.lab.client import running_labs

    return name if len(running_labs()) > 1 else None
