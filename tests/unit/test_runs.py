"""The agent's hand for programs: who comes after whom."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kubenetlab.datapath.contexts import Context
from kubenetlab.datapath.pods import PodFiles
from kubenetlab.hoststate.programs import Listener, ProgramRun
from kubenetlab.lab import rundir
from kubenetlab.lab.channel import Channel
from kubenetlab.lab.runs import RunsHand
from kubenetlab.lab.wire import Message

OLD, NEW, ELSEWHERE = "pod/default/old/1", "pod/default/new/2", "pod/default/elsewhere/3"


class Others:
    """The app worker and init, as the hand meets them: what they were told, in order; each takes its turn when `may_go_on`."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.may_go_on = asyncio.Event()
        self.init: Channel | None = None

    async def worker(self, channel: Channel) -> None:
        channel.send({"event": "hello", "runs": []})
        async for request in channel.receive():
            if request["do"] == "forget":
                await self.may_go_on.wait()
            self.told.append((request["do"], request["netns"]))
            channel.send({"answers": request["id"], **_started(request)})

    async def in_init(self, channel: Channel) -> None:
        self.init = channel
        async for request in channel.receive():
            self.told.append((request["do"], request["arguments"]["netns"]))
            channel.send({"answers": request["id"], "pid": 4711})


def _started(request: Message) -> Message:
    return {"netns": request["netns"], "container": request.get("container"), "attempt": 0, "state": "running"}


@asynccontextmanager
async def hand(directory: Path) -> AsyncIterator[tuple[RunsHand, Others]]:
    """A hand with one worker, and those at the other ends of its connections."""
    others = Others()
    listeners = [_listener(directory / name) for name in (rundir.worker_socket(0), rundir.INIT_SOCKET)]
    tasks = [
        asyncio.create_task(_serve(listener, behave)) for listener, behave in zip(listeners, (others.worker, others.in_init), strict=True)
    ]
    runs = RunsHand(directory, 1, lambda reports: None, lambda lost: None)
    try:
        yield runs, others
    finally:
        hands = (*runs._workers, runs._init)
        for task in (*tasks, *(one._task for one in hands)):
            task.cancel()
        for listener in listeners:
            listener.close()
        for one in hands:
            if one._caller is not None:
                one._caller.close()


def _listener(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.setblocking(False)
    listener.bind(str(path))
    listener.listen()
    return listener


async def _serve(listener: socket.socket, behave: Callable[[Channel], Awaitable[None]]) -> None:
    connection, _ = await asyncio.get_running_loop().sock_accept(listener)
    with connection:
        await behave(Channel(connection))


async def start(runs: RunsHand, netns: str, node: str = "worker", program: str = "netexec") -> None:
    run = ProgramRun(netns, "main", 0, program, {"argv": ["true"]}, (Listener("TCP", 9100),))
    context = Context(netns, "default", "pod", ("172.18.0.3",), node, PodFiles("host", "", ""))
    assert await runs.start(run, 1, context, dict) is None


def test_a_port_is_free_before_the_next_program_wants_it(tmp_path: Path) -> None:
    """A sandbox that is gone has closed its sockets before another program starts on its node: they may share the node's network."""

    async def story() -> None:
        async with hand(tmp_path) as (runs, others):
            await start(runs, OLD)
            runs.forget(OLD)
            following = asyncio.create_task(start(runs, NEW))
            await start(runs, ELSEWHERE, node="worker2", program="command")  # which is another network
            assert others.told == [("run", OLD), ("spawn", ELSEWHERE)]
            others.may_go_on.set()
            await following
            assert others.told[2:] == [("forget", OLD), ("run", NEW)]

    asyncio.run(story())


def test_a_process_is_gone_before_the_next_program_starts(tmp_path: Path) -> None:
    """The same of a real command: its death is waited for."""

    async def story() -> None:
        async with hand(tmp_path) as (runs, others):
            await start(runs, OLD, program="command")
            runs.forget(OLD)
            following = asyncio.create_task(start(runs, NEW))
            await start(runs, ELSEWHERE, node="worker2")
            assert not following.done()
            assert others.init is not None
            died = {"netns": OLD, "container": "main", "attempt": 0}
            others.init.send({"event": "died", "pid": 4711, "status": 9, "arguments": died})
            await following
            assert others.told == [("spawn", OLD), ("run", ELSEWHERE), ("run", NEW)]

    asyncio.run(story())


@pytest.mark.parametrize("netns", [OLD, "node/worker"])
def test_what_ran_nothing_holds_up_nobody(tmp_path: Path, netns: str) -> None:
    """A namespace without programs is forgotten at once."""

    async def story() -> None:
        async with hand(tmp_path) as (runs, others):
            runs.forget(netns)
            await start(runs, NEW)
            assert others.told == [("run", NEW)]

    asyncio.run(story())
