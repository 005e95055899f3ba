"""Pool of network namespaces created ahead of time by a separate process.

The kernel takes half a millisecond to create one, a third of the time a pod takes. The pool's
process creates them while the lab is still being planned; they contain what every pod's namespace
begins with. An open descriptor keeps each namespace alive; closing the last one frees it.
"""

from __future__ import annotations

import gc
import os
import resource
import select
import signal
import socket
from collections.abc import Sequence
from typing import Final, NamedTuple

from kubenetlab.hoststate.diff import Operation
from kubenetlab.hoststate.object import Object
from kubenetlab.kernel.processes.permissions import is_root
from kubenetlab.kernel.syscalls import CLONE_NEWNET, die_with_parent, open_namespace, unshare

MIN_COUNT: Final = 100
"""Minimum number of namespaces that is worth a pool: smaller labs need them too soon."""
_FDS_PER_MESSAGE: Final = 64
"""File descriptors per message; Linux accepts 253 at most (SCM_MAX_FD)."""


class NetnsPoolSource(NamedTuple):
    """Connection to the process that creates the namespaces."""

    socket: socket.socket
    initial_objects: tuple[Object, ...]
    """Objects that exist in each of the namespaces; their `netns` is empty."""

    def close(self) -> None:
        self.socket.close()


def preallocate(count: int, initial_objects: Sequence[Object] = ()) -> NetnsPoolSource | None:
    """Start a process that creates namespaces; return the connection to it.

    count: maximum number of namespaces.
    initial_objects: sysctls and loopback to set up in each of them.

    Return None if `count` is below MIN_COUNT, or for an ordinary user: the namespaces must belong
    to the lab's user namespace, which does not exist yet.
    """
    if count < MIN_COUNT or not is_root():
        return None
    own_end, maker_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    gc.freeze()
    if os.fork() == 0:
        try:
            own_end.close()
            die_with_parent(signal.SIGKILL)
            _run_maker(maker_end, count, initial_objects)
        finally:
            os._exit(0)
    maker_end.close()
    return NetnsPoolSource(own_end, tuple(initial_objects))


class NetnsPool:
    """Namespaces received from a `NetnsPoolSource`.

    Its process stops creating namespaces when the pool is made, because the agent needs the
    processor from then on. Namespaces are received only when needed: every descriptor open here
    would be copied to, and have to be closed by, each pause process that is started.
    """

    def __init__(self, source: NetnsPoolSource) -> None:
        self.initial_objects = source.initial_objects
        """Objects that exist in each of the namespaces."""
        self._source = source.socket
        self._open: list[int] = []
        try:
            self._source.send(b"enough")
        except OSError:
            pass  # the process has created all of them and exited

    def take(self) -> int | None:
        """Return the descriptor of a namespace, for the caller to close; None if there is none."""
        if not self._open:
            self._receive()
        return self._open.pop() if self._open else None

    def close(self) -> None:
        """Close the pool; the kernel frees the namespaces that were not taken."""
        while self._open:
            os.close(self._open.pop())
        self._source.close()

    def _receive(self) -> None:
        try:
            _, fds, _, _ = self._receive_message()
        except OSError:
            return  # closed, or too many open files
        for fd in fds:
            os.set_inheritable(fd, False)  # otherwise pause processes would keep them open
        self._open = fds

    def _receive_message(self) -> tuple[bytes, list[int], int, object]:
        try:
            return socket.recv_fds(self._source, 1, _FDS_PER_MESSAGE)
        except ConnectionResetError:
            # The process has exited without reading our message. The kernel reports this once,
            # before the messages that it has sent.
            return socket.recv_fds(self._source, 1, _FDS_PER_MESSAGE)


class _LoopbackLinks:
    """Link indexes of a new namespace with loopback only (hoststate.netlink.wire.Links)."""

    def index(self, netns: str, link: str) -> int:
        return 1

    def new_index(self, netns: str, link: str) -> int:
        raise KeyError(link)

    def adopt(self, netns: str, link: str) -> None:
        raise KeyError(link)

    def namespace_fd(self, netns: str) -> int:
        raise KeyError(netns)


def _run_maker(consumer: socket.socket, count: int, initial_objects: Sequence[Object]) -> None:
    """Create and send namespaces until `count` is reached or the consumer has sent a message.

    Stop as well when an initial object is refused: the lab then creates its own namespaces and
    reports the error.
    """
    from kubenetlab.kernel.namespaces.contents import fill
    from kubenetlab.kernel.namespaces.sysctls import Sysctls, SysctlWriter

    operations = [Operation("add", obj) for obj in initial_objects]
    sysctls = SysctlWriter(Sysctls())
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    fds: list[int] = []
    for _ in range(count):
        unshare(CLONE_NEWNET)
        if fill("", operations, sysctls, _LoopbackLinks()):
            break
        fds.append(open_namespace("net"))
        if len(fds) == _FDS_PER_MESSAGE:
            _send_fds(consumer, fds)
        if select.select([consumer], [], [], 0)[0]:
            break
    if fds:
        _send_fds(consumer, fds)


def _send_fds(consumer: socket.socket, fds: list[int]) -> None:
    socket.send_fds(consumer, [b"\0"], fds)
    for fd in fds:
        os.close(fd)
    fds.clear()
