"""Commands of probes and hooks: init runs them in the namespaces of the container's process."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from kubenetlab.lab import rundir
from kubenetlab.lab.messages.init import (
    ExecuteInContainer,
    InitEvent,
    ProcessExited,
    SendSignal,
    SignalSent,
    Started,
)
from kubenetlab.lab.transport.protocol import RequestFailed, decoder_of
from kubenetlab.lab.transport.rpc import RpcClient

MAX_OUTPUT_BYTES = 10 * 1024
"""Maximum output of a command that is read. Source: the kubelet's pkg/probe/exec/exec.go."""


class Executor:
    """Client of init that runs commands in containers."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._init = RpcClient[InitEvent](
            "init",
            str(directory / rundir.INIT_SOCKET),
            decoder_of(InitEvent),
            self._on_event,
            self._on_reconnect,
        )
        self._token = os.urandom(4).hex()
        """Part of command names that distinguishes them from those of an earlier process."""
        self._serial = 0
        self._exits: dict[str, asyncio.Future[int]] = {}
        """Exit status of each running command, by name."""
        self._requests: set[asyncio.Future[SignalSent | RequestFailed]] = set()
        """Requests whose replies are ignored, kept so that they are not garbage-collected."""

    async def run(
        self, netns: str, container: str, command: Sequence[str], timeout_s: float
    ) -> tuple[int, str]:
        """Run a command in a container and return its exit status and output.

        Raises TimeoutError after `timeout_s`, and OSError if the container has no process. In every
        case the command has exited or is killed.
        """
        self._serial += 1
        name = f"{container}.probe-{self._token}-{self._serial}"
        exited = self._exits[name] = asyncio.get_running_loop().create_future()
        started = asyncio.ensure_future(
            self._init.call(ExecuteInContainer(name, netns, container, tuple(command)))
        )
        log = self._directory / rundir.container_log(netns, name)
        try:
            async with asyncio.timeout(timeout_s):
                reply = await asyncio.shield(started)
                if isinstance(reply, RequestFailed):
                    raise OSError(reply.error)
                status = await exited
            return status, _read_output(log)
        finally:
            has_status = exited.done() and not exited.cancelled() and exited.exception() is None
            if not has_status:
                # Called in the next loop iteration if the command was started already.
                started.add_done_callback(partial(self._kill, name, log))
            del self._exits[name]
            log.unlink(missing_ok=True)

    def _on_event(self, event: InitEvent) -> None:
        if not isinstance(event, ProcessExited):
            return
        exited = self._exits.get(event.process.run)
        if exited is not None and not exited.done():
            exited.set_result(os.waitstatus_to_exitcode(event.status))

    def _on_reconnect(self) -> None:
        """Fail all running commands: their exits may have been missed while disconnected."""
        for exited in self._exits.values():
            if not exited.done():
                exited.set_exception(ConnectionResetError("the connection to init was lost"))

    def _kill(self, name: str, log: Path, started: asyncio.Future[Started | RequestFailed]) -> None:
        """Tell init to kill a command that was started, and remove its log."""
        log.unlink(missing_ok=True)  # init may have created it after the first removal
        if not started.cancelled() and isinstance(started.result(), Started):
            request = asyncio.ensure_future(self._init.call(SendSignal(name, int(signal.SIGKILL))))
            self._requests.add(request)
            request.add_done_callback(self._requests.discard)


def _read_output(log: Path) -> str:
    """Return the beginning of a command's output; the file is on a tmpfs and read without delay."""
    with open(log, "rb") as stream:
        return stream.read(MAX_OUTPUT_BYTES).decode(errors="replace").strip()
