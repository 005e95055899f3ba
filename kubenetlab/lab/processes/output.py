"""Output of processes in pods: init reads it from pipes and writes it to logs of bounded size.

A process that wrote to its log itself could fill the machine's memory, which holds /run, in
seconds. A pipe holds 64 KiB: a process that prints faster than init writes is blocked, as with any
container runtime.
"""

from __future__ import annotations

import os
import select
import time
from typing import Final

from msgspec import Struct

from kubenetlab.errors import os_error_text
from kubenetlab.lab.log import write_text
from kubenetlab.lab.runtime.container_logs import MARK_EVERY_S, MAX_BYTES, mark

CHUNK_BYTES: Final = 64 * 1024
"""Bytes read at a time: the capacity of a pipe."""


class _Output(Struct):
    """A pipe from a process, and the log file that its output is written to."""

    path: str
    log: int
    """Descriptor of the file; -1 if it could not be opened."""
    pid: int = 0
    """The process; 0 until it has been started."""
    marked_at: float = -1.0
    """Time at which a time was last recorded, by the monotonic clock."""
    has_times: bool = True
    """True if a file beside the log records when each part was written."""
    is_lost: bool = False
    """True while the file cannot be written; logged once."""


class Outputs:
    """The pipes from processes in pods to init, by the descriptor of their reading end."""

    def __init__(self, poll: select.poll) -> None:
        """Create a set without pipes.

        poll: registers the reading ends; the caller calls `pump` for those that are readable.
        """
        self._poll = poll
        self._outputs: dict[int, _Output] = {}

    def __contains__(self, fd: int) -> bool:
        return fd in self._outputs

    def open(self, path: str, *, has_times: bool = True) -> tuple[int, int]:
        """Open a pipe whose contents are written to a log; return (reading end, writing end).

        The caller closes the writing end. Output is lost if the log cannot be opened. Raises
        OSError if there can be no pipe.

        path:      of the log file.
        has_times: True to record beside the log when each part was written (container_logs.mark).
        """
        reading, writing = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(reading, False)
        log, error = -1, None
        try:
            log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as open_error:
            error = open_error
        self._outputs[reading] = _Output(path, log, has_times=has_times, is_lost=error is not None)
        if error is not None:
            _log_loss(path, error)
        self._poll.register(reading, select.POLLIN)
        return reading, writing

    def set_process(self, fd: int, pid: int) -> None:
        """Record which process writes to a pipe."""
        self._outputs[fd].pid = pid

    def pump(self, fd: int) -> bool:
        """Move one chunk from a pipe to its log; close the pipe at its end.

        Return False if the pipe is empty or closed.
        """
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
        """Move all output of a process that has exited to its log, before its exit is reported."""
        for fd in [fd for fd, output in self._outputs.items() if output.pid == pid]:
            # Bounded, because children of the process may go on writing to the pipe.
            for _ in range(MAX_BYTES // CHUNK_BYTES):
                if not self.pump(fd):
                    break

    def close(self, fd: int) -> None:
        """Close a pipe and its log."""
        output = self._outputs.pop(fd)
        self._poll.unregister(fd)
        os.close(fd)
        if output.log >= 0:
            os.close(output.log)

    def close_inherited(self) -> None:
        """Close all pipes and logs in a fork of init."""
        for fd, output in self._outputs.items():
            os.close(fd)
            if output.log >= 0:
                os.close(output.log)
        self._outputs.clear()

    def _write(self, output: _Output, data: bytes) -> None:
        """Append to a log, which is truncated before it would exceed MAX_BYTES."""
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
        except OSError as error:  # most likely the disk is full
            if not output.is_lost:
                _log_loss(output.path, error)
            output.is_lost = True


def _log_loss(path: str, error: OSError) -> None:
    write_text(
        f"{os.path.basename(path)}: the output of the container is lost: {os_error_text(error)}"
    )


def print_into(path: str) -> None:
    """Redirect the output of this process to a file, and its input to /dev/null. Raises OSError."""
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    become_output(log)
    os.close(log)


def become_output(output: int) -> None:
    """Redirect the output of this process to a descriptor, and its input to /dev/null."""
    null = os.open("/dev/null", os.O_RDWR)
    for target, source in ((0, null), (1, output), (2, output)):
        os.dup2(source, target)
    os.close(null)
