"""Making sandboxes: new namespaces, filled while we stand in them, then held by a pause process.

    unshare(NET) → settings, links, addresses, routes → unshare(UTS|IPC) → sethostname → unshare(PID) → posix_spawn(pause)

posix_spawn costs the same whatever this process has in memory; a fork would not. Nothing is held before everything in it is there,
so a sandbox that fails half-way leaves nothing behind. The network is one step and the pause process another, because the first
waits for the lock of all links and the second for a program to start: another thread may do it meanwhile.
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

_KINDS = {"net": CLONE_NEWNET, "uts": CLONE_NEWUTS, "ipc": CLONE_NEWIPC}
_EXEC_TIMEOUT_S = 1.0


class Pause:
    """One pause process. It stands for one life of a sandbox: a successor of the same name is another `Pause`.

    Our own child keeps its pid until `reap`. A pause process that a former agent started is init's child, which may reap it at
    any moment: its pidfd was opened before anything was read of the process.
    """

    __slots__ = ("id", "is_adopted", "pidfd")

    def __init__(self, process: ProcessId, pidfd: int = -1, *, is_adopted: bool = False) -> None:
        self.id = process
        self.pidfd = pidfd
        """-1 until `open`."""
        self.is_adopted = is_adopted

    @property
    def pid(self) -> int:
        """Its number in the lab's PID namespace."""
        return self.id.pid

    def open(self) -> int:
        """Return the pidfd, which stays ours until `reap`."""
        if self.pidfd < 0:
            self.pidfd = os.pidfd_open(self.pid)
        return self.pidfd

    def kill(self) -> None:
        """Kill the process; success when it is dead already."""
        if self.pidfd >= 0:
            send_signal(self.pidfd, signal.SIGKILL)
        elif not self.is_adopted:
            os.kill(
                self.pid, signal.SIGKILL
            )  # our child, not reaped: the pid cannot be another process's

    def reap(self) -> bool:
        """Reap the process and close its pidfd; return False while it runs."""
        if self.pidfd >= 0:
            if not reap(self.pidfd):
                return False
            os.close(self.pidfd)
            self.pidfd = -1
            self.is_adopted = True  # the pid may be another process's from now on
        return True


class Sandboxes:
    """The pause processes of one lab, by the name of their sandbox; pids are numbers of this PID namespace.

    `pauses` names the one that holds a sandbox now. It is changed by the threads that start pause processes, and by the thread
    that hears of their deaths.
    """

    def __init__(self, lab: str, pause_path: str) -> None:
        self._lab = lab
        self._pause_path = pause_path
        self._home = {kind: open_namespace(kind) for kind in (*_KINDS, "pid")}
        self._lock = threading.Lock()
        self.pauses: dict[str, Pause] = {}
        self.blanks: NetnsPool | None = None
        """Network namespaces that were made ahead, as long as there are some."""

    @property
    def pids(self) -> dict[str, int]:
        """The pid of each sandbox's pause process."""
        return {netns: pause.pid for netns, pause in self.pauses.copy().items()}

    def network(
        self, sandbox: Sandbox, fill: Callable[[], None], blank: int | None = None
    ) -> int | None:
        """A sandbox's network namespace: calls `fill` in it and returns its descriptor, for `hold`; None where it shares another's.

        `blank` is the descriptor of one that was made ahead. Whatever `fill` raises is passed on, and the namespace is gone.
        """
        if sandbox.shares:
            return None
        try:
            fd = self._enter_new() if blank is None else blank
            try:
                if blank is not None:
                    setns(blank, CLONE_NEWNET)
                fill()
            except BaseException:
                os.close(fd)
                raise
            return fd
        finally:
            setns(self._home["net"], CLONE_NEWNET)

    def hold(self, sandbox: Sandbox, network: int | None) -> None:
        """Start the pause process that holds the sandbox; closes `network`, the descriptor returned by the method of that name."""
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
            self.go_home()

    def remove(self, netns: str) -> None:
        """Kill the pause process; the kernel frees what it held. Success when it is gone already."""
        with self._lock:
            pause = self.pauses.pop(netns, None)
        if pause is not None:
            pause.kill()

    def kill(self, netns: str) -> None:
        """Kill the pause process without forgetting it: its exit is reported and recorded like any other."""
        if (pause := self.pauses.get(netns)) is not None:
            pause.kill()

    def id(self, netns: str) -> ProcessId | None:
        """Return the identity of a sandbox's pause process; None when there is none."""
        pause = self.pauses.get(netns)
        return pause.id if pause is not None else None

    def discard(self, netns: str, pause: Pause) -> bool:
        """Record that a pause process has exited; return False when another one holds the sandbox, or none should."""
        with self._lock:
            if self.pauses.get(netns) is not pause:
                return False
            del self.pauses[netns]
            return True

    @contextmanager
    def inside(self, netns: str, network: int | None = None) -> Iterator[None]:
        """Stand in a sandbox's network namespace for the length of the block.

        A sandbox that has no pause process yet is given by `network`, a descriptor, which is closed. Raises KeyError when there is
        no such sandbox, FileNotFoundError or ProcessLookupError when its pause process has died.
        """
        pidfd = self.pauses[netns].pidfd if network is None else -1
        if pidfd >= 0:
            where = inside_network(pidfd, self._home["net"], is_kept=True)
        else:
            where = inside_network(
                self.open(netns) if network is None else network, self._home["net"]
            )
        with where:
            yield

    def open(self, netns: str, kind: str = "net") -> int:
        """Open one of a sandbox's namespaces; the caller closes the descriptor. Raises as `inside` does."""
        pause = self.pauses[netns]
        fd = open_namespace(kind, pause.pid)
        if pause.is_adopted and (
            pause.pidfd < 0 or has_exited(pause.pidfd)
        ):  # init may have reaped it, and its pid be in use again
            os.close(fd)
            raise ProcessLookupError(f"the pause process of {netns} has died")
        return fd

    def adopt(self) -> None:
        """Find the pause processes that run already, by executable and title.

        Of two that hold a sandbox of the same name the older one is killed: the agent that started the newer one took it for dead.
        """
        self.pauses.clear()
        prefix = f"{self._lab}/"
        pause, ours = _file(self._pause_path), _file("/proc/self/exe")
        for entry in os.scandir("/proc"):
            if not entry.name.isdigit():
                continue
            try:
                if _executable(entry.path, ours) != pause:
                    continue
                found = _opened(int(entry.name))
            except OSError:
                continue
            title = _title_of(found, pause)
            if title is None or not title.startswith(prefix):
                os.close(found.pidfd)
                continue
            netns = title.removeprefix(prefix)
            former = self.pauses.get(netns)
            if former is not None and (former.id.start, former.pid) > (found.id.start, found.pid):
                found, former = former, found
            if former is not None:
                former.kill()
                os.close(former.pidfd)  # init reaps it
            self.pauses[netns] = found

    def go_home(self) -> None:
        """Back to the namespaces this process began in."""
        for kind, flag in _KINDS.items():
            setns(self._home[kind], flag)

    def close(self) -> None:
        for fd in self._home.values():
            os.close(fd)

    def close_blanks(self) -> None:
        """Those that are not needed go."""
        if self.blanks is not None:
            self.blanks.close()
            self.blanks = None

    def _enter_new(self) -> int:
        """Into a new network namespace; its descriptor."""
        unshare(CLONE_NEWNET)
        return open_namespace("net")

    def _join(self, netns: str) -> None:
        for kind in ("net", "uts"):
            fd = self.open(netns, kind)
            try:
                setns(fd, _KINDS[kind])
            finally:
                os.close(fd)

    def _spawn_pause(self, netns: str) -> None:
        """Start a pause process as PID 1 of a PID namespace of its own."""
        unshare(CLONE_NEWPID)
        try:
            pid = spawn(self._pause_path, [f"{self._lab}/{netns}"])
            try:
                process = ProcessId.of(pid)
            except (
                OSError
            ):  # too many open files: a pause process that nobody knows of would never be ended
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise
            with self._lock:
                former, self.pauses[netns] = self.pauses.get(netns), Pause(process)
            if former is not None:
                former.kill()  # never two of them: the older one would keep links alive under names that are needed
        except OSError as error:
            raise OSError(error.errno, f"start of its pause process: {error.strerror}") from None
        finally:
            setns(
                self._home["pid"], CLONE_NEWPID
            )  # else the next unshare(CLONE_NEWPID) is refused (EINVAL)


def _opened(pid: int) -> Pause:
    """Open the process that has a pid now. Raises OSError when there is none."""
    pidfd = os.pidfd_open(pid)
    try:
        return Pause(ProcessId.of(pid), pidfd, is_adopted=True)
    except OSError:
        os.close(pidfd)
        raise


def _title_of(process: Pause, executable: tuple[int, int]) -> str | None:
    """Return the title of a process that runs `executable`; None for others and for what has died meanwhile.

    All is read while the pidfd is open, and counts only if the process lives after that: until then its pid is its own.
    """
    path = f"/proc/{process.pid}"
    try:
        title = _title(path) if _file(f"{path}/exe") == executable else None
    except OSError:
        return None
    return None if has_exited(process.pidfd) else title


def _file(path: str) -> tuple[int, int]:
    """What tells two files apart, whatever their names."""
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _executable(process: str, ours: tuple[int, int]) -> tuple[int, int]:
    """The file that a process runs, awaited where it is the first of its PID namespace and runs what we run: posix_spawn() returns to its
    caller before the child has left our executable, and an agent that is killed then leaves such a child to the next.

    Raises OSError when the process is gone.
    Source: fs/exec.c exec_mmap(), which calls exec_mm_release() first (6.1).
    """
    deadline = time.monotonic() + _EXEC_TIMEOUT_S
    while (
        (found := _file(f"{process}/exe")) == ours
        and _is_first_inside(process)
        and time.monotonic() < deadline
    ):
        os.sched_yield()
    return found


def _is_first_inside(process: str) -> bool:
    """Whether a process is PID 1 of a PID namespace below ours."""
    status = Path(process, "status").read_text()
    pids = next(line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:"))
    return len(pids) > 1 and pids[-1] == "1"


def _title(process: str) -> str:
    """A process's argv[0], awaited: execve() shows the new executable, and returns to posix_spawn's caller, before the arguments.

    Raises OSError when the process is gone or not more than a zombie, which has neither.
    Source: fs/exec.c exec_mmap(), fs/binfmt_elf.c create_elf_tables() (6.12).
    """
    deadline = time.monotonic() + _EXEC_TIMEOUT_S
    while time.monotonic() < deadline:
        if title := Path(process, "cmdline").read_bytes().rstrip(b"\0"):
            return title.decode(errors="replace")
        os.stat(f"{process}/exe")
    return ""
