"""Waiting for a lab: an agent that breaks its answers off, and the hint after an `up` that did not become ready."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kubenetlab.cli.labs.waiting import _next_after_failure, wait
from kubenetlab.errors import LabError
from kubenetlab.lab import rundir
from kubenetlab.lab.client import Client

_NO_SPACE = "No space left on device"
_STUCK = {"pod": "default/web-0", "reason": "ImagePullBackOff"}


@pytest.mark.parametrize(
    ("failures", "stuck", "expected"),
    [
        ({"the lab": f"/r/x/store.json: {_NO_SPACE}"}, [], "make space in /r, then: kubenetlab up"),
        (
            {"the lab": f"/r/x/store.json: {_NO_SPACE}"},
            [_STUCK],
            "make space in /r, then: kubenetlab up",
        ),
        # The kernel uses the same errno for a limit of namespaces: no space on a disk helps there.
        ({"pod/default/web-0/1": f"network namespace: {_NO_SPACE}"}, [], "kubenetlab diff"),
        ({}, [_STUCK], "kubenetlab describe pod web-0 -n default"),
    ],
)
def test_the_hint_is_about_what_helps(
    monkeypatch: pytest.MonkeyPatch, failures: dict[str, str], stuck: list[Any], expected: str
) -> None:
    monkeypatch.setattr(rundir, "base", lambda: Path("/r"))
    last = {"failures": failures, "stuck": stuck, "waiting": [], "jobs": []}
    assert _next_after_failure(last) == expected


def test_an_agent_that_breaks_off_is_not_asked_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked again until the time is over; then its log is named."""
    asked: list[str] = []

    def stream(self: Client, path: str, **query: str) -> Iterator[Any]:
        asked.append(query["timeout"])
        return iter(())

    monkeypatch.setattr(Client, "stream", stream)
    with pytest.raises(
        LabError, match=r"the agent of lab broken breaks its answers off; its log: .*/broken/log"
    ):
        wait("broken", 0.2, 0.0, lambda items: None)
    assert len(asked) > 1
    assert float(asked[-1]) == 0
