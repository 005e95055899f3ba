"""Programs start in order, and each exit is reported once."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

from kubenetlab.api.lab import ContainerReport
from kubenetlab.datapath.contexts import Context
from kubenetlab.datapath.pods import PodFiles
from kubenetlab.hoststate.programs import ListenPort, ProgramRun
from kubenetlab.kernel.processes.identity import ProcessId
from kubenetlab.lab import rundir
from kubenetlab.lab.agent.clients.runtime_client import RuntimeClient
from kubenetlab.lab.messages.app_worker import (
    AppWorkerRequest,
    ForgetSandbox,
    RunReport,
    StartProgram,
    WorkerStarted,
)
from kubenetlab.lab.messages.init import (
    AcknowledgeExits,
    CoreDns,
    InitRequest,
    ListProcesses,
    PodProcess,
    ProcessExited,
    ProcessList,
    SendSignal,
    SignalSent,
    StartContainer,
    Started,
)
from kubenetlab.lab.transport.channel import Channel
from kubenetlab.lab.transport.protocol import Done, Message, decode, decoder_of
from kubenetlab.lab.transport.rpc import RpcClient
from tests.patience import patiently

OLD, NEW, ELSEWHERE = "pod/default/old/1", "pod/default/new/2", "pod/default/elsewhere/3"
SANDBOX = ProcessId(1, 1)
STATES: tuple[Literal["running"], Literal["exited"]] = ("running", "exited")


Spawned = tuple[int, StartContainer]
"""Number of a request, and the request."""


class FakeServers:
    """An app worker and init: they record requests and answer them."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        """Requests that start or end programs, as (type, sandbox)."""
        self.may_forget = asyncio.Event()
        """Set to let the app worker answer ForgetSandbox."""
        self.init: Channel | None = None
        self.reports: list[RunReport] = []
        self.sandboxes = dict.fromkeys((OLD, NEW, ELSEWHERE), SANDBOX)
        self.spawned: list[Spawned] = []
        self.acknowledged: list[str] = []
        self.listing = ProcessList((), ())
        self.short_lived: Sequence[str] = ()
        """Order in which the answer to a start and the exit of that program are sent.

        Programs do not exit if it is empty.
        """

    async def serve_worker(self, channel: Channel) -> None:
        """Answer as the app worker."""
        channel.send(WorkerStarted(()))
        async for number, body in channel.receive():
            match decode(body, decoder_of(AppWorkerRequest)):
                case StartProgram() as request:
                    self.requests.append(("StartProgram", request.netns))
                    answer, exit_ = (
                        RunReport(
                            request.netns,
                            SANDBOX,
                            request.container,
                            ContainerReport(request.attempt, state, int(state == "exited")),
                        )
                        for state in STATES
                    )
                    self._send(channel, number, answer, exit_)
                case ForgetSandbox() as request:
                    await self.may_forget.wait()
                    self.requests.append(("ForgetSandbox", request.netns))
                    channel.send(Done(), number)
                case _:
                    channel.send(Done(), number)

    async def serve_init(self, channel: Channel) -> None:
        """Answer as init."""
        self.init = channel
        async for number, body in channel.receive():
            match decode(body, decoder_of(InitRequest)):
                case StartContainer() as request:
                    self.requests.append(("StartContainer", request.netns))
                    self.spawned.append((number, request))
                    self._send(channel, number, Started(4711), exited(request))
                case ListProcesses():
                    channel.send(self.listing, number)
                case AcknowledgeExits() as request:
                    self.acknowledged += request.runs
                    channel.send(Done(), number)
                case SendSignal() as request:
                    channel.send(SignalSent(True), number)
                    spawned = next(spawn for _, spawn in self.spawned if spawn.run == request.run)
                    channel.send(exited(spawned, status=15))

    def _send(self, channel: Channel, number: int, answer: Message, exit_: Message) -> None:
        """Send both in one write, which the client reads at once."""
        for name in self.short_lived or ("answer",):
            if name == "answer":
                channel.send(answer, number)
            else:
                channel.send(exit_)


def exited(request: StartContainer, status: int = 256, netns: str = "") -> ProcessExited:
    """Return init's event that a process has exited."""
    return ProcessExited(process_of(request, netns or request.netns), status, 1.0)


def process_of(request: StartContainer, netns: str, pid: int = 0) -> PodProcess:
    return PodProcess(
        request.run, "command", netns, SANDBOX, request.container, request.attempt, pid=pid
    )


@asynccontextmanager
async def connected(directory: Path) -> AsyncIterator[tuple[RuntimeClient, FakeServers]]:
    """Yield a client with one app worker, and the servers that it is connected to."""
    servers = FakeServers()
    listeners = [
        _listener(directory / name) for name in (rundir.worker_socket(0), rundir.INIT_SOCKET)
    ]
    tasks = [
        asyncio.create_task(_serve(listener, behave))
        for listener, behave in zip(
            listeners, (servers.serve_worker, servers.serve_init), strict=True
        )
    ]
    runs = RuntimeClient(
        directory, 1, servers.reports.extend, lambda lost: None, servers.sandboxes.get
    )
    try:
        async with asyncio.timeout(patiently(30)):
            yield runs, servers
    finally:
        clients: list[RpcClient[Any]] = [*runs._workers, runs._processes._init]
        for task in (*tasks, *(client._task for client in clients)):
            task.cancel()
        for listener in listeners:
            listener.close()
        for client in clients:
            if client._connection is not None:
                client._connection.close()


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
    """Start a program that listens on port 9100."""
    run = ProgramRun(netns, "main", 0, program, {"argv": ["true"]}, (ListenPort("TCP", 9100),))
    context = Context(netns, "default", "pod", ("172.18.0.3",), node, PodFiles("host", "", ""))
    assert await runs.start(run, SANDBOX, context, dict) is None


def test_a_port_is_free_before_the_next_program_wants_it(tmp_path: Path) -> None:
    """A program starts when former sandboxes of its node have closed their sockets.

    Both may share the node's network.
    """

    async def scenario() -> None:
        async with connected(tmp_path) as (runs, servers):
            await start(runs, OLD)
            runs.forget(OLD)
            following = asyncio.create_task(start(runs, NEW))
            await start(runs, ELSEWHERE, node="worker2", program="command")  # another network
            assert servers.requests == [("StartProgram", OLD), ("StartContainer", ELSEWHERE)]
            servers.may_forget.set()
            await following
            assert servers.requests[2:] == [("ForgetSandbox", OLD), ("StartProgram", NEW)]

    asyncio.run(scenario())


def test_a_process_is_gone_before_the_next_program_starts(tmp_path: Path) -> None:
    """A real command in a former sandbox has exited before another program starts."""

    async def scenario() -> None:
        async with connected(tmp_path) as (runs, servers):
            await start(runs, OLD, program="command")
            runs.forget(OLD)
            following = asyncio.create_task(start(runs, NEW))
            await start(runs, ELSEWHERE, node="worker2")
            assert not following.done()
            assert servers.init is not None
            servers.init.send(exited(servers.spawned[0][1], status=9))
            await following
            assert servers.requests == [
                ("StartContainer", OLD),
                ("StartProgram", ELSEWHERE),
                ("StartProgram", NEW),
            ]

    asyncio.run(scenario())


@pytest.mark.parametrize("netns", [OLD, "node/worker"])
def test_a_namespace_without_programs_delays_no_start(tmp_path: Path, netns: str) -> None:
    """There is nothing to wait for when it is forgotten."""

    async def scenario() -> None:
        async with connected(tmp_path) as (runs, servers):
            runs.forget(netns)
            await start(runs, NEW)
            assert servers.requests == [("StartProgram", NEW)]

    asyncio.run(scenario())


ORDERS = list(itertools.permutations(("answer", "exit")))


@pytest.mark.parametrize("program", ["command", "netexec"])
@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_an_exit_is_reported_in_any_order_of_answer_and_event(
    tmp_path: Path, order: Sequence[str], program: str
) -> None:
    """Both arrive at once, before the caller sees the answer; the container is not running."""

    async def scenario() -> None:
        async with connected(tmp_path) as (runs, servers):
            servers.short_lived = order
            await start(runs, NEW, program=program)
            await reported(servers, "exited")
            assert servers.reports[-1].outcome.state == "exited"
            assert runs.running == {}
            assert runs.pid(NEW, "main") is None

    asyncio.run(scenario())


@pytest.mark.parametrize("late", ["answer", "exit"])
def test_an_exit_is_reported_if_answer_and_event_are_far_apart(tmp_path: Path, late: str) -> None:
    """The caller sees the first before the second arrives."""

    async def scenario() -> None:
        async with connected(tmp_path) as (runs, servers):
            servers.short_lived = ("answer",) if late == "exit" else ("exit",)
            starting = asyncio.create_task(start(runs, NEW, program="command"))
            await until(lambda: bool(servers.spawned))
            ((number, spawned),) = servers.spawned
            assert servers.init is not None
            if late == "exit":
                await starting
                servers.init.send(exited(spawned))
            else:
                await reported(servers, "exited")
                servers.init.send(Started(4711), number)
                await starting
            await reported(servers, "exited")
            outcome = servers.reports[-1].outcome
            assert (outcome.state, outcome.exit_code) == ("exited", 1)

    asyncio.run(scenario())


def test_an_exit_is_acknowledged_when_its_report_is_stored(tmp_path: Path) -> None:
    """An agent may be killed before that; the next one then gets the exit from init."""

    async def scenario() -> None:
        async with connected(tmp_path) as (runs, servers):
            servers.short_lived = ("answer", "exit")
            await start(runs, NEW, program="command")
            await reported(servers, "exited")
            assert servers.acknowledged == []
            runs.acknowledge()
            await until(lambda: servers.acknowledged == [servers.spawned[0][1].run])

    asyncio.run(scenario())


def test_an_agent_learns_of_exits_that_its_predecessor_did_not_store(tmp_path: Path) -> None:
    """The exit of an older run is not reported if the container is running again."""

    async def scenario() -> None:
        async with connected(tmp_path) as (runs, servers):
            ended, replaced = (_start_request(NEW, f"former-{number}") for number in (1, 2))
            continuing = _start_request(OLD, "former-3")
            servers.listing = ProcessList(
                (process_of(continuing, OLD, pid=7),), (exited(ended), exited(replaced, netns=OLD))
            )
            await runs.adopt()
            await reported(servers, "exited")
            assert [(report.netns, report.outcome.state) for report in servers.reports] == [
                (OLD, "running"),
                (NEW, "exited"),
            ]
            await until(lambda: servers.acknowledged == ["former-2"])

    asyncio.run(scenario())


def test_a_process_that_another_one_replaces_is_not_reported_to_have_exited(tmp_path: Path) -> None:
    """It gets SIGTERM, and its exit is awaited, even if the next run has the same attempt."""

    async def scenario() -> None:
        async with connected(tmp_path) as (runs, servers):
            await start(runs, NEW, program="command")
            await start(runs, NEW, program="command")
            await until(
                lambda: (
                    len(servers.reports) == 2
                    and servers.acknowledged == [servers.spawned[0][1].run]
                )
            )
            assert [report.outcome.state for report in servers.reports] == ["running", "running"]
            assert runs.running == {(NEW, "main"): 0}

    asyncio.run(scenario())


@pytest.mark.parametrize("program", ["command", "netexec"])
def test_a_report_of_a_former_sandbox_is_dropped(tmp_path: Path, program: str) -> None:
    """The exit is acknowledged, and is not reported of the container in the new sandbox."""

    async def scenario() -> None:
        async with connected(tmp_path) as (runs, servers):
            servers.short_lived = ("answer", "exit")
            servers.sandboxes[NEW] = ProcessId(SANDBOX.pid, 2)  # another process with the same pid
            await start(runs, NEW, program=program)
            if program == "command":
                await until(lambda: servers.acknowledged == [servers.spawned[0][1].run])
            servers.sandboxes[NEW] = SANDBOX
            await start(runs, NEW, program=program)
            await reported(servers, "exited")
            states = [report.outcome.state for report in servers.reports]
            assert states.count("exited") == 1

    asyncio.run(scenario())


def test_a_report_is_dropped_if_its_sandbox_is_forgotten_in_the_same_iteration(
    tmp_path: Path,
) -> None:
    """The exits of a container and of its sandbox arrive together.

    The report would be attributed to the successor of the sandbox.
    """

    async def scenario() -> None:
        async with connected(tmp_path) as (runs, servers):
            await start(runs, NEW, program="command")
            await reported(servers, "running")
            runs._processes._receive_event(exited(servers.spawned[0][1], status=9))
            servers.sandboxes[NEW] = ProcessId(SANDBOX.pid, 2)
            runs.forget(NEW)
            await until(lambda: not runs._reports._batcher._pending)
            assert [report.outcome.state for report in servers.reports] == ["running"]
            runs.acknowledge()
            await until(lambda: servers.acknowledged == [servers.spawned[0][1].run])

    asyncio.run(scenario())


def _start_request(netns: str, run: str) -> StartContainer:
    return StartContainer(run, netns, SANDBOX, "main", 0, CoreDns())


async def reported(servers: FakeServers, state: str) -> None:
    """Return when a report of this state has been passed on."""
    await until(lambda: any(report.outcome.state == state for report in servers.reports))


async def until(condition: Callable[[], bool]) -> None:
    """Return when the condition holds; it changes in other tasks of this event loop."""
    async with asyncio.timeout(patiently(10)):
        while True:
            if condition():
                return
            await asyncio.sleep(0)
