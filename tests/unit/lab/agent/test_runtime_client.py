"""The agent's hand for programs: who comes after whom."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kubenetlab.datapath.contexts import Context
from kubenetlab.datapath.pods import PodFiles
from kubenetlab.hoststate.programs import ListenPort, ProgramRun
from kubenetlab.kernel.processes.identity import ProcessId
from kubenetlab.lab import rundir
from kubenetlab.lab.agent.runtime_client import RuntimeClient
from kubenetlab.lab.transport.channel import Channel
from kubenetlab.lab.transport.frames import Message
from tests.patience import patiently

OLD, NEW, ELSEWHERE = "pod/default/old/1", "pod/default/new/2", "pod/default/elsewhere/3"
SANDBOX = ProcessId(1, 1)


class Others:
    """The app worker and init, as the hand meets them: what they were told, in order; each takes its turn when `may_go_on`."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.may_go_on = asyncio.Event()
        self.init: Channel | None = None
        self.reports: list[Message] = []
        self.sandboxes = dict.fromkeys((OLD, NEW, ELSEWHERE), SANDBOX)
        self.spawned: list[Message] = []
        self.acknowledged: list[str] = []
        self.listing: Message = {"processes": [], "exits": []}
        self.short_lived: Sequence[str] = ()
        """Order in which the answer about a start and the exit of what was started are sent; without it nothing exits."""

    async def worker(self, channel: Channel) -> None:
        channel.send({"event": "hello", "runs": []})
        async for request in channel.receive():
            if request["do"] == "forget":
                await self.may_go_on.wait()
            self.told.append((request["do"], request.get("netns", "")))
            answer = {"answers": request["id"], **_reported(request, "running")}
            exited = {"event": "run", **_reported(request, "exited"), "exit_code": 1}
            self._send(channel, answer, exited if request["do"] == "run" else None)

    async def in_init(self, channel: Channel) -> None:
        self.init = channel
        async for request in channel.receive():
            match request["do"]:
                case "spawn":
                    self.told.append(("spawn", request["arguments"]["netns"]))
                    self.spawned.append(request)
                    self._send(channel, {"answers": request["id"], "pid": 4711}, exited(request))
                case "list":
                    channel.send({"answers": request["id"], **self.listing})
                case "acknowledge":
                    self.acknowledged += request["runs"]
                    channel.send({"answers": request["id"], "ok": True})
                case "signal":
                    channel.send({"answers": request["id"], "ok": True})
                    channel.send(
                        exited(
                            next(one for one in self.spawned if one["run"] == request["run"]),
                            status=15,
                        )
                    )

    def _send(self, channel: Channel, answer: Message, exited: Message | None) -> None:
        """In one write, which the other side reads at once."""
        for what in self.short_lived if exited is not None else ("answer",):
            channel.send({"answer": answer, "exit": exited or {}}[what])
        if not self.short_lived and exited is not None:
            channel.send(answer)


def _reported(request: Message, state: str) -> Message:
    return {
        "netns": request.get("netns"),
        "sandbox": SANDBOX,
        "container": request.get("container"),
        "attempt": request.get("attempt", 0),
        "state": state,
    }


def exited(spawned: Message, status: int = 256) -> Message:
    """The event of init that a process has exited."""
    asked = spawned["arguments"]
    who = {name: asked[name] for name in ("netns", "container", "attempt")}
    return {
        "event": "exited",
        "run": spawned["run"],
        "sandbox": SANDBOX,
        "role": "command",
        **who,
        "is_probe": False,
        "status": status,
        "at": 1.0,
    }


@asynccontextmanager
async def hand(directory: Path) -> AsyncIterator[tuple[RuntimeClient, Others]]:
    """A hand with one worker, and those at the other ends of its connections."""
    others = Others()
    listeners = [
        _listener(directory / name) for name in (rundir.worker_socket(0), rundir.INIT_SOCKET)
    ]
    tasks = [
        asyncio.create_task(_serve(listener, behave))
        for listener, behave in zip(listeners, (others.worker, others.in_init), strict=True)
    ]
    runs = RuntimeClient(
        directory, 1, others.reports.extend, lambda lost: None, others.sandboxes.get
    )
    try:
        yield runs, others
    finally:
        hands = (*runs._workers, runs._processes._init)
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


async def start(
    runs: RuntimeClient, netns: str, node: str = "worker", program: str = "netexec"
) -> None:
    run = ProgramRun(netns, "main", 0, program, {"argv": ["true"]}, (ListenPort("TCP", 9100),))
    context = Context(netns, "default", "pod", ("172.18.0.3",), node, PodFiles("host", "", ""))
    assert await runs.start(run, SANDBOX, context, dict) is None


def test_a_port_is_free_before_the_next_program_wants_it(tmp_path: Path) -> None:
    """A sandbox that is gone has closed its sockets before another program starts on its node: they may share the node's network."""

    async def story() -> None:
        async with hand(tmp_path) as (runs, others):
            await start(runs, OLD)
            runs.forget(OLD)
            following = asyncio.create_task(start(runs, NEW))
            await start(
                runs, ELSEWHERE, node="worker2", program="command"
            )  # which is another network
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
            others.init.send(exited(others.spawned[0], status=9))
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


ORDERS = list(itertools.permutations(("answer", "exit")))


@pytest.mark.parametrize("program", ["command", "netexec"])
@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_an_exit_is_reported_whatever_the_order_of_answer_and_event(
    tmp_path: Path, order: Sequence[str], program: str
) -> None:
    """Both arrive in one piece, before the caller can have seen the answer; the run counts as ended, not as running."""

    async def story() -> None:
        async with hand(tmp_path) as (runs, others):
            others.short_lived = order
            await start(runs, NEW, program=program)
            await reported(others, "exited")
            assert [report["state"] for report in others.reports][-1] == "exited"
            assert runs.running == {}
            assert runs.process(NEW, "main") is None

    asyncio.run(story())


@pytest.mark.parametrize("late", ["answer", "exit"])
def test_an_exit_is_reported_also_when_one_of_the_two_comes_much_later(
    tmp_path: Path, late: str
) -> None:
    """The caller has seen the first before the second arrives."""

    async def story() -> None:
        async with hand(tmp_path) as (runs, others):
            others.short_lived = ("answer",) if late == "exit" else ("exit",)
            starting = asyncio.create_task(start(runs, NEW, program="command"))
            await until(lambda: bool(others.spawned))
            (spawned,) = others.spawned
            assert others.init is not None
            if late == "exit":
                await starting
                others.init.send(exited(spawned))
            else:
                await reported(others, "exited")
                others.init.send({"answers": spawned["id"], "pid": 4711})
                await starting
            await reported(others, "exited")
            assert others.reports[-1]["state"] == "exited"
            assert others.reports[-1]["exit_code"] == 1

    asyncio.run(story())


def test_an_exit_is_acknowledged_when_its_report_is_stored(tmp_path: Path) -> None:
    """Not before: the agent may be killed in between."""

    async def story() -> None:
        async with hand(tmp_path) as (runs, others):
            others.short_lived = ("answer", "exit")
            await start(runs, NEW, program="command")
            await reported(others, "exited")
            assert others.acknowledged == []
            runs.acknowledge()
            await until(lambda: others.acknowledged == [others.spawned[0]["run"]])

    asyncio.run(story())


def test_an_agent_learns_of_exits_that_its_predecessor_did_not_store(tmp_path: Path) -> None:
    """An older run of a container that runs again is not one of them."""

    async def story() -> None:
        async with hand(tmp_path) as (runs, others):
            ended, former = (_spawn_request(NEW, f"former-{number}") for number in (1, 2))
            going_on = _spawn_request(OLD, "former-3")
            others.listing = {
                "processes": [{**exited(going_on), "pid": 7}],
                "exits": [exited(ended), {**exited(former), "netns": OLD}],
            }
            await runs.adopt()
            await reported(others, "exited")
            assert [(report["netns"], report["state"]) for report in others.reports] == [
                (OLD, "running"),
                (NEW, "exited"),
            ]
            await until(lambda: others.acknowledged == ["former-2"])

    asyncio.run(story())


def test_a_process_that_another_one_replaces_is_not_reported_to_have_exited(tmp_path: Path) -> None:
    """It is told to end, and its exit is awaited, also when the next one has the same attempt."""

    async def story() -> None:
        async with hand(tmp_path) as (runs, others):
            await start(runs, NEW, program="command")
            await start(runs, NEW, program="command")
            await until(
                lambda: (
                    len(others.reports) == 2 and others.acknowledged == [others.spawned[0]["run"]]
                )
            )
            assert [report["state"] for report in others.reports] == ["running", "running"]
            assert runs.running == {(NEW, "main"): 0}

    asyncio.run(story())


@pytest.mark.parametrize("program", ["command", "netexec"])
def test_a_report_of_a_sandbox_that_is_gone_is_not_its_successors(
    tmp_path: Path, program: str
) -> None:
    """The exit of a container in it is acknowledged, and nothing is said of the container that follows it."""

    async def story() -> None:
        async with hand(tmp_path) as (runs, others):
            others.short_lived = ("answer", "exit")
            others.sandboxes[NEW] = ProcessId(SANDBOX.pid, 2)  # another process of the same number
            await start(runs, NEW, program=program)
            if program == "command":
                await until(lambda: others.acknowledged == [others.spawned[0]["run"]])
            others.sandboxes[NEW] = SANDBOX
            await start(runs, NEW, program=program)
            await reported(others, "exited")
            assert len([report for report in others.reports if report["state"] == "exited"]) == 1

    asyncio.run(story())


def test_a_report_is_dropped_when_its_sandbox_goes_in_the_same_turn(tmp_path: Path) -> None:
    """The exit of a container and that of its sandbox arrive together; the report would be its successor's."""

    async def story() -> None:
        async with hand(tmp_path) as (runs, others):
            await start(runs, NEW, program="command")
            await reported(others, "running")
            runs._processes._receive_event(exited(others.spawned[0], status=9))
            others.sandboxes[NEW] = ProcessId(SANDBOX.pid, 2)
            runs.forget(NEW)
            await until(lambda: not runs._reports._batcher._untold)
            assert [report["state"] for report in others.reports] == ["running"]
            runs.acknowledge()
            await until(lambda: others.acknowledged == [others.spawned[0]["run"]])

    asyncio.run(story())


def _spawn_request(netns: str, run: str) -> Message:
    return {"run": run, "arguments": {"netns": netns, "container": "main", "attempt": 0}}


async def reported(others: Others, state: str) -> None:
    await until(lambda: any(report["state"] == state for report in others.reports))


async def until(condition: Callable[[], bool]) -> None:
    """Return when the condition holds; it changes in other tasks of this event loop."""
    async with asyncio.timeout(patiently(10)):
        while not condition():
            await asyncio.sleep(0)
