"""kubenetlab, with one of its calls to Linux refused, or the last of whoever makes it.

Run as: faulty.py PLAN COMMAND…

PLAN is a file that is shared by all processes of a lab: they are forks of the `up` that makes it.
In it are how many calls there have been, which one is to be refused, and what that was. What counts
as a call: a batch of netlink requests (of which one is refused), an nft transaction, the write of a
setting, new namespaces, the start of a process, and whatever makes, fills or renames a file.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from tests.labs.lab import Ran, ran
from tests.patience import patiently

ERRNOS: Final = {
    "netlink": (errno.ENOMEM, errno.EBUSY, errno.ENOSPC, errno.EPERM),
    "nft": (errno.ENOMEM, errno.EBUSY),
    "setting": (errno.EACCES, errno.EINVAL),
    "namespaces": (errno.ENOSPC, errno.ENOMEM),
    "process": (errno.EAGAIN, errno.ENOMEM),
    "file": (errno.ENOSPC, errno.EIO),
}
"""What Linux says in such cases; the number of the call decides which."""

Call = tuple[str, str, str | None]
"""What kind it is, what it does, and the file that Linux would name with its refusal."""

ROOT: Final = Path(__file__).parents[2]
SPARED: Final = ("knl-init", "knl-coredns")
"""Do not die of their calls: with init the lab ends, and what runs in a pod is a container that is
restarted later each time.
"""
_LAYOUT: Final = struct.Struct("=II?200s")


class Plan(Struct, frozen=True):
    """The file. `refused` is empty as long as nothing has happened."""

    path: Path

    def set(self, number: int, *, kills: bool = False) -> None:
        """Counts from now on anew, and refuses the call of that number; 0: none.

        With `kills` the caller dies instead.
        """
        self.path.write_bytes(_LAYOUT.pack(0, number, kills, b""))

    @property
    def calls(self) -> int:
        return int(_LAYOUT.unpack(self.path.read_bytes())[0])

    @property
    def refused(self) -> str:
        """What was refused, and with which words."""
        return bytes(_LAYOUT.unpack(self.path.read_bytes())[3]).rstrip(b"\0").decode()


class _Turns:
    """Counts calls over all processes, and says whose turn it is to fail."""

    def __init__(self, path: str) -> None:
        self._fd = self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._threads = threading.Lock()

    def take(self, kind: str, what: str) -> int:
        """The errno to fail with; 0 for a call that is to be made."""
        with self._threads:
            return self._take(kind, what)

    def _take(self, kind: str, what: str) -> int:
        fcntl.lockf(self._fd, fcntl.LOCK_EX)
        try:
            calls, number, kills, refused = _LAYOUT.unpack(os.pread(self._fd, _LAYOUT.size, 0))
            calls += 1
            found = ERRNOS[kind][number % len(ERRNOS[kind])] if calls == number else 0
            dies = kills and _name() not in SPARED
            if found:
                refused = f"{kind}: {what}: {'killed' if dies else os.strerror(found)}".encode()[
                    :200
                ]
            os.pwrite(self._fd, _LAYOUT.pack(calls, number, kills, refused), 0)
            if found and dies:
                os.kill(os.getpid(), signal.SIGKILL)
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN)
        return found


def _name() -> str:
    return Path("/proc/self/comm").read_text().strip()


def arm(turns: _Turns) -> None:
    """Stands before each of the calls."""
    from kubenetlab.kernel import syscalls
    from kubenetlab.kernel.namespaces import sandboxes
    from kubenetlab.kernel.netlink import rtnetlink
    from kubenetlab.kernel.processes import inheritance
    from kubenetlab.kernel.rules import nftables
    from kubenetlab.kernel.rules.backends import RulesError

    def before(owner: Any, name: str, judge: Callable[..., Call | None]) -> None:
        """`judge` says from its arguments whether a call counts."""
        real = getattr(owner, name)

        def call(*args: Any, **named: Any) -> Any:
            counts = judge(*args, **named)
            if counts is not None and (number := turns.take(*counts[:2])):
                raise OSError(number, os.strerror(number), counts[2])
            return real(*args, **named)

        setattr(owner, name, call)

    before(os, "fork", lambda: ("process", "a fork", None))
    before(sandboxes, "spawn", lambda path, argv: ("process", f"start of {argv[0]}", path))
    before(
        os,
        "open",
        lambda path, flags, *_, **__: (
            ("file", f"open {path}", path) if flags & os.O_CREAT else None
        ),
    )
    before(os, "write", _written)
    before(os, "rename", lambda source, target: ("file", f"rename to {target}", target))
    before(os, "symlink", lambda target, name, **_: ("file", f"link {name}", name))
    before(os, "mkdir", lambda path, *_, **__: ("file", f"mkdir {path}", path))
    before(
        socket.socket,
        "bind",
        lambda _, address: (
            ("file", f"socket {address}", None) if isinstance(address, str) else None
        ),
    )
    before(
        syscalls,
        "_call",
        lambda name, *_: ("namespaces", name, None) if name == "unshare" else None,
    )

    real_close = inheritance.close_other_descriptors
    inheritance.close_other_descriptors = lambda keep=(): real_close(
        [*keep, turns.fd]
    )  # the plan stays open in the lab
    real_batch, real_run = rtnetlink.RouteSocket.batch, nftables.Nft.run

    def batch(
        self: rtnetlink.RouteSocket, requests: Sequence[bytes]
    ) -> list[rtnetlink.NetlinkRefusal]:
        """All but the first are made."""
        number = turns.take("netlink", f"batch of {len(requests)}")
        if not number:
            return real_batch(self, requests)
        others = real_batch(self, requests[1:])
        moved = [
            rtnetlink.NetlinkRefusal(refusal.request + 1, refusal.errno, refusal.text)
            for refusal in others
        ]
        return [rtnetlink.NetlinkRefusal(0, number, ""), *moved]

    def run(self: nftables.Nft, text: str) -> str:
        number = turns.take("nft", text[:60])
        if number:
            raise RulesError(f"Error: Could not process rule: {os.strerror(number)}")
        return real_run(self, text)

    rtnetlink.RouteSocket.batch, nftables.Nft.run = batch, run  # type: ignore[method-assign]


def _written(fd: int, data: bytes) -> Call | None:
    """Settings and files; not what goes to pipes, sockets and terminals."""
    path = os.readlink(f"/proc/self/fd/{fd}")
    if path.startswith(("/proc/sys/", "/sys/")):  # also below a /proc that is mounted nowhere
        return "setting", path, None
    return ("file", f"write {path}", None) if path.startswith("/run/") else None


def command(plan: Plan, *words: str) -> list[str]:
    """What to start, in ROOT: kubenetlab under a plan, and with it the lab that it makes."""
    return [sys.executable, "-m", "tests.labs.faulty", str(plan.path), *words]


def run_faulty(plan: Plan, *words: str, given: str | None = None) -> Ran:
    """What such a command says, whatever it ends with."""
    line = command(plan, *words)
    return ran(
        subprocess.run(
            line,
            input=given,
            capture_output=True,
            text=True,
            check=False,
            timeout=patiently(90),
            cwd=ROOT,
        ),
        None,
    )


if __name__ == "__main__":
    from kubenetlab.cli import main

    arm(_Turns(sys.argv.pop(1)))
    main()
