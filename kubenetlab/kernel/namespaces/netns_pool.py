"""Blank network namespaces, made ahead: by a process of their own, while others still read and plan.

To make one takes the kernel half a millisecond, a third of all that a pod takes, and little has to be known for it: what every pod's
namespace begins with. Whoever has them open keeps them alive; when the last descriptor is closed they are gone.
"""

from __future__ import annotations

import gc
import os
import resource
import select
import signal
import socket
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from kubenetlab.hoststate.diff import Operation
from kubenetlab.hoststate.object import Object
from kubenetlab.kernel.processes.permissions import is_root
from kubenetlab.kernel.syscalls import CLONE_NEWNET, die_with_parent, open_namespace, unshare

WORTH_IT: Final = 100
"""For fewer there is hardly time to make any."""
_AT_ONCE: Final = 64
"""Descriptors in one message; Linux takes 253 at most."""


class NetnsPoolSource(NamedTuple):
    """Where they come from."""

    socket: socket.socket
    beginning: tuple[Object, ...]
    """What is in each of them, said of no namespace."""

    def close(self) -> None:
        self.socket.close()


def ahead(count: int, beginning: Sequence[Object] = ()) -> NetnsPoolSource | None:
    """Has namespaces made from now on, at most so many, each with what they begin with: settings and loopback. None for an ordinary user,
    whose namespaces belong to the lab's user namespace, which is not there yet, and where they are too few."""
    if count < WORTH_IT or not is_root():
        return None
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    gc.freeze()
    if os.fork() == 0:
        try:
            ours.close()
            die_with_parent(signal.SIGKILL)
            _make(theirs, count, beginning)
        finally:
            os._exit(0)
    theirs.close()
    return NetnsPoolSource(ours, tuple(beginning))


class NetnsPool:
    """Those that are there, from the moment on at which somebody needs them: no more are made then.

    What is not taken yet waits in the socket, for whatever is open here a pause process gets a copy of when it is started, and has to close.
    """

    def __init__(self, source: NetnsPoolSource) -> None:
        self.beginning = source.beginning
        """What each has already."""
        self._source = source.socket
        self._open: list[int] = []
        try:
            self._source.send(b"enough")
        except OSError:
            pass  # all are made

    def take(self) -> int | None:
        """One of them, whose descriptor is the caller's; None when there are no more."""
        if not self._open:
            self._receive()
        return self._open.pop() if self._open else None

    def close(self) -> None:
        """Those that nobody has taken go."""
        while self._open:
            os.close(self._open.pop())
        self._source.close()

    def _receive(self) -> None:
        try:
            _, fds, _, _ = self._received()
        except OSError:
            return  # closed, or no room for them
        for fd in fds:
            os.set_inheritable(fd, False)  # else a pause process would keep them
        self._open = fds

    def _received(self) -> tuple[bytes, list[int], int, Any]:
        try:
            return socket.recv_fds(self._source, 1, _AT_ONCE)
        except ConnectionResetError:  # who made them has ended and not read that there are enough: that is told first, and once
            return socket.recv_fds(self._source, 1, _AT_ONCE)


class _Loopback:
    """The one link that is there from the beginning."""

    def index(self, netns: str, link: str) -> int:
        return 1

    def new_index(self, netns: str, link: str) -> int:
        raise KeyError(link)

    def namespace_fd(self, netns: str) -> int:
        raise KeyError(netns)


def _make(to: socket.socket, count: int, beginning: Sequence[Object]) -> None:
    """The life of the process that makes them; where one of them cannot be as it should, they end before it."""
    from kubenetlab.kernel.namespaces.contents import fill
    from kubenetlab.kernel.namespaces.sysctls import Sysctls, SysctlWriter

    operations = [Operation("add", obj) for obj in beginning]
    sysctls = SysctlWriter(Sysctls())
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    made: list[int] = []
    for _ in range(count):
        unshare(CLONE_NEWNET)
        if fill("", operations, sysctls, _Loopback()):
            break
        made.append(open_namespace("net"))
        if len(made) == _AT_ONCE:
            _hand_over(to, made)
        if select.select([to], [], [], 0)[0]:
            break
    if made:
        _hand_over(to, made)


def _hand_over(to: socket.socket, made: list[int]) -> None:
    socket.send_fds(to, [b"\0"], made)
    for fd in made:
        os.close(fd)
    made.clear()
