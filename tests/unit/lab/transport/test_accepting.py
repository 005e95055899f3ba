"""Acceptance of connections while no descriptor is free."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from typing import Any

import pytest

from kubenetlab.lab.transport.accepting import EXHAUSTED, PAUSE_S, accept, accept_each
from tests.patience import patiently

REFUSALS = 5


class Full(socket.socket):
    """Listening socket whose first attempts to accept a connection fail."""

    def __init__(self, number: int = errno.EMFILE) -> None:
        super().__init__()
        self.bind(("127.0.0.1", 0))
        self.listen(8)
        self.setblocking(False)
        self.number = number
        self.attempts = 0

    def accept(self) -> tuple[socket.socket, Any]:
        self.attempts += 1
        if self.attempts <= REFUSALS:
            raise OSError(self.number, os.strerror(self.number))
        return super().accept()


@pytest.mark.parametrize("number", EXHAUSTED, ids=errno.errorcode.__getitem__)
def test_clients_wait_without_a_busy_loop(number: int) -> None:
    """A pause follows each failed attempt. The waiting is reported once; the client is served."""
    pauses: list[OSError] = []

    async def story() -> float:
        accepted: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()
        with Full(number) as listener, socket.socket() as client:
            accept_each(listener, accepted.set_result, pauses.append)
            start = time.monotonic()
            client.connect(listener.getsockname())
            async with asyncio.timeout(patiently(5)):
                (await accepted).close()
            asyncio.get_running_loop().remove_reader(listener.fileno())
        assert listener.attempts == REFUSALS + 1
        return time.monotonic() - start

    assert asyncio.run(story()) >= REFUSALS * PAUSE_S
    assert len(pauses) == 1


def test_a_listener_that_is_closed_during_a_pause_is_not_read_again() -> None:
    """Another socket may have its descriptor number by the end of the pause."""

    async def story() -> None:
        is_paused = asyncio.Event()
        listener = Full()
        with socket.socket() as client:
            accept_each(listener, lambda connection: None, lambda error: is_paused.set())
            client.connect(listener.getsockname())
            async with asyncio.timeout(patiently(5)):
                await is_paused.wait()
        fd = listener.fileno()
        listener.close()
        pause_ended = asyncio.Event()
        asyncio.get_running_loop().call_later(2 * PAUSE_S, pause_ended.set)
        await pause_ended.wait()
        assert not asyncio.get_running_loop().remove_reader(fd)

    asyncio.run(story())


def test_accepting_a_single_connection_waits_for_a_descriptor() -> None:
    """Processes of the lab accept their connections this way, and must not fail."""

    async def story() -> None:
        with Full() as listener, socket.socket() as client:
            waiting = asyncio.create_task(accept(listener))
            client.connect(listener.getsockname())
            async with asyncio.timeout(patiently(5)):
                (await waiting).close()

    asyncio.run(story())
