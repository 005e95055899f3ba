"""Accepting connections in an event loop, with a pause while there is no descriptor for another one.

A listening socket with a client that cannot be accepted stays readable: a loop that only tried again would use a whole processor.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Final

from kubenetlab.errors import refusal
from kubenetlab.lab.log import log

PAUSE_S: Final = 0.05
"""How long clients are left waiting before the next attempt."""
EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
"""What accept(2) fails with while the process or the machine has no room for another socket."""


async def accept(listener: socket.socket) -> socket.socket:
    """Return the next connection, not blocking. Raises OSError for anything but a lack of room, for which it waits."""
    while True:
        try:
            connection, _ = await asyncio.get_running_loop().sock_accept(listener)
            return connection
        except OSError as error:
            if error.errno not in EXHAUSTED:
                raise
            log(f"a client has to wait: {refusal(error)}")
            await asyncio.sleep(PAUSE_S)


def accept_each(
    listener: socket.socket,
    on_connection: Callable[[socket.socket], None],
    on_pause: Callable[[OSError], None],
) -> None:
    """Hand over every connection, not blocking, until the reader of the listener is removed and the listener closed.

    `on_pause` is called when clients begin to wait, once until one could be accepted again.
    """
    loop = asyncio.get_running_loop()
    fd = listener.fileno()
    is_waiting = False

    def attempt() -> None:
        nonlocal is_waiting
        try:
            connection, _ = listener.accept()
        except OSError as error:
            if error.errno in EXHAUSTED:
                loop.remove_reader(fd)
                loop.call_later(PAUSE_S, resume)
                if not is_waiting:
                    on_pause(error)
                is_waiting = True
            return  # or the client has gone again
        is_waiting = False
        connection.setblocking(False)
        on_connection(connection)

    def resume() -> None:
        if listener.fileno() == fd:  # else it was closed meanwhile
            loop.add_reader(fd, attempt)

    loop.add_reader(fd, attempt)
