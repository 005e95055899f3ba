"""Acceptance of connections in an event loop, with pauses while no descriptor is free.

A listening socket stays readable as long as a client cannot be accepted. Without pauses, the loop
would use a whole processor.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Final

from kubenetlab.errors import os_error_text
from kubenetlab.lab.log import log

PAUSE_S: Final = 0.05
"""Pause before the next attempt to accept a connection, in seconds."""
EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
"""Errors of accept(2) when the process or the machine cannot have another socket."""


async def accept(listener: socket.socket) -> socket.socket:
    """Return the next connection, in non-blocking mode.

    Try again after a pause if descriptors or memory are exhausted. Raises OSError for other errors.
    """
    while True:
        try:
            connection, _ = await asyncio.get_running_loop().sock_accept(listener)
            return connection
        except OSError as error:
            if error.errno not in EXHAUSTED:
                raise
            log(f"a client has to wait: {os_error_text(error)}")
            await asyncio.sleep(PAUSE_S)


def accept_each(
    listener: socket.socket,
    on_connection: Callable[[socket.socket], None],
    on_pause: Callable[[OSError], None],
) -> None:
    """Call `on_connection` with every connection, in non-blocking mode.

    To stop, remove the listener's reader from the loop and close the listener.

    on_pause: called once when clients have to wait, and again only after one has been accepted.
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
            return  # with another error, the client has closed its connection
        is_waiting = False
        connection.setblocking(False)
        on_connection(connection)

    def resume() -> None:
        if listener.fileno() == fd:  # else it was closed meanwhile
            loop.add_reader(fd, attempt)

    loop.add_reader(fd, attempt)
