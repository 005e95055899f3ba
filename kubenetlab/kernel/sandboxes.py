"""Making sandboxes: new namespaces, filled while we stand in them, then held by a pause process.

    unshare(NET) → settings, links, addresses, routes → unshare(UTS|IPC) → sethostname → unshare(PID) → posix_spawn(pause)

posix_spawn costs the same whatever this process has in memory; a fork would not. Nothing is held before everything in it is there,
so a sandbox that fails half-way leaves nothing behind. The network is one step and the pause process another, because the first
waits for the lock of all links and the second for a program to start: another thread may do it meanwhile.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kubenetlab.hoststate.sandbox import Sandbox
from kubenetlab.kernel.blanks import Blanks
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


class Sandboxes:
    """The pause processes of one lab, by the name of their sandbox; `pids` are numbers of this PID namespace."""

    def __init__(self, lab: str, pause_path: str) -> None:
        self._lab = lab
        self._pause_path = pause_path
        self._home = {kind: open_namespace(kind) for kind in (*_KINDS, "pid")}
        self.pids: dict[str, int] = {}
        self.blanks: Blanks | None = None
        """Network namespaces that were made ahead, as long as there are some."""

    def network(self, sandbox: Sandbox, fill: Callable[[], None], blank: int | None = None) -> int | None:
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

    def hold(self, sandbox: Sandbox, network: int | None) -> int:
        """Has a pause process hold what `network` has returned, whose descriptor it closes, and all else that is the sandbox's. Its pid."""
        try:
            if network is None:
                self._join(sandbox.shares)
                unshare(CLONE_NEWIPC)
            else:
                setns(network, CLONE_NEWNET)
                unshare(CLONE_NEWUTS | CLONE_NEWIPC)
                set_hostname(sandbox.hostname)
            self.pids[sandbox.netns] = pid = self._spawn_pause(sandbox.netns)
            return pid
        finally:
            if network is not None:
                os.close(network)
            self.go_home()

    def remove(self, netns: str) -> None:
        """Kills the pause process; the kernel frees what it held. Success when it is gone already."""
        pid = self.pids.pop(netns, 0)
        if pid:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    @contextmanager
    def inside(self, netns: str, network: int | None = None) -> Iterator[None]:
        """Stands in a sandbox's network namespace for the length of the block. Raises KeyError when there is no such sandbox.

        One that has no pause process yet is told by a descriptor, which is closed.
        """
        with inside_network(self.open(netns) if network is None else network, self._home["net"]):
            yield

    def open(self, netns: str, kind: str = "net") -> int:
        """A descriptor of one of a sandbox's namespaces; the caller closes it."""
        return open_namespace(kind, self.pids[netns])

    def adopt(self) -> dict[str, int]:
        """Finds the pause processes that run already, by title and executable; returns them by sandbox."""
        found: dict[str, int] = {}
        prefix = f"{self._lab}/"
        pause, ours = _file(self._pause_path), _file("/proc/self/exe")
        for entry in os.scandir("/proc"):
            if not entry.name.isdigit():
                continue
            try:
                if _executable(entry.path, ours) != pause:
                    continue
                title = _title(entry.path)
            except OSError:
                continue
            if title.startswith(prefix):
                found[title.removeprefix(prefix)] = int(entry.name)
        self.pids = dict(found)
        return found

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

    def _spawn_pause(self, netns: str) -> int:
        """A pause process that is PID 1 of a PID namespace of its own."""
        unshare(CLONE_NEWPID)
        try:
            return spawn(self._pause_path, [f"{self._lab}/{netns}"])
        except OSError as error:
            raise OSError(error.errno, f"start of its pause process: {error.strerror}") from None
        finally:
            setns(self._home["pid"], CLONE_NEWPID)  # else the next unshare(CLONE_NEWPID) is refused (EINVAL)


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
    while (found := _file(f"{process}/exe")) == ours and _is_first_inside(process) and time.monotonic() < deadline:
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
