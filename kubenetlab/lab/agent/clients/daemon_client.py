"""Client of init for daemons of nodes: start, reload and stop them, and know their states."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, cast

from msgspec import structs

from kubenetlab.datapath.pods import PodFiles
from kubenetlab.errors import os_error_text
from kubenetlab.hoststate.daemons import ControlSocket, Daemon
from kubenetlab.hoststate.state import Contents
from kubenetlab.kernel.file_trees import FileTrees
from kubenetlab.kernel.processes.identity import ProcessId
from kubenetlab.lab import rundir
from kubenetlab.lab.messages.daemons import (
    DaemonReloaded,
    DaemonStatus,
    ListDaemons,
    StartDaemon,
    StopDaemon,
)
from kubenetlab.lab.messages.init import InitEvent
from kubenetlab.lab.transport.control_socket import ask
from kubenetlab.lab.transport.protocol import RequestFailed, decoder_of
from kubenetlab.lab.transport.rpc import RpcClient

CONTROL_TIMEOUT_S: Final = 2.0
"""Time allowed for a daemon to open its control socket and to answer a command, in seconds."""
STARTED_AFTER_S: Final = 1.0
"""Duration of a run after which a daemon has got over its start, in seconds."""
CONNECT_INTERVAL_S: Final = 0.02
"""Pause between two attempts to connect to a control socket, in seconds."""

OnChange = Callable[[str], None]
"""Called with the sandbox of a daemon that has started, ended, or been reloaded."""


class DaemonClient:
    """The daemons of all sandboxes, as init and this agent know them."""

    def __init__(self, directory: Path, trees: FileTrees, on_change: OnChange) -> None:
        """Know no daemons, and connect to init with the first request.

        directory: run directory of the lab.
        """
        self._socket = str(directory / rundir.INIT_SOCKET)
        self._trees = trees
        self._on_change = on_change
        self._client: RpcClient[InitEvent] | None = None
        self._statuses: dict[tuple[str, str], DaemonStatus] = {}
        self._seen_at: dict[tuple[str, str], tuple[int, float]] = {}
        """Pid of each daemon, and the time at which this agent learned it (monotonic clock)."""
        self._resyncs: set[asyncio.Task[None]] = set()
        """Running tasks, referenced so that they are not garbage-collected."""

    def status(self, netns: str, name: str) -> DaemonStatus | None:
        """Return the state of a daemon as init last reported it; None if init does not know it."""
        return self._statuses.get((netns, name))

    def is_up(self, daemon: Daemon) -> bool:
        """Return True if a daemon runs and has got over its start.

        It has opened its control socket. A daemon without one, or one that has failed before, has
        to run for a while instead.
        """
        key = daemon.netns, daemon.name
        status = self._statuses.get(key)
        if status is None or not status.pid:
            return False
        pid, since = self._seen_at.get(key, (0, 0.0))
        if pid != status.pid:
            since = time.monotonic()
            self._seen_at[key] = status.pid, since
        if time.monotonic() - since >= STARTED_AFTER_S:
            return True
        return not status.failures and self._has_socket(daemon)

    def _has_socket(self, daemon: Daemon) -> bool:
        if not isinstance(daemon.reload, ControlSocket):
            return False
        directory, name = os.path.split(daemon.reload.path)
        try:
            with self._trees.open_directory(daemon.netns, directory) as fd:
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except OSError:
            return False
        return stat.S_ISSOCK(status.st_mode)

    async def refresh(self) -> None:
        """Ask init for the state of all daemons, as far as it started any."""
        reply = await self._init.call(ListDaemons())
        if not isinstance(reply, RequestFailed):
            self._statuses = {(status.netns, status.name): status for status in reply.daemons}

    def observed(
        self, netns: str, desired: Contents, sandbox: ProcessId | None, *, are_running: bool = False
    ) -> Iterator[Daemon]:
        """Yield the daemons of a sandbox as init has them.

        are_running: leave out those that do not run at the moment.
        """
        for status in self._statuses.values():
            if (status.netns, status.sandbox) != (netns, sandbox) or (
                are_running and not status.pid
            ):
                continue
            planned = desired.get(("Daemon", status.name))
            if isinstance(planned, Daemon):
                yield structs.replace(planned, argv=status.argv, revision=status.revision)
            else:
                yield Daemon(netns, status.name, status.argv, (), status.revision)

    async def start(self, daemon: Daemon, sandbox: ProcessId, files: PodFiles) -> str | None:
        """Start a daemon, in place of a former one of its name; return an error or None."""
        if isinstance(daemon.reload, ControlSocket):
            directory = os.path.dirname(daemon.reload.path)
            try:
                self._trees.make_directory(daemon.netns, directory)
            except OSError as error:
                return f"{directory}: {os_error_text(error)}"
        request = StartDaemon(
            daemon.netns,
            sandbox,
            daemon.name,
            daemon.argv,
            daemon.revision,
            str(self._trees.path(daemon.netns)),
            files.hosts,
            files.resolv_conf,
            daemon.restart_options,
        )
        reply = await self._init.call(request)
        self._on_change(daemon.netns)
        return reply.error if isinstance(reply, RequestFailed) else None

    async def reload(self, daemon: Daemon) -> str | None:
        """Make a daemon read its files again; return an error or None.

        A daemon that does not run reads them when it starts.
        """
        number = 0
        if isinstance(daemon.reload, ControlSocket):
            try:
                await self._command(daemon, daemon.reload)
            except OSError as error:
                await self.refresh()
                status = self.status(daemon.netns, daemon.name)
                if status is not None and status.pid:
                    return f"{daemon.reload}: {os_error_text(error)}"
        else:
            number = signal.Signals[daemon.reload.name]
        reply = await self._init.call(
            DaemonReloaded(daemon.netns, daemon.name, daemon.revision, number)
        )
        self._on_change(daemon.netns)
        return reply.error if isinstance(reply, RequestFailed) else None

    async def stop(self, daemon: Daemon) -> None:
        """Stop a daemon; success if it is gone already."""
        self._statuses.pop((daemon.netns, daemon.name), None)
        await self._init.call(StopDaemon(daemon.netns, daemon.name))

    def forget(self, netns: str) -> None:
        """Drop the daemons of a sandbox that is gone: they have ended with it."""
        for key in [key for key in self._statuses if key[0] == netns]:
            del self._statuses[key]

    @property
    def _init(self) -> RpcClient[InitEvent]:
        if self._client is None:
            self._client = RpcClient(
                "init", self._socket, decoder_of(InitEvent), self._receive, self._resync
            )
        return self._client

    def _receive(self, event: InitEvent) -> None:
        if isinstance(event, DaemonStatus):
            self._statuses[event.netns, event.name] = event
            self._on_change(event.netns)

    def _resync(self) -> None:
        """Ask for everything again: events may be lost, as the connection was broken."""
        self._resyncs.add(task := asyncio.get_running_loop().create_task(self.refresh()))
        task.add_done_callback(self._resyncs.discard)

    async def _command(self, daemon: Daemon, control: ControlSocket) -> None:
        """Send the reload command. Raises OSError if it is not accepted in time."""
        try:
            async with asyncio.timeout(CONTROL_TIMEOUT_S):
                lines = await self._ask(daemon, control)
        except TimeoutError:
            raise OSError(f"no answer within {CONTROL_TIMEOUT_S:g} s") from None
        if not any(line[:4] in control.accepted for line in lines):
            raise OSError("; ".join(lines))

    async def _ask(self, daemon: Daemon, control: ControlSocket) -> list[str]:
        """Return the lines of the answer to the reload command.

        A daemon that has just started may not have opened its socket yet.
        """
        while True:
            try:
                return await ask(self._trees, daemon.netns, control.path, control.reload)
            except (FileNotFoundError, ConnectionError):
                status = self.status(daemon.netns, daemon.name)
                if status is None or not status.pid:
                    raise
                await asyncio.sleep(CONNECT_INTERVAL_S)


def daemons_of(contents: Contents) -> Iterable[Daemon]:
    """Return the daemons among the objects of a namespace."""
    # An attribute of the class takes a quarter of the time of isinstance().
    return cast("list[Daemon]", [obj for obj in contents.values() if obj.applier == Daemon.applier])
