"""Computations in a forked child process, awaited in the event loop."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

from kubenetlab.kernel.syscalls import die_with_parent, fork


async def in_child(work: Callable[[], bytes]) -> bytes:
    """Run `work` in a forked child process and return its result.

    For work that takes long, changes namespaces, or may crash in a C library. The child is killed
    when this process exits or the caller is cancelled.
    Raises OSError if the child cannot be created, raises an exception, or dies.
    """
    reading, writing = os.pipe()
    try:
        child = fork()
    except OSError:
        os.close(reading)
        os.close(writing)
        raise
    if child == 0:
        _run(work, writing)
    os.close(writing)
    try:
        result = await _read(reading)
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        # Does not block for long: the child has closed its pipe at exit, or was killed.
        _, status = os.waitpid(child, 0)  # noqa: ASYNC222
    if status:
        reason = (
            result.decode(errors="replace")
            or f"ended with status {os.waitstatus_to_exitcode(status)}"
        )
        raise OSError(f"the child process failed: {reason}")
    return result


def _run(work: Callable[[], bytes], writing: int) -> None:
    """Write the result of `work`, or the text of its exception, to a pipe; never return."""
    status = 1
    try:
        die_with_parent(signal.SIGKILL)
        with os.fdopen(writing, "wb") as pipe:
            try:
                pipe.write(work())
                status = 0
            except Exception as error:
                pipe.write(f"{type(error).__name__}: {error}".encode())
    finally:
        os._exit(status)


async def _read(fd: int) -> bytes:
    """Read a pipe to its end and close it."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb")
    )
    try:
        return await reader.read()
    finally:
        transport.close()
