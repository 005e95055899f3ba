"""The agent's client for daemons: reload by control socket or signal, and what it takes over."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from kubenetlab.datapath.pods import PodFiles
from kubenetlab.hoststate.daemons import ControlSocket, Daemon, ReloadSignal
from kubenetlab.hoststate.files import File
from kubenetlab.hoststate.state import contents_of
from kubenetlab.kernel.file_trees import FileTrees
from kubenetlab.kernel.processes.identity import ProcessId
from kubenetlab.lab.agent.clients import daemon_client as module
from kubenetlab.lab.agent.clients.daemon_client import DaemonClient
from kubenetlab.lab.messages.daemons import (
    DaemonList,
    DaemonReloaded,
    DaemonStatus,
    ListDaemons,
    StartDaemon,
)
from kubenetlab.lab.transport.protocol import Done

NODE, SANDBOX = "node/a", ProcessId(10, 1)
CONFIG = File(NODE, "/etc/bird/bird.conf", "a\n")
CONTROL = ControlSocket("/run/bird/bird.ctl", "configure", ("0003", "0004"))
BIRD = Daemon.reading([CONFIG], "bird", ["bird", "-f"], reload=CONTROL)


class Init:
    """Init in place of the process: records requests, and knows one daemon."""

    def __init__(self, pid: int = 77) -> None:
        self.requests: list[Any] = []
        self.status = DaemonStatus(NODE, SANDBOX, "bird", BIRD.argv, BIRD.revision, pid, 0)

    async def call(self, request: Any) -> Any:
        self.requests.append(request)
        return DaemonList((self.status,)) if isinstance(request, ListDaemons) else Done()


def client_of(directory: Path, init: Init) -> DaemonClient:
    client = DaemonClient(directory, FileTrees(directory / "files"), lambda netns: None)
    client._client = init  # type: ignore[assignment]
    return client


def run(
    directory: Path,
    use: Callable[[DaemonClient], Awaitable[Any]],
    init: Init,
    reply: bytes | None = None,
) -> tuple[Any, list[bytes]]:
    """Return the result of `use`, and the commands that a daemon received.

    reply: of the daemon to a command; None for a daemon that does not answer.
    """
    received: list[bytes] = []

    connections: list[asyncio.Task[Any] | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(asyncio.current_task())
        writer.write(b"0001 BIRD 2.0.12 ready.\n")
        received.append(await reader.readline())
        if reply is not None:
            writer.write(reply)
        else:
            await reader.read()
        writer.close()
        await writer.wait_closed()

    async def inside() -> Any:
        client = client_of(directory, init)
        await client.refresh()
        path = directory / "files/node_a/run/bird/bird.ctl"
        path.parent.mkdir(parents=True)
        os.chdir(path.parent)  # a short path: AF_UNIX allows 107 bytes
        server = await asyncio.start_unix_server(serve, path.name)
        try:
            return await use(client)
        finally:
            await asyncio.gather(*(task for task in connections if task is not None))
            server.close()
            await server.wait_closed()

    before = Path.cwd()
    try:
        return asyncio.run(inside()), received
    finally:
        os.chdir(before)


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (b"0002-Reading configuration\n0003 Reconfigured\n", None),
        (b"0002-Reading configuration\n0004 Reconfiguration in progress\n", None),
        (
            b"0002-Reading configuration\n8002 bird.conf:1:1 syntax error\n",
            '"configure" on /run/bird/bird.ctl: 0002-Reading configuration; '
            "8002 bird.conf:1:1 syntax error",
        ),
        (b"", '"configure" on /run/bird/bird.ctl: the connection was closed'),
        (None, '"configure" on /run/bird/bird.ctl: no answer within 0.05 s'),
    ],
    ids=["done", "in progress", "refused", "closed", "silent"],
)
def test_a_daemon_is_told_on_its_control_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reply: bytes | None, error: str | None
) -> None:
    """Init records the revision only if the daemon has accepted the command."""
    monkeypatch.setattr(module, "CONTROL_TIMEOUT_S", 5.0 if reply is not None else 0.05)
    init = Init()
    changed = structs.replace(BIRD, revision="new")
    result, commands = run(tmp_path, lambda client: client.reload(changed), init, reply)
    assert (result, commands) == (error, [b"configure\n"])
    recorded = [request for request in init.requests if isinstance(request, DaemonReloaded)]
    assert recorded == ([] if error else [DaemonReloaded(NODE, "bird", "new")])


def test_a_daemon_that_does_not_run_reads_its_files_when_it_starts(tmp_path: Path) -> None:
    """Nothing is sent; init records the revision."""
    init = Init(pid=0)

    async def reload() -> str | None:
        client = client_of(tmp_path, init)
        await client.refresh()
        return await client.reload(BIRD)

    assert asyncio.run(reload()) is None
    assert init.requests[-1] == DaemonReloaded(NODE, "bird", BIRD.revision)


def test_a_link_in_place_of_a_control_socket_is_not_followed(tmp_path: Path) -> None:
    """A program of the node could lead the agent to a socket of the machine."""

    async def use(client: DaemonClient) -> str | None:
        Path("bird.ctl").rename("other.ctl")
        Path("bird.ctl").symlink_to("other.ctl")
        return await client.reload(BIRD)

    result, commands = run(tmp_path, use, Init(), b"0003 Reconfigured\n")
    assert result == '"configure" on /run/bird/bird.ctl: /run/bird/bird.ctl is not a socket'
    assert commands == []


def test_a_signal_is_sent_by_init(tmp_path: Path) -> None:
    """It reaps the daemon, so the pid cannot be another process's."""
    init = Init()

    async def reload() -> str | None:
        return await client_of(tmp_path, init).reload(
            structs.replace(BIRD, reload=ReloadSignal("SIGUSR1"))
        )

    assert asyncio.run(reload()) is None
    assert init.requests == [DaemonReloaded(NODE, "bird", BIRD.revision, signal.SIGUSR1)]


def test_a_daemon_is_started_with_its_directories(tmp_path: Path) -> None:
    """BIRD does not create the directory of its socket."""
    init = Init()

    async def start() -> str | None:
        files = PodFiles("a", "hosts\n", "resolv\n")
        return await client_of(tmp_path, init).start(BIRD, SANDBOX, files)

    assert asyncio.run(start()) is None
    (request,) = init.requests
    assert isinstance(request, StartDaemon)
    assert (request.argv, request.sandbox, request.hosts) == (BIRD.argv, SANDBOX, "hosts\n")
    assert (Path(request.tree) / "run/bird").is_dir()


@pytest.mark.parametrize(
    ("status", "are_running", "expected"),
    [
        ({}, True, [BIRD]),
        ({"revision": "old"}, False, [structs.replace(BIRD, revision="old")]),
        ({"argv": ("bird", "-d")}, False, [structs.replace(BIRD, argv=("bird", "-d"))]),
        ({"pid": 0}, False, [BIRD]),
        ({"pid": 0}, True, []),
        ({"sandbox": ProcessId(11, 2)}, False, []),
        ({"name": "other"}, False, [Daemon(NODE, "other", BIRD.argv, (), BIRD.revision)]),
    ],
    ids=["same", "old files", "old arguments", "ended", "not running", "former node", "unknown"],
)
def test_a_new_agent_compares_what_runs_with_what_is_desired(
    tmp_path: Path, status: dict[str, Any], are_running: bool, expected: list[Daemon]
) -> None:
    """A daemon that differs is reloaded, started again or stopped."""
    init = Init()
    init.status = structs.replace(init.status, **status)

    async def observe() -> list[Daemon]:
        client = client_of(tmp_path, init)
        await client.refresh()
        desired = contents_of([CONFIG, BIRD])
        return list(client.observed(NODE, desired, SANDBOX, are_running=are_running))

    assert asyncio.run(observe()) == expected
