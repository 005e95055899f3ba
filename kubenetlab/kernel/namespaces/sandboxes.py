"""Creation of sandboxes: namespaces are created, filled, and then held by a pause process.

    unshare(NET) → settings, links, addresses, routes → unshare(UTS|IPC) → sethostname →
    unshare(PID) → posix_spawn(pause)

posix_spawn costs the same whatever the size of the calling process; fork does not. A sandbox is
held only when everything in it exists, so a sandbox that fails half-way leaves nothing behind.
Creating the network and starting the pause process are separate steps, because the first waits for
the RTNL lock and the second for a program to start: another thread can do it meanwhile.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kubenetlab.hoststate.sandbox import Sandbox
from kubenetlab.kernel.namespaces.netns_pool import NetnsPool
from kubenetlab.kernel.processes.identity import ProcessId, has_exited, reap, send_signal
from kubenetlab.kernel.syscalls import (
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWPID,
    CLONE_NEWUTS,
    inside_network,
    open_namespace,
    set_hostname,
    setns,
    spawn,
    unshare,
)

_CLONE_FLAGS = {"net": CLONE_NEWNET, "uts": CLONE_NEWUTS, "ipc": CLONE_NEWIPC}
_EXEC_TIMEOUT_S = 1.0
"""Maximum time to wait for a process to finish execve(), in seconds."""


class Pause:
    """One pause process, which holds a sandbox until it exits.

    A new pause process of the same sandbox is another `Pause`. A child of this process keeps its
    pid until `reap`. A pause process that a former agent started is a child of init, which may reap
    it at any moment: its pidfd was opened before anything was read about the process.
    """

    __slots__ = ("id", "is_adopted", "pidfd")

    def __init__(self, process: ProcessId, pidfd: int = -1, *, is_adopted: bool = False) -> None:
        self.id = process
        self.pidfd = pidfd
        """-1 until `open`, and after `reap`."""
        self.is_adopted = is_adopted
        """True if the process may have been reaped by init, or was reaped here."""

    @property
    def pid(self) -> int:
        """Return the pid in the lab's PID namespace."""
        return self.id.pid

    def open(self) -> int:
        """Return the pidfd, which stays open until `reap`; the caller must not close it."""
        if self.pidfd < 0:
            self.pidfd = os.pidfd_open(self.pid)
        return self.pidfd

    def kill(self) -> None:
        """Kill the process; succeed if it is dead already."""
        if self.pidfd >= 0:
            send_signal(self.pidfd, signal.SIGKILL)
        elif not self.is_adopted:
            # Our child, not reaped yet: the pid cannot belong to another process.
            os.kill(self.pid, signal.SIGKILL)

    def reap(self) -> bool:
        """Reap the process and close its pidfd; return False while it runs."""
        if self.pidfd >= 0:
            if not reap(self.pidfd):
                return False
            os.close(self.pidfd)
            self.pidfd = -1
            self.is_adopted = True  # the pid may belong to another process from now on
        return True


class Sandboxes:
    """Sandboxes of one lab by name; pids are numbers of this PID namespace.

    `pauses` holds the current pause process of each sandbox. It is changed by the threads that
    start pause processes and by the thread that handles their exits.
    """

    def __init__(self, lab: str, pause_path: str) -> None:
        self._lab = lab
        self._pause_path = pause_path
        self._home = {kind: open_namespace(kind) for kind in (*_CLONE_FLAGS, "pid")}
        self._lock = threading.Lock()
        self.pauses: dict[str, Pause] = {}
        self.netns_pool: NetnsPool | None = None
        """Preallocated network namespaces; None when there are none left to use."""

    @property
    def pids(self) -> dict[str, int]:
        """Return the pid of each sandbox's pause process."""
        return {netns: pause.pid for netns, pause in self.pauses.copy().items()}

    def network(
        self, sandbox: Sandbox, fill: Callable[[], None], preallocated: int | None = None
    ) -> int | None:
        """Create a sandbox's network namespace and call `fill` in it.

        preallocated: descriptor of an existing namespace to use instead of a new one.

        Return the namespace's descriptor, for `hold`; None if the sandbox shares the network of
        another one. Exceptions of `fill` are passed on after the namespace is closed.
        """
        if sandbox.shares:
            return None
        try:
            fd = self._enter_new() if preallocated is None else preallocated
            try:
                if preallocated is not None:
                    setns(preallocated, CLONE_NEWNET)
                fill()
            except BaseException:
                os.close(fd)
                raise
            return fd
        finally:
            setns(self._home["net"], CLONE_NEWNET)

    def hold(self, sandbox: Sandbox, network: int | None) -> None:
        """Start the pause process that holds a sandbox.

        network: the result of `network()`; it is closed. None joins the sandbox whose network is
            shared.
        """
        try:
            if network is None:
                self._join(sandbox.shares)
                unshare(CLONE_NEWIPC)
            else:
                setns(network, CLONE_NEWNET)
                unshare(CLONE_NEWUTS | CLONE_NEWIPC)
                set_hostname(sandbox.hostname)
            self._spawn_pause(sandbox.netns)
        finally:
            if network is not None:
                os.close(network)
            self.return_home()

    def remove(self, netns: str) -> None:
        """Kill the pause process and forget the sandbox; succeed if it does not exist.

        The kernel frees what the process held.
        """
        with self._lock:
            pause = self.pauses.pop(netns, None)
        if pause is not None:
            pause.kill()

    def kill(self, netns: str) -> None:
        """Kill the pause process, but leave it to `discard` to forget it.

        Its exit is then reported and recorded like any other.
        """
        if (pause := self.pauses.get(netns)) is not None:
            pause.kill()

    def id(self, netns: str) -> ProcessId | None:
        """Return the identity of a sandbox's pause process; None if it has none."""
        pause = self.pauses.get(netns)
        return pause.id if pause is not None else None

    def discard(self, netns: str, pause: Pause) -> bool:
        """Forget a pause process that has exited.

        Return False if the sandbox has a new pause process by now, or was removed.
        """
        with self._lock:
            if self.pauses.get(netns) is not pause:
                return False
            del self.pauses[netns]
            return True

    @contextmanager
    def inside(self, netns: str, network: int | None = None) -> Iterator[None]:
        """Run the block in a sandbox's network namespace.

        network: descriptor of the namespace of a sandbox without pause process; it is closed.

        Raises KeyError if there is no such sandbox, FileNotFoundError or ProcessLookupError if its
        pause process has exited.
        """
        pidfd = self.pauses[netns].pidfd if network is None else -1
        if pidfd >= 0:
            context = inside_network(pidfd, self._home["net"], is_kept=True)
        else:
            context = inside_network(
                self.open(netns) if network is None else network, self._home["net"]
            )
        with context:
            yield

    def open(self, netns: str, kind: str = "net") -> int:
        """Open one of a sandbox's namespaces; the caller closes the descriptor.

        kind: net, uts, ipc or pid, as in /proc/PID/ns. Raises as `inside` does.
        """
        pause = self.pauses[netns]
        fd = open_namespace(kind, pause.pid)
        # Once init has reaped an adopted process, its pid may belong to another one.
        if pause.is_adopted and (pause.pidfd < 0 or has_exited(pause.pidfd)):
            os.close(fd)
            raise ProcessLookupError(f"the pause process of {netns} has exited")
        return fd

    def adopt(self) -> None:
        """Find the pause processes that are already running, by executable and title.

        If two hold the same sandbox, the older one is killed: the agent that started the newer one
        considered it dead.
        """
        self.pauses.clear()
        prefix = f"{self._lab}/"
        pause_id, own_id = _file_id(self._pause_path), _file_id("/proc/self/exe")
        for entry in os.scandir("/proc"):
            if not entry.name.isdigit():
                continue
            try:
                if _await_executable(entry.path, own_id) != pause_id:
                    continue
                pause = _open_adopted(int(entry.name))
            except OSError:
                continue
            title = _adopted_title(pause, pause_id)
            if title is None or not title.startswith(prefix):
                os.close(pause.pidfd)
                continue
            netns = title.removeprefix(prefix)
            other = self.pauses.get(netns)
            if other is not None and (other.id.start, other.pid) > (pause.id.start, pause.pid):
                pause, other = other, pause
            if other is not None:
                other.kill()
                os.close(other.pidfd)  # init reaps it
            self.pauses[netns] = pause

    def return_home(self) -> None:
        """Return to the namespaces in which this process started."""
        for kind, flag in _CLONE_FLAGS.items():
            setns(self._home[kind], flag)

    def close(self) -> None:
        for fd in self._home.values():
            os.close(fd)

    def close_netns_pool(self) -> None:
        """Close the preallocated namespaces that are left."""
        if self.netns_pool is not None:
            self.netns_pool.close()
            self.netns_pool = None

    def _enter_new(self) -> int:
        """Enter a new network namespace and return its descriptor."""
        unshare(CLONE_NEWNET)
        return open_namespace("net")

    def _join(self, netns: str) -> None:
        for kind in ("net", "uts"):
            fd = self.open(netns, kind)
            try:
                setns(fd, _CLONE_FLAGS[kind])
            finally:
                os.close(fd)

    def _spawn_pause(self, netns: str) -> None:
        """Start a pause process as PID 1 of a new PID namespace."""
        unshare(CLONE_NEWPID)
        try:
            pid = spawn(self._pause_path, [f"{self._lab}/{netns}"])
            try:
                process = ProcessId.of(pid)
            except OSError:
                # Too many open files. Without its identity the process would never be stopped.
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise
            with self._lock:
                former, self.pauses[netns] = self.pauses.get(netns), Pause(process)
            if former is not None:
                # The older process would keep links alive whose names are needed.
                former.kill()
        except OSError as error:
            raise OSError(
                error.errno, f"cannot start its pause process: {error.strerror}"
            ) from None
        finally:
            # Otherwise the kernel refuses the next unshare(CLONE_NEWPID) (EINVAL).
            setns(self._home["pid"], CLONE_NEWPID)


def _open_adopted(pid: int) -> Pause:
    """Open the process that has a pid now. Raises OSError if there is none."""
    pidfd = os.pidfd_open(pid)
    try:
        return Pause(ProcessId.of(pid), pidfd, is_adopted=True)
    except OSError:
        os.close(pidfd)
        raise


def _adopted_title(process: Pause, executable: tuple[int, int]) -> str | None:
    """Return the title of a process that runs `executable`; None for other and exited processes.

    Everything is read while the pidfd is open and counts only if the process still runs afterwards,
    because only then its pid cannot have been reused.
    """
    path = f"/proc/{process.pid}"
    try:
        title = _await_title(path) if _file_id(f"{path}/exe") == executable else None
    except OSError:
        return None
    return None if has_exited(process.pidfd) else title


def _file_id(path: str) -> tuple[int, int]:
    """Return device and inode number, which identify a file whatever its name."""
    stat = os.stat(path)
    return stat.st_dev, stat.st_ino


def _await_executable(process: str, own_id: tuple[int, int]) -> tuple[int, int]:
    """Return the file that a process executes, after it has left this agent's executable.

    posix_spawn() returns before the child has called execve(). An agent that is killed at that
    moment leaves its successor a child that still runs the agent's executable. Such a child is
    recognized as PID 1 of a new PID namespace, and waited for up to _EXEC_TIMEOUT_S.

    Raises OSError if the process is gone.

    Source: fs/exec.c exec_mmap(), which calls exec_mm_release() first (6.1).
    """
    deadline = time.monotonic() + _EXEC_TIMEOUT_S
    while (
        (file_id := _file_id(f"{process}/exe")) == own_id
        and _is_pid_1_of_child_namespace(process)
        and time.monotonic() < deadline
    ):
        os.sched_yield()
    return file_id


def _is_pid_1_of_child_namespace(process: str) -> bool:
    """Return True if a process is PID 1 of a PID namespace below this one."""
    status = Path(process, "status").read_text()
    pids = next(line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:"))
    return len(pids) > 1 and pids[-1] == "1"


def _await_title(process: str) -> str:
    """Return a process's argv[0]; wait for it up to _EXEC_TIMEOUT_S, then return an empty string.

    execve() publishes the new executable, and lets posix_spawn() return, before the arguments.
    Raises OSError if the process is gone or a zombie, which has neither.

    Source: fs/exec.c exec_mmap(), fs/binfmt_elf.c create_elf_tables() (6.12).
    """
    deadline = time.monotonic() + _EXEC_TIMEOUT_S
    while time.monotonic() < deadline:
        if title := Path(process, "cmdline").read_bytes().rstrip(b"\0"):
            return title.decode(errors="replace")
        os.stat(f"{process}/exe")
    return ""
