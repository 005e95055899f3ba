"""Identity of processes beyond the pid, which the kernel reuses after a process is reaped.

A pid reliably identifies a process only until its parent reaps it. After that a pidfd is needed, or
the pid together with the start time, which no two processes share.
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
"""More than the fields up to the start time need; `comm` has at most 64 bytes."""


class ProcessId(NamedTuple):
    """Identity of a process: two numbers, which can be sent to other processes as JSON."""

    pid: int
    start: int
    """Start time in clock ticks after boot."""

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        """Identify the process that has a pid now. Raises ProcessLookupError if there is none."""
        return cls(pid, start_time(pid))


def start_time(pid: int | str, proc: int | None = None) -> int:
    """Return the start time of a process, in clock ticks after boot.

    pid: a number, or `self`.
    proc: descriptor of the /proc in which the pid is looked up; default: /proc.

    Raises ProcessLookupError if there is no such process. A zombie still has a start time.

    Source: proc_pid_stat(5), field 22; `comm`, in parentheses, may itself contain spaces and
    parentheses.
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
    """Return a pidfd of a process, which the caller closes.

    Raises ProcessLookupError if the process has been reaped, even if its pid belongs to another
    process now. The start time is read after the pidfd is open: if it is the expected one, the
    pidfd cannot refer to another process.
    """
    pidfd = os.pidfd_open(process.pid)
    try:
        if start_time(process.pid) != process.start:
            raise ProcessLookupError(
                f"process {process.pid} has exited, and its pid belongs to another process"
            )
    except BaseException:
        os.close(pidfd)
        raise
    return pidfd


def has_exited(pidfd: int) -> bool:
    """Return True if a process has exited, reaped or not."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def send_signal(pidfd: int, number: signal.Signals) -> None:
    """Send a signal to a process; succeed if it has been reaped already."""
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
    """A process and its pidfd, which prevents another process from being taken for it."""

    def __init__(self, process: ProcessId) -> None:
        """Open the process. Raises ProcessLookupError if it has been reaped."""
        self.id = process
        self.pidfd = open_process(process)
        """-1 once it is closed."""

    def network(self, home: int) -> AbstractContextManager[None]:
        """Return a context in which this thread is in the process's network namespace.

        home: descriptor of the namespace to return to. Entering the context raises
            ProcessLookupError if the process has exited or is exiting.
        """
        if self.pidfd < 0:
            raise ProcessLookupError(f"process {self.id.pid} has exited")
        return inside_network(self.pidfd, home, is_kept=True)

    def close(self) -> None:
        """Close the pidfd; succeed if it is closed already."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


def end_group(pid: int) -> None:
    """Kill the remaining processes of a process group; succeed if there are none."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
