"""Workers: requests in another process, its errors and its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Collection
from pathlib import Path

import pytest

from kubenetlab.cni.invocations import Invocation
from kubenetlab.kernel.processes.cni_plugins import PluginExecutor
from kubenetlab.kernel.processes.identity import ProcessId
from kubenetlab.lab.nodeagent.plugin_worker import PluginWorker
from tests.labs.lab import wait_for


def me() -> ProcessId:
    return ProcessId.of(os.getpid())


def nothing() -> None:
    pass


def ask(
    *requests: bytes,
    answer: Callable[[bytes], bytes],
    enter: Callable[[], None] = nothing,
) -> list[bytes]:
    """Return the replies of one worker."""

    async def run() -> list[bytes]:
        worker = PluginWorker(me(), enter, lambda request, _: answer(request))
        try:
            return [await worker.call(request) for request in requests]
        finally:
            await worker.close()

    return asyncio.run(run())


def test_a_worker_answers_many_requests() -> None:
    """Also large ones, in one process that is not this one."""
    large = b"x" * 1_000_000
    pids = ask(b"a", b"b", answer=lambda _: str(os.getpid()).encode())
    assert pids[0] == pids[1] != str(os.getpid()).encode()
    assert ask(large, answer=lambda request: request * 2) == [large * 2]


def fails(_: bytes = b"") -> bytes:
    raise ValueError("no such pod")


def test_an_exception_is_an_error_with_its_text() -> None:
    """Both of a request, and of the preparation."""
    with pytest.raises(OSError, match="ValueError: no such pod"):
        ask(b"a", answer=fails)
    with pytest.raises(OSError, match="ValueError: no such pod"):
        ask(b"a", answer=lambda _: b"", enter=lambda: (fails(), None)[1])


def kills_itself(_: bytes) -> bytes:
    os.kill(os.getpid(), signal.SIGKILL)
    return b""


def test_a_worker_that_dies_is_an_error() -> None:
    """The caller does not wait for ever."""
    with pytest.raises(OSError, match="has died"):
        ask(b"a", answer=kills_itself)


def test_a_worker_ends_with_its_node() -> None:
    """It would keep the network namespace alive."""

    async def run() -> None:
        with subprocess.Popen(["sleep", "1000"]) as node:
            worker = PluginWorker(ProcessId.of(node.pid), nothing, lambda request, _: request)
            try:
                assert await worker.call(b"a") == b"a"
                node.kill()
                node.wait()
                wait_for(lambda: os.waitid(os.P_PID, worker._pid, FLAGS), "the end of the worker")
            finally:
                await worker.close()

    asyncio.run(run())


FLAGS = os.WEXITED | os.WNOHANG | os.WNOWAIT


def run_plugin(folder: Path) -> Callable[[bytes, Collection[int]], bytes]:
    """Return an answer: a plugin that writes its pid and that of a child, and hangs with it."""
    plugin = folder / "own"
    plugin.write_text(
        f"#!/bin/sh\nsleep 1000 &\necho $$ $! > {folder}/new\nmv {folder}/new {folder}/pids\nwait\n"
    )
    plugin.chmod(0o755)

    def answer(_: bytes, ends: Collection[int]) -> bytes:
        executor = PluginExecutor([str(folder)], {"PATH": os.environ["PATH"]}, 1000.0, ends)
        executor.run(Invocation("own", {"CNI_COMMAND": "ADD"}, b"{}"))
        return b"the plugin has ended"

    return answer


def hanging(folder: Path) -> list[int]:
    """Return the processes of the plugin that run."""
    path = folder / "pids"
    pids = map(int, path.read_text().split()) if path.exists() else ()
    return [pid for pid in pids if state_of(pid) not in ("", "Z")]


def state_of(pid: int) -> str:
    """Return the state of a process as in /proc; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


@pytest.mark.parametrize("end", ["close", "node"])
def test_a_running_plugin_ends_with_its_worker(tmp_path: Path, end: str) -> None:
    """The worker kills its process group when its caller gives up, or its node ends."""

    async def run() -> None:
        with subprocess.Popen(["sleep", "1000"]) as node:
            worker = PluginWorker(ProcessId.of(node.pid), nothing, run_plugin(tmp_path))
            call = asyncio.create_task(worker.call(b"a"))
            await asyncio.to_thread(wait_for, lambda: len(hanging(tmp_path)) == 2, "the plugin")
            if end == "close":
                call.cancel()
            else:
                node.kill()
                node.wait()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await call
            if end == "close":
                await worker.close()
            wait_for(lambda: not hanging(tmp_path), "the end of the plugin")
            if end == "node":
                await worker.close()
            node.kill()

    asyncio.run(run())


def test_a_running_plugin_ends_with_the_parent_of_its_worker(tmp_path: Path) -> None:
    """The parent is killed, and can do nothing itself."""
    parent = os.fork()
    if parent == 0:
        try:

            async def run() -> None:
                await PluginWorker(me(), nothing, run_plugin(tmp_path)).call(b"a")

            asyncio.run(run())
        finally:
            os._exit(1)
    try:
        wait_for(lambda: len(hanging(tmp_path)) == 2, "the plugin")
    finally:
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
    wait_for(lambda: not hanging(tmp_path), "the end of the plugin")
