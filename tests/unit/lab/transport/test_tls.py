"""TLS over sockets that others have opened: whole, cut short, and with what is no certificate."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest

from kubenetlab.lab.transport.http import fetch, serve
from kubenetlab.lab.transport.tls import (
    TlsConnection,
    client_context,
    localhost_context,
    server_context,
)
from kubenetlab.programs.http import Request, Response
from kubenetlab.programs.localhost_certificate import CERTIFICATE, KEY
from tests.patience import patiently

Talk = Callable[[TlsConnection, TlsConnection], Awaitable[None]]


def talk(what: Talk, *, received: int = 0) -> None:
    """A client and a server that have shaken hands; the server gets the first bytes from elsewhere, as many as `received`."""

    async def both() -> None:
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setblocking(False)
        client = TlsConnection(ours, client_context(), is_server=False)
        shaking = asyncio.create_task(client.handshake())
        begun = await asyncio.get_running_loop().sock_recv(theirs, received) if received else b""
        server = TlsConnection(theirs, localhost_context(), begun, is_server=True)
        try:
            async with asyncio.timeout(patiently(10)):
                await asyncio.gather(shaking, server.handshake())
                await what(client, server)
        finally:
            client.close()
            server.close()

    asyncio.run(both())


@pytest.mark.parametrize("received", [0, 1, 100])
def test_requests_and_answers_go_through(received: int) -> None:
    """Of any length, over a connection whose first bytes were read by somebody else."""

    async def answered(request: Request) -> Response:
        return Response(200, request.body * 2)

    async def asks(client: TlsConnection, server: TlsConnection) -> None:
        serving = asyncio.create_task(serve(server, answered))
        body = b"x" * 300_000
        answer = await fetch(client, "POST", "/", body=body)
        assert (answer.status, answer.body) == (200, body * 2)
        await serving

    talk(asks, received=received)


def test_an_end_is_an_end() -> None:
    """With a close_notify, or without: nothing more comes."""

    async def ends(client: TlsConnection, server: TlsConnection) -> None:
        server.close()
        assert await client.receive(10) == b""

    async def breaks(client: TlsConnection, server: TlsConnection) -> None:
        server._socket.close()
        assert await client.receive(10) == b""

    talk(ends)
    talk(breaks)


@pytest.mark.parametrize(
    ("certificate", "key"),
    [
        pytest.param("nonsense", KEY, id="no certificate"),
        pytest.param(CERTIFICATE, "", id="no key"),
        pytest.param(CERTIFICATE, CERTIFICATE, id="no key in the file"),
        pytest.param("", "", id="nothing"),
    ],
)
def test_what_is_no_certificate_is_refused(certificate: str, key: str) -> None:
    """As an OSError, which a program's start reports; nobody is asked for a password."""
    with pytest.raises(OSError, match="tls: "):
        server_context({"certificate": certificate, "key": key})
