"""Waiting for a lab whose agent ends its answers before they begin."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from kubenetlab.cli.waiting import wait
from kubenetlab.errors import LabError
from kubenetlab.lab.client import Client


def test_an_agent_that_breaks_off_is_not_asked_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked again until the time is over; then its log is named."""
    asked: list[str] = []

    def stream(self: Client, path: str, **query: str) -> Iterator[Any]:
        asked.append(query["timeout"])
        return iter(())

    monkeypatch.setattr(Client, "stream", stream)
    with pytest.raises(LabError, match=r"the agent of lab broken breaks its answers off; its log: .*/broken/log"):
        wait("broken", 0.2, 0.0, lambda items: None)
    assert len(asked) > 1
    assert float(asked[-1]) == 0
