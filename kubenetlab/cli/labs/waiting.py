"""Waiting for a lab: until every pod is ready and every Job has ended, or something is in the way that time will not cure."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable
from typing import Any, Final, NoReturn

import typer

from kubenetlab.cli.terminal.printing import BAD, DIM, echo, hint, note, paint, print_failures
from kubenetlab.lab import rundir
from kubenetlab.lab.paths import LAB, LAB_API

AGAIN_S: Final = 0.05
"""Time until an agent is asked again that ended its answer before it began."""


def wait(
    name: str, timeout_s: float, begun: float, on_diagnostics: Callable[[list[Any]], None]
) -> None:
    """Wait until every pod is ready or will never be. Exits with 1 where some are not, with the reasons.

    on_diagnostics: is called with what the lab's objects lack (kubenetlab/diagnostics), before the summary.
    """
    from kubenetlab.cli.labs.progress import WaitProgress
    from kubenetlab.errors import LabError
    from kubenetlab.lab import rundir
    from kubenetlab.lab.client import Client

    asked = time.monotonic()
    waiting = WaitProgress()
    last: dict[str, Any] = {"settled": False, "timeout": False, "waiting": [], "jobs": []}
    try:
        while not (
            last["settled"] or last["timeout"]
        ):  # the agent may die meanwhile: the next one is asked
            left_s = max(0.0, timeout_s - (time.monotonic() - asked))
            has_begun = False
            for line in Client(name).stream(f"{LAB_API}/settled", timeout=str(left_s)):
                has_begun, last = True, line
                waiting.tell(line)
            if not has_begun and not left_s:
                raise LabError(
                    f"the agent of lab {name} breaks its answers off; its log: {rundir.of(name)}/log"
                )
            if not has_begun:
                time.sleep(AGAIN_S)
    except KeyboardInterrupt:
        waiting.stop()
        _stop_waiting(name, last["waiting"])
    waiting.stop()
    print_failures(last["failures"])
    for reason, pods in _by_reason(last["stuck"]).items():
        note(f"{paint('not ready:', BAD)} {_few(pods)}: {reason}")
    if last["waiting"]:
        note(
            f"{paint('not ready:', BAD)} after {timeout_s:g} s still waiting for {_few(last['waiting'])}"
        )
    by_state = {
        state: [one for one in last["jobs"] if one["state"] == state]
        for state in ("failed", "waiting", "suspended")
    }
    for one in by_state["failed"]:
        note(f"{paint('failed:', BAD)} Job {one['job']}: {one['reason']}")
    for one in by_state["waiting"]:
        note(
            f"{paint('not complete:', BAD)} after {timeout_s:g} s still waiting for Job {one['job']}: {one['reason']}"
        )
    for one in by_state["suspended"]:
        note(f"suspended: Job {one['job']}: {one['reason']}")
    if last["unready"]:
        note(f"unready on purpose: {_few(last['unready'])}")
    is_fine = last["settled"] and not last["stuck"] and not by_state["failed"]
    if not is_fine and not (
        last["failures"]
        or last["stuck"]
        or last["waiting"]
        or by_state["failed"]
        or by_state["waiting"]
    ):
        note(f"{paint('not settled:', BAD)} after {timeout_s:g} s the lab is still at work")
    on_diagnostics(last.get("diagnostics", []))  # an agent of an earlier version has none
    took = f"{time.monotonic() - begun:.2f} s"
    purpose = f", {len(last['unready'])} unready on purpose" if last["unready"] else ""
    echo(
        f"lab {paint(name, None, bold=True)}: {last['ready']} of {last['total']} pods ready{purpose} {paint(f'({took})', DIM)}"
    )
    if is_fine:
        hint("kubenetlab ping", name_if_ambiguous(name))
        return
    if any(
        "cni plugin not initialized" in entry["reason"]
        or "node.kubernetes.io/not-ready" in entry["reason"]
        for entry in last["stuck"]
    ):
        hint("install a network: kubenetlab up --cni bridge", name_if_ambiguous(name))
        raise typer.Exit(1)
    hint(_next_after_failure(last), name_if_ambiguous(name))
    sys.stdout.flush()
    raise typer.Exit(1)


def _next_after_failure(last: dict[str, Any]) -> str:
    """Return the command that says most about what is not ready: of a pod, else of a Job.

    A full disk comes first: nothing changes before there is space for the lab's store.
    """
    no_space = os.strerror(errno.ENOSPC)
    if any(where == LAB and no_space in text for where, text in last["failures"].items()):
        return f"make space in {rundir.base()}, then: kubenetlab up"
    pods = [entry["pod"] for entry in last["stuck"]] or last["waiting"]
    jobs = [one["job"] for one in last["jobs"] if one["state"] in ("failed", "waiting")]
    for kind, names in (("pod", pods), ("job", jobs)):
        if names:
            namespace, _, name = names[0].partition("/")
            return f"kubenetlab describe {kind} {name} -n {namespace}"
    return "kubenetlab diff"


def _stop_waiting(name: str, waiting: list[str]) -> NoReturn:
    """After Ctrl-C: the lab goes on, and so does what was waited for."""
    from kubenetlab.lab.up import STOPPED_BY_SIGINT

    note(
        f"stopped waiting; lab {name} is up{f', and not ready yet: {_few(waiting)}' if waiting else ''}"
    )
    hint("kubenetlab get pods -A -w", name_if_ambiguous(name))
    raise typer.Exit(STOPPED_BY_SIGINT)


def _by_reason(stuck: list[dict[str, str]]) -> dict[str, list[str]]:
    """Reason → pods: what is the same for many is said once."""
    found: dict[str, list[str]] = {}
    for entry in stuck:
        found.setdefault(entry["reason"], []).append(entry["pod"])
    return found


def _few(pods: list[str]) -> str:
    return ", ".join(pods[:5]) + (f" and {len(pods) - 5} more" if len(pods) > 5 else "")


def name_if_ambiguous(name: str) -> str | None:
    """The lab's name for a hint, where the next command would find another lab without it."""
    from kubenetlab.lab.client import running

    return name if len(running()) > 1 else None
