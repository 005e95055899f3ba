"""Computations in a forked child process: results and failures."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

import pytest

from kubenetlab.lab.nodeagent.forked import in_child


def test_a_result_may_be_larger_than_a_pipe() -> None:
    data = os.urandom(1024 * 1024)
    assert asyncio.run(in_child(lambda: data)) == data


def fail() -> bytes:
    raise ValueError("no such thing")


def die() -> bytes:
    os.kill(os.getpid(), signal.SIGKILL)
    return b""


@pytest.mark.parametrize(
    ("work", "reason"), [(fail, "ValueError: no such thing"), (die, "ended with status -9")]
)
def test_a_failure_of_the_child_raises_an_error(work: Callable[[], bytes], reason: str) -> None:
    """An exception in the child, and its death, never look like an empty result."""
    with pytest.raises(OSError, match=reason):
        asyncio.run(in_child(work))


def test_the_event_loop_runs_while_the_child_works() -> None:
    """The child waits for a byte that another task of the loop writes."""
    reading, writing = os.pipe()

    async def both() -> bytes:
        waiting = asyncio.ensure_future(in_child(lambda: os.read(reading, 5)))
        await asyncio.sleep(0)
        os.write(writing, b"later")
        return await waiting

    assert asyncio.run(both()) == b"later"
    os.close(reading)
    os.close(writing)


def test_a_child_is_killed_when_its_caller_is_cancelled() -> None:
    """No process is left behind."""
    reading, writing = os.pipe()

    def wait() -> bytes:
        os.write(writing, str(os.getpid()).encode())
        signal.pause()
        return b""

    async def give_up() -> int:
        loop, started = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(reading, started.set)
        task = loop.create_task(in_child(wait))
        await started.wait()
        loop.remove_reader(reading)
        child = int(os.read(reading, 20))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return child

    child = asyncio.run(give_up())
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    os.close(reading)
    os.close(writing)
