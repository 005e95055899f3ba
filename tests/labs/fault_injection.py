"""kubenetlab with one of its calls to Linux failing, or with the caller killed at that call.

Run as: fault_injection.py PLAN COMMAND…

PLAN is a file that all processes of a lab share, because they are forks of the `up` that creates
it. It holds the number of calls so far, the number of the call that fails, and a description of the
failed call. Calls are: a batch of netlink requests (one of which fails), an nft transaction, a
write to a setting, new namespaces, the start of a process, and every creation, write and rename of
a file.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from tests.labs.lab import CommandResult, run_module

ERRNOS: Final = {
    "netlink": (errno.ENOMEM, errno.EBUSY, errno.ENOSPC, errno.EPERM),
    "nft": (errno.ENOMEM, errno.EBUSY),
    "setting": (errno.EACCES, errno.EINVAL),
    "namespaces": (errno.ENOSPC, errno.ENOMEM),
    "process": (errno.EAGAIN, errno.ENOMEM),
    "file": (errno.ENOSPC, errno.EIO),
}
"""Errors of Linux for each kind of call; the number of the call selects one."""

Call = tuple[str, str, str | None]
"""Kind of the call, its description, and the file that Linux names in the error."""


SPARED: Final = ("knl-init", "knl-coredns")
"""Processes that are not killed by their calls.

Without init the lab ends. A program of a pod belongs to a container, which restarts later each
time.
"""
_LAYOUT: Final = struct.Struct("=II?200s")


class FaultPlan(Struct, frozen=True):
    """The plan file. `refused` is empty as long as no call has failed."""

    path: Path

    def set(self, number: int, *, kills: bool = False) -> None:
        """Reset the count and make the call of that number fail; 0 stands for no call.

        kills: kill the caller instead.
        """
        self.path.write_bytes(_LAYOUT.pack(0, number, kills, b""))

    @property
    def calls(self) -> int:
        return int(_LAYOUT.unpack(self.path.read_bytes())[0])

    @property
    def refused(self) -> str:
        """Description and error of the call that failed."""
        return bytes(_LAYOUT.unpack(self.path.read_bytes())[3]).rstrip(b"\0").decode()


class _CallCounter:
    """Count of the calls of all processes."""

    def __init__(self, path: str) -> None:
        self._fd = self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._threads = threading.Lock()

    def count(self, kind: str, description: str) -> int:
        """Count a call; return the errno to fail with, or 0."""
        with self._threads:
            return self._count_locked(kind, description)

    def _count_locked(self, kind: str, description: str) -> int:
        fcntl.lockf(self._fd, fcntl.LOCK_EX)
        try:
            calls, number, kills, refused = _LAYOUT.unpack(os.pread(self._fd, _LAYOUT.size, 0))
            calls += 1
            error = ERRNOS[kind][number % len(ERRNOS[kind])] if calls == number else 0
            dies = kills and _process_name() not in SPARED
            if error:
                outcome = "killed" if dies else os.strerror(error)
                refused = f"{kind}: {description}: {outcome}".encode()[:200]
            os.pwrite(self._fd, _LAYOUT.pack(calls, number, kills, refused), 0)
            if error and dies:
                os.kill(os.getpid(), signal.SIGKILL)
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN)
        return error


def _process_name() -> str:
    return Path("/proc/self/comm").read_text().strip()


def install(counter: _CallCounter) -> None:
    """Replace the functions that make the calls by ones that count them."""
    from kubenetlab.kernel import syscalls
    from kubenetlab.kernel.namespaces import sandboxes
    from kubenetlab.kernel.netlink import rtnetlink
    from kubenetlab.kernel.processes import inheritance
    from kubenetlab.kernel.rules import nftables
    from kubenetlab.kernel.rules.backends import RulesError

    def hook(owner: Any, name: str, classify: Callable[..., Call | None]) -> None:
        """Count the calls of a function. `classify` returns None for a call that does not count."""
        real = getattr(owner, name)

        def replacement(*args: Any, **named: Any) -> Any:
            call = classify(*args, **named)
            if call is not None and (number := counter.count(*call[:2])):
                raise OSError(number, os.strerror(number), call[2])
            return real(*args, **named)

        setattr(owner, name, replacement)

    hook(os, "fork", lambda: ("process", "a fork", None))
    hook(sandboxes, "spawn", lambda path, argv: ("process", f"start of {argv[0]}", path))
    hook(
        os,
        "open",
        lambda path, flags, *_, **__: (
            ("file", f"open {path}", path) if flags & os.O_CREAT else None
        ),
    )
    hook(os, "write", _classify_write)
    hook(os, "rename", lambda source, target: ("file", f"rename to {target}", target))
    hook(os, "symlink", lambda target, name, **_: ("file", f"link {name}", name))
    hook(os, "mkdir", lambda path, *_, **__: ("file", f"mkdir {path}", path))
    hook(
        socket.socket,
        "bind",
        lambda _, address: (
            ("file", f"socket {address}", None) if isinstance(address, str) else None
        ),
    )
    hook(
        syscalls,
        "_call",
        lambda name, *_: ("namespaces", name, None) if name == "unshare" else None,
    )

    real_close = inheritance.close_other_descriptors
    # The plan file stays open in the lab.
    inheritance.close_other_descriptors = lambda keep=(): real_close([*keep, counter.fd])
    real_batch, real_run = rtnetlink.NetlinkSocket.batch, nftables.Nft.run

    def batch(
        self: rtnetlink.NetlinkSocket, requests: Sequence[bytes]
    ) -> list[rtnetlink.NetlinkRefusal]:
        """Send all requests but the first, which fails."""
        number = counter.count("netlink", f"batch of {len(requests)}")
        if not number:
            return real_batch(self, requests)
        rest = real_batch(self, requests[1:])
        renumbered = [
            rtnetlink.NetlinkRefusal(refusal.request + 1, refusal.errno, refusal.text)
            for refusal in rest
        ]
        return [rtnetlink.NetlinkRefusal(0, number, ""), *renumbered]

    def run(self: nftables.Nft, text: str) -> str:
        number = counter.count("nft", text[:60])
        if number:
            raise RulesError(f"Error: Could not process rule: {os.strerror(number)}")
        return real_run(self, text)

    rtnetlink.NetlinkSocket.batch, nftables.Nft.run = batch, run  # type: ignore[method-assign]


def _classify_write(fd: int, data: bytes) -> Call | None:
    """Classify writes to settings and files; ignore pipes, sockets and terminals."""
    path = os.readlink(f"/proc/self/fd/{fd}")
    if path.startswith(("/proc/sys/", "/sys/")):  # also under a detached /proc mount
        return "setting", path, None
    return ("file", f"write {path}", None) if path.startswith("/run/") else None


def command(plan: FaultPlan, *words: str) -> list[str]:
    """Return the command line that runs kubenetlab with a plan; run it in ROOT."""
    return [sys.executable, "-m", "tests.labs.fault_injection", str(plan.path), *words]


def run_with_faults(plan: FaultPlan, *words: str, stdin: str | None = None) -> CommandResult:
    """Run a kubenetlab command with a plan; it may end with any status."""
    return run_module(
        "tests.labs.fault_injection", str(plan.path), *words, stdin=stdin, status=None
    )


if __name__ == "__main__":
    from kubenetlab.cli import main

    install(_CallCounter(sys.argv.pop(1)))
    main()
