"""Slots for concurrent calls of CNI plugins: which node gets a free one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from kubenetlab.lab.agent.clients import call_slots
from kubenetlab.lab.agent.clients.call_slots import CallSlots


class Calls:
    """Calls that end when the test says so."""

    def __init__(self, slots: CallSlots) -> None:
        self.running: list[str] = []
        self._slots = slots
        self._ends: list[tuple[str, asyncio.Event]] = []
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self, *nodes: str) -> None:
        self._tasks += [asyncio.get_running_loop().create_task(self._call(each)) for each in nodes]

    def end(self, node: str) -> None:
        """End the oldest running call on a node."""
        index = next(index for index, (name, _) in enumerate(self._ends) if name == node)
        self._ends.pop(index)[1].set()

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    async def _call(self, node: str) -> None:
        async with self._slots.slot(node):
            end = asyncio.Event()
            self._ends.append((node, end))
            self.running.append(node)
            await end.wait()
            self.running.remove(node)


def run(limit: int, test: Callable[[Calls, CallSlots], Awaitable[None]]) -> None:
    async def body() -> None:
        slots = CallSlots(limit)
        await test(Calls(slots), slots)

    asyncio.run(body())


def test_nodes_share_the_slots() -> None:
    """However the calls are ordered: calls on one node would wait for each other's locks."""

    async def test(calls: Calls, slots: CallSlots) -> None:
        calls.begin("a", "a", "a", "b", "b", "c")
        await calls.settle()
        assert sorted(calls.running) == ["a", "b", "c"]
        calls.end("c")
        await calls.settle()
        assert sorted(calls.running) == ["a", "a", "b"]
        assert slots.pending == 5

    run(3, test)


def test_a_node_uses_all_slots_that_no_other_node_needs() -> None:
    """A Deployment may be on one node."""

    async def test(calls: Calls, slots: CallSlots) -> None:
        calls.begin("a", "a", "a")
        await calls.settle()
        assert calls.running == ["a", "a"]
        calls.end("a")
        await calls.settle()
        assert calls.running == ["a", "a"]
        calls.end("a")
        calls.end("a")
        await calls.settle()
        assert calls.running == []
        assert slots.pending == 0

    run(2, test)


def test_a_call_that_hangs_gives_its_slot_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other nodes go on; the number of calls on the node with the plugin is limited."""
    monkeypatch.setattr(call_slots, "SLOW_S", 0.0)
    monkeypatch.setattr(call_slots, "MAX_PER_NODE", 3)

    async def test(calls: Calls, slots: CallSlots) -> None:
        calls.begin("a", "a", "a", "a", "a", "b")
        for _ in range(10):
            await calls.settle()
        assert sorted(calls.running) == ["a", "a", "a", "b"]
        calls.end("a")
        for _ in range(10):
            await calls.settle()
        assert sorted(calls.running) == ["a", "a", "a", "b"]
        assert slots.pending == 5

    run(2, test)
