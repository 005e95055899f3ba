"""Commands of probes: run by init beside a container's own process, with its files and its environment."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from kubenetlab.lab import rundir
from kubenetlab.lab.transport.frames import Message
from kubenetlab.lab.transport.rpc import RpcClient

MAX_OUTPUT_BYTES = 10 * 1024
"""How much of what a command wrote is looked at, as the kubelet does (pkg/probe/exec/exec.go)."""


class Executor:
    """Init, as the prober uses it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._init = RpcClient("init", str(directory / rundir.INIT_SOCKET), self._heard, self._lost)
        self._token = os.urandom(4).hex()
        """Tells our commands from those of a process that was here before us."""
        self._serial = 0
        self._ends: dict[str, asyncio.Future[int]] = {}
        """Commands under way, by their names."""
        self._requests: set[asyncio.Future[Message]] = set()
        """Requests whose answers nobody needs."""

    async def run(
        self, netns: str, container: str, command: Sequence[str], timeout_s: float
    ) -> tuple[int, str]:
        """(exit status, what it wrote). Raises TimeoutError, and OSError when the container has no process to run it beside.

        However this ends, the command has ended, or is killed.
        """
        self._serial += 1
        name = f"{container}.probe-{self._token}-{self._serial}"
        end = self._ends[name] = asyncio.get_running_loop().create_future()
        asked = {"netns": netns, "container": name, "argv": list(command), "beside": container}
        born = asyncio.ensure_future(
            self._init.call(do="exec", run=name, role="command", arguments=asked)
        )
        log = self._directory / rundir.container_log(netns, name)
        try:
            async with asyncio.timeout(timeout_s):
                answer = await asyncio.shield(born)
                if "error" in answer:
                    raise OSError(str(answer["error"]))
                status = await end
            with open(log, "rb") as stream:
                output = stream.read(MAX_OUTPUT_BYTES)
            return status, output.decode(errors="replace").strip()
        finally:
            is_heard = end.done() and not end.cancelled() and end.exception() is None
            if not is_heard:
                born.add_done_callback(
                    partial(self._kill, name, log)
                )  # at once, when it was born already
            del self._ends[name]
            log.unlink(missing_ok=True)

    def _heard(self, event: Message) -> None:
        if event["event"] != "exited":
            return
        end = self._ends.get(event["run"])
        if end is not None and not end.done():
            end.set_result(os.waitstatus_to_exitcode(event["status"]))

    def _lost(self) -> None:
        """The connection broke for a moment: who died meanwhile is not known."""
        for end in self._ends.values():
            if not end.done():
                end.set_exception(ConnectionResetError("init was not heard for a moment"))

    def _kill(self, name: str, log: Path, born: asyncio.Future[Message]) -> None:
        """Have init kill a command that was started, and remove its log; success when it has exited already."""
        log.unlink(missing_ok=True)  # again: init makes it before it answers
        if not born.cancelled() and "pid" in born.result():
            asked = asyncio.ensure_future(
                self._init.call(do="signal", run=name, signal=int(signal.SIGKILL))
            )
            self._requests.add(asked)
            asked.add_done_callback(self._requests.discard)
