"""Clients that cannot be accepted: they wait, and nothing spins."""

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
    """A listening socket of a process that has no descriptor left, for some attempts."""

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
    """Between two attempts there is a pause; then the client is served. That clients wait is said once."""
    pauses: list[OSError] = []

    async def story() -> float:
        accepted: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()
        with Full(number) as listener, socket.socket() as client:
            accept_each(listener, accepted.set_result, pauses.append)
            begun = time.monotonic()
            client.connect(listener.getsockname())
            async with asyncio.timeout(patiently(5)):
                (await accepted).close()
            asyncio.get_running_loop().remove_reader(listener.fileno())
        assert listener.attempts == REFUSALS + 1
        return time.monotonic() - begun

    assert asyncio.run(story()) >= REFUSALS * PAUSE_S
    assert len(pauses) == 1


def test_a_listener_that_is_closed_meanwhile_is_left_alone() -> None:
    """Another socket may have its number when the pause is over."""

    async def story() -> None:
        begun = asyncio.Event()
        listener = Full()
        with socket.socket() as client:
            accept_each(listener, lambda connection: None, lambda error: begun.set())
            client.connect(listener.getsockname())
            async with asyncio.timeout(patiently(5)):
                await begun.wait()
        fd = listener.fileno()
        listener.close()
        over = asyncio.Event()
        asyncio.get_running_loop().call_later(2 * PAUSE_S, over.set)
        await over.wait()
        assert not asyncio.get_running_loop().remove_reader(fd)

    asyncio.run(story())


def test_a_process_waits_for_its_one_client_too() -> None:
    """Channels between the lab's own processes: a lack of descriptors ends none of them."""

    async def story() -> None:
        with Full() as listener, socket.socket() as client:
            waiting = asyncio.create_task(accept(listener))
            client.connect(listener.getsockname())
            async with asyncio.timeout(patiently(5)):
                (await waiting).close()

    asyncio.run(story())
