"""Processes identified by more than their number: the kernel gives a pid to another process once the former one is reaped.

A pid names a process reliably only as long as its parent has not reaped it. Everything else needs a pidfd, or the pid together
with the start time: one process has both of them.
"""

from __future__ import annotations

import os
import select
import signal
from contextlib import AbstractContextManager
from typing import NamedTuple

from kubenetlab.kernel.syscalls import inside_network

_START_TIME_FIELD = 22
_STAT_BYTES = 1024
"""More than the fields up to the start time take; `comm` has 64 bytes at most."""


class ProcessId(NamedTuple):
    """A process as one process of the lab names it to another: two numbers, which can be sent as JSON."""

    pid: int
    start: int
    """Start time in clock ticks after boot."""

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        """Identify the process that has a pid now. Raises ProcessLookupError when there is none."""
        return cls(pid, start_time(pid))


def start_time(pid: int | str, proc: int | None = None) -> int:
    """Return the start time of a process, in clock ticks after boot.

    pid:  a number, or `self`.
    proc: descriptor of the /proc in which the pid is looked up; default: /proc.
    Raises ProcessLookupError when there is no such process. A zombie still has a start time.
    Source: proc_pid_stat(5), field 22; `comm`, in parentheses, may itself contain spaces and parentheses.
    """
    try:
        fd = os.open(
            f"{pid}/stat" if proc is not None else f"/proc/{pid}/stat",
            os.O_RDONLY | os.O_CLOEXEC,
            dir_fd=proc,
        )
        try:
            stat = os.read(fd, _STAT_BYTES)
        finally:
            os.close(fd)
    except FileNotFoundError:
        raise ProcessLookupError(f"there is no process {pid}") from None
    return int(stat.rpartition(b")")[2].split(None, _START_TIME_FIELD - 2)[_START_TIME_FIELD - 3])


def open_process(process: ProcessId) -> int:
    """Open a pidfd of a process, which the caller closes.

    Raises ProcessLookupError when the process has been reaped, also when its pid is another process's by now. The start time is
    read after the pidfd is open: the process that has the expected one then has had the pid all the time.
    """
    pidfd = os.pidfd_open(process.pid)
    try:
        if start_time(process.pid) != process.start:
            raise ProcessLookupError(
                f"process {process.pid} has ended, and its pid is in use again"
            )
    except BaseException:
        os.close(pidfd)
        raise
    return pidfd


def has_exited(pidfd: int) -> bool:
    """Return True when a process has exited, reaped or not."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def send_signal(pidfd: int, number: signal.Signals) -> None:
    """Send a signal to a process; success when it has been reaped already."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        pass


def reap(pidfd: int) -> bool:
    """Reap a process that has exited, if it is a child of this one; return False while it runs."""
    try:
        return os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG) is not None
    except ChildProcessError:
        return True  # its parent is another process, or it has been reaped


class Process:
    """A process that is held by a pidfd: its network can be entered as long as it lives, and no other process's in its place."""

    def __init__(self, process: ProcessId) -> None:
        """Raises ProcessLookupError when it has exited."""
        self.id = process
        self.pidfd = open_process(process)
        """-1 once it is closed."""

    def network(self, home: int) -> AbstractContextManager[None]:
        """Stand in the process's network namespace for the length of a block, then in `home` again.

        Entering the block raises ProcessLookupError when the process has exited, or is exiting.
        """
        if self.pidfd < 0:
            raise ProcessLookupError(f"process {self.id.pid} has exited")
        return inside_network(self.pidfd, home, is_kept=True)

    def close(self) -> None:
        """Close the pidfd; success when it is closed already."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


def end_group(pid: int) -> None:
    """Kill what is left of a process group; success when nothing is."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
