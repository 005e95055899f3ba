"""Blank network namespaces, made ahead: by a process of their own, while others still read and plan.

To make one takes the kernel half a millisecond, a third of all that a pod takes, and nothing has to be known for it. Whoever has them open
keeps them alive; when the last descriptor is closed they are gone.
"""

from __future__ import annotations

import gc
import os
import resource
import select
import signal
import socket
from typing import Final

from kubenetlab.kernel.permissions import is_root
from kubenetlab.kernel.syscalls import CLONE_NEWNET, die_with_parent, open_namespace, unshare

WORTH_IT: Final = 100
"""For fewer there is hardly time to make any."""
_AT_ONCE: Final = 64
"""Descriptors in one message; Linux takes 253 at most."""


def ahead(count: int) -> socket.socket | None:
    """Has namespaces made from now on, at most so many; the socket is where they come from. None for an ordinary user, whose namespaces
    belong to the lab's user namespace, which is not there yet, and where they are too few."""
    if count < WORTH_IT or not is_root():
        return None
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    gc.freeze()
    if os.fork() == 0:
        try:
            ours.close()
            die_with_parent(signal.SIGKILL)
            _make(theirs, count)
        finally:
            os._exit(0)
    theirs.close()
    return ours


def receive(source: socket.socket) -> list[int]:
    """Those that have been made by now; no more are. The caller closes the descriptors, and the socket."""
    found: list[int] = []
    try:
        source.send(b"enough")
    except OSError:
        pass  # all are made
    while True:
        try:
            data, fds, _, _ = socket.recv_fds(source, 1, _AT_ONCE)
        except OSError:
            return found
        for fd in fds:
            os.set_inheritable(fd, False)  # else a pause process would have them, too
        found += fds
        if not data:
            return found


def _make(to: socket.socket, count: int) -> None:
    """The life of the process that makes them."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    made: list[int] = []
    for _ in range(count):
        unshare(CLONE_NEWNET)
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
