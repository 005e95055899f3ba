"""Pauses of the agent: many short steps are followed by one as well."""

from __future__ import annotations

import asyncio
import time

import pytest

from kubenetlab.lab.agent.turns import ANSWERING_S, LONGEST_S, Turns


def test_short_steps_add_up_to_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients are served after LONGEST_S of work, however many steps it has."""
    clock = [0.0]
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(clock[0])
        assert seconds == ANSWERING_S

    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(asyncio, "sleep", pause)

    async def work() -> None:
        agent_turns = Turns()
        for _ in range(10):
            clock[0] += LONGEST_S / 2.5
            await agent_turns.yield_to_clients()

    asyncio.run(work())
    assert len(pauses) == 3
