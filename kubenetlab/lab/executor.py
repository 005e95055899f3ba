"""Commands of probes: run by init beside a container's own process, with its files and its environment."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from pathlib import Path

from kubenetlab.lab import rundir
from kubenetlab.lab.hands import Hand
from kubenetlab.lab.wire import Message

MAX_OUTPUT_BYTES = 10 * 1024
"""How much of what a command wrote is looked at, as the kubelet does (pkg/probe/exec/exec.go)."""


class Executor:
    """Init, as the prober uses it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._init = Hand("init", str(directory / rundir.INIT_SOCKET), self._heard, lambda: None)
        self._deaths: dict[int, asyncio.Future[int]] = {}
        self._early: dict[int, int] = {}
        """Deaths of which init told before it answered who was born."""
        self._being_born = 0
        self._serial = 0

    async def run(self, netns: str, container: str, command: Sequence[str], timeout_s: float) -> tuple[int, str]:
        """(exit status, what it wrote). Raises TimeoutError, and OSError when the container has no process to run it beside."""
        processes = (await self._init.call(do="list")).get("processes", ())
        beside = next((entry for entry in processes if _is(entry, netns, container)), None)
        if beside is None:
            raise ProcessLookupError(f"container {container} is not running")
        self._serial += 1
        name = f"{container}.probe{self._serial}"
        asked = {"netns": netns, "container": name, "argv": list(command), "beside": beside["pid"]}
        self._being_born += 1
        answer = await self._init.call(do="spawn", role="command", sandbox=beside["sandbox"], arguments=asked)
        self._being_born -= 1
        if "error" in answer:
            raise OSError(str(answer["error"]))
        log = self._directory / rundir.container_log(netns, name)
        try:
            async with asyncio.timeout(timeout_s):
                status = await self._death_of(answer["pid"])
            return status, log.read_bytes()[:MAX_OUTPUT_BYTES].decode(errors="replace").strip()
        except TimeoutError:
            _kill(answer["pid"])
            raise
        finally:
            self._deaths.pop(answer["pid"], None)
            log.unlink(missing_ok=True)

    async def _death_of(self, pid: int) -> int:
        if pid in self._early:
            return self._early.pop(pid)
        self._deaths[pid] = asyncio.get_running_loop().create_future()
        return await self._deaths[pid]

    def _heard(self, event: Message) -> None:
        if event.get("event") != "died" or not event["arguments"].get("beside"):
            return
        code = os.waitstatus_to_exitcode(event["status"])
        waiting = self._deaths.get(event["pid"])
        if waiting is None and self._being_born:
            self._early[event["pid"]] = code
        elif waiting is not None and not waiting.done():
            waiting.set_result(code)


def _is(entry: Message, netns: str, container: str) -> bool:
    who = entry["arguments"]
    return (who["netns"], who["container"]) == (netns, container) and not who.get("beside")


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
