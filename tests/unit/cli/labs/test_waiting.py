"""Waiting for a lab: an agent that does not reply, and the hint after an `up` that failed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kubenetlab.cli.labs.waiting import (
    _next_after_failure,
    _pods_by_reason,
    _print_problems,
    wait,
)
from kubenetlab.errors import LabError
from kubenetlab.lab import rundir
from kubenetlab.lab.client import Client

_NO_SPACE = "No space left on device"
_STUCK = {"pod": "default/web-0", "reason": "ImagePullBackOff"}


@pytest.mark.parametrize(
    ("failures", "stuck", "expected"),
    [
        (
            {"the lab": f"/r/x/store.json: {_NO_SPACE}"},
            [],
            "free disk space in /r, then: kubenetlab up",
        ),
        (
            {"the lab": f"/r/x/store.json: {_NO_SPACE}"},
            [_STUCK],
            "free disk space in /r, then: kubenetlab up",
        ),
        # The kernel reports the same errno for its limit of namespaces; disk space does not help.
        ({"pod/default/web-0/1": f"network namespace: {_NO_SPACE}"}, [], "kubenetlab diff"),
        ({}, [_STUCK], "kubenetlab describe pod web-0 -n default"),
    ],
)
def test_the_hint_after_a_failure_names_the_cause_to_fix_first(
    monkeypatch: pytest.MonkeyPatch, failures: dict[str, str], stuck: list[Any], expected: str
) -> None:
    """A full disk comes before pods that are not ready."""
    monkeypatch.setattr(rundir, "base_directory", lambda: Path("/r"))
    state = {"failures": failures, "stuck": stuck, "waiting": [], "jobs": []}
    assert _next_after_failure(state) == expected


def test_pods_with_the_same_failure_of_a_plugin_are_one_line() -> None:
    """The identifiers of their sandboxes differ; the line of a single pod has its identifier."""
    first, second, other = (
        {
            "pod": f"default/{name}",
            "reason": f'failed to setup network for sandbox "{digit * 64}": {message}',
        }
        for name, digit, message in (("a", "1", "x"), ("b", "2", "x"), ("c", "3", "y"))
    )
    assert _pods_by_reason([first, other, second]) == {
        "failed to setup network: x": ["default/a", "default/b"],
        other["reason"]: ["default/c"],
    }


def test_waiting_for_an_agent_without_reply_ends_at_the_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The command repeats its request until the timeout; the error then names the agent's log."""
    timeouts: list[str] = []

    def stream(self: Client, path: str, **query: str) -> Iterator[Any]:
        timeouts.append(query["timeout"])
        return iter(())

    monkeypatch.setattr(Client, "stream", stream)
    with pytest.raises(
        LabError,
        match=r"agent of lab broken closes the connection without a reply; see .*/broken/log",
    ):
        wait("broken", 0.2, 0.0, lambda items: True)
    assert len(timeouts) > 1
    assert float(timeouts[-1]) == 0


def test_lists_of_problems_are_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    """Many pods, each with a reason of its own, do not hide the other problems."""
    state = {
        "failures": {f"pod/default/{number}": "EBUSY" for number in range(25)},
        "stuck": [{"pod": f"default/{n}", "reason": f"no node has {n}"} for n in range(30)],
        "waiting": [f"default/w{n}" for n in range(40)],
        "daemons": [{"daemon": f"d{n}", "state": "stopped", "reason": "exited"} for n in range(11)],
        "jobs": [{"job": f"default/j{n}", "state": "failed", "reason": "x"} for n in range(12)],
        "unready": [],
    }
    _print_problems(state, 60)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4 * (10 + 1) + 1
    assert [line for line in lines if "…" in line] == [
        "  … and 15 more: kubenetlab diff",
        "  … and 20 more reasons: kubenetlab get pods -A",
        "  … and 1 more daemons: kubenetlab get pods -n kube-system",
        "  … and 2 more Jobs: kubenetlab get jobs -A",
    ]
    assert lines[22] == (
        "not ready: after 60 s still waiting for default/w0, default/w1, default/w2, default/w3, "
        "default/w4 and 35 more"
    )
