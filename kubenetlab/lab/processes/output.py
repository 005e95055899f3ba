"""What processes in pods print: init reads it from pipes and writes it to their logs, which never become larger than they may.

A process that wrote to its log itself could fill the machine's memory, where /run lies, in seconds. A pipe holds 64 KB: a process
that prints faster than init writes waits, as with any container runtime.
"""

from __future__ import annotations

import os
import select
import time
from typing import Final

from msgspec import Struct

from kubenetlab.errors import refusal
from kubenetlab.lab.log import say
from kubenetlab.lab.runtime.container_logs import MARK_EVERY_S, MAX_BYTES, mark

CHUNK_BYTES: Final = 64 * 1024
"""Read at a time: the capacity of a pipe."""


class _Output(Struct):
    path: str
    log: int
    """Descriptor of the file; -1 where it could not be opened."""
    pid: int = 0
    marked_at: float = -1.0
    """When the time was last noted, by the monotonic clock."""
    has_times: bool = True
    """True while the times of what is written are noted beside the log."""
    is_lost: bool = False
    """True while the file cannot be written to: that is said once."""


class Outputs:
    """The pipes of init from processes in pods."""

    def __init__(self, poll: select.poll) -> None:
        """`poll` is told which descriptors to wait for."""
        self._poll = poll
        self._outputs: dict[int, _Output] = {}

    def __contains__(self, fd: int) -> bool:
        return fd in self._outputs

    def open(self, path: str, *, has_times: bool = True) -> tuple[int, int]:
        """Return (reading end, writing end) of a pipe into the log at a path; the caller closes the writing end. Raises OSError.

        has_times: note beside the log when each part was written (container_logs.mark).
        """
        reading, writing = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(reading, False)
        log, error = -1, None
        try:
            log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as refused:
            error = refused
        self._outputs[reading] = _Output(path, log, has_times=has_times, is_lost=error is not None)
        if error is not None:
            _say_lost(path, error)
        self._poll.register(reading, select.POLLIN)
        return reading, writing

    def belongs_to(self, fd: int, pid: int) -> None:
        """Note which process prints into a pipe."""
        self._outputs[fd].pid = pid

    def pump(self, fd: int) -> bool:
        """Move what a pipe holds to its log; False when nothing is left in it for now. Closes it at its end."""
        try:
            data = os.read(fd, CHUNK_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self.close(fd)
            return False
        self._write(self._outputs[fd], data)
        return True

    def drain(self, pid: int) -> None:
        """Move all that a process has printed, which has ended: whoever is told of its end finds it in the log."""
        for fd in [fd for fd, output in self._outputs.items() if output.pid == pid]:
            for _ in range(MAX_BYTES // CHUNK_BYTES):  # others may hold the pipe, and go on
                if not self.pump(fd):
                    break

    def close(self, fd: int) -> None:
        """Let go of a pipe."""
        output = self._outputs.pop(fd)
        self._poll.unregister(fd)
        os.close(fd)
        if output.log >= 0:
            os.close(output.log)

    def close_inherited(self) -> None:
        """Let go of all pipes in a fork of init, whose logs they are not."""
        for fd, output in self._outputs.items():
            os.close(fd)
            if output.log >= 0:
                os.close(output.log)
        self._outputs.clear()

    def _write(self, output: _Output, data: bytes) -> None:
        if output.log < 0:
            return
        try:
            size = os.fstat(output.log).st_size
            if size + len(data) > MAX_BYTES:
                os.ftruncate(output.log, 0)
                size = 0
            if output.has_times and (
                size == 0 or time.monotonic() - output.marked_at >= MARK_EVERY_S
            ):
                mark(output.path, time.time(), size)
                output.marked_at = time.monotonic()
            os.write(output.log, data)
            output.is_lost = False
        except OSError as error:  # the disk is full
            if not output.is_lost:
                _say_lost(output.path, error)
            output.is_lost = True


def _say_lost(path: str, error: OSError) -> None:
    say(f"{os.path.basename(path)}: what the container prints is lost: {refusal(error)}")


def print_into(path: str) -> None:
    """Have this process print into a file, and read nothing. Raises OSError."""
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    become_output(log)
    os.close(log)


def become_output(output: int) -> None:
    """Have this process print into a descriptor, and read nothing."""
    null = os.open("/dev/null", os.O_RDWR)
    for target, source in ((0, null), (1, output), (2, output)):
        os.dup2(source, target)
    os.close(null)
