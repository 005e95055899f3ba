"""Workers: requests in another process, its errors and its end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable

import pytest

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
        worker = PluginWorker(me(), enter, answer)
        try:
            return [await worker.call(request) for request in requests]
        finally:
            worker.close()

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
            worker = PluginWorker(ProcessId.of(node.pid), nothing, lambda request: request)
            try:
                assert await worker.call(b"a") == b"a"
                node.kill()
                node.wait()
                wait_for(lambda: os.waitid(os.P_PID, worker._pid, FLAGS), "the end of the worker")
            finally:
                worker.close()

    asyncio.run(run())


FLAGS = os.WEXITED | os.WNOHANG | os.WNOWAIT
