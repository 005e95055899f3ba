"""TLS over sockets that callers open."""

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
from kubenetlab.programs.support.http import Request, Response
from kubenetlab.programs.support.localhost_certificate import CERTIFICATE, KEY
from tests.patience import patiently

Talk = Callable[[TlsConnection, TlsConnection], Awaitable[None]]


def talk(scenario: Talk, *, received: int = 0) -> None:
    """Run a scenario with a client and a server after their handshake.

    received: number of bytes that were read from the server's socket before.
    """

    async def both() -> None:
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setblocking(False)
        client = TlsConnection(ours, client_context(), is_server=False)
        handshake = asyncio.create_task(client.handshake())
        data = await asyncio.get_running_loop().sock_recv(theirs, received) if received else b""
        server = TlsConnection(theirs, localhost_context(), data, is_server=True)
        try:
            async with asyncio.timeout(patiently(10)):
                await asyncio.gather(handshake, server.handshake())
                await scenario(client, server)
        finally:
            client.close()
            server.close()

    asyncio.run(both())


@pytest.mark.parametrize("received", [0, 1, 100])
def test_large_requests_and_responses_are_transferred(received: int) -> None:
    """The first bytes of the connection may have been read before the handshake."""

    async def double(request: Request) -> Response:
        return Response(200, request.body * 2)

    async def exchange(client: TlsConnection, server: TlsConnection) -> None:
        serving = asyncio.create_task(serve(server, double))
        body = b"x" * 300_000
        response = await fetch(client, "POST", "/", body=body)
        assert (response.status, response.body) == (200, body * 2)
        await serving

    talk(exchange, received=received)


def test_a_closed_connection_returns_no_bytes() -> None:
    """The peer may close it with or without close_notify."""

    async def close(client: TlsConnection, server: TlsConnection) -> None:
        server.close()
        assert await client.receive(10) == b""

    async def break_off(client: TlsConnection, server: TlsConnection) -> None:
        server._socket.close()
        assert await client.receive(10) == b""

    talk(close)
    talk(break_off)


@pytest.mark.parametrize(
    ("certificate", "key"),
    [
        pytest.param("nonsense", KEY, id="no certificate"),
        pytest.param(CERTIFICATE, "", id="no key"),
        pytest.param(CERTIFICATE, CERTIFICATE, id="no key in the file"),
        pytest.param("", "", id="nothing"),
    ],
)
def test_an_invalid_certificate_or_key_is_refused(certificate: str, key: str) -> None:
    """The error is an OSError, which is reported as the program's; ssl asks for no password."""
    with pytest.raises(OSError, match="tls: "):
        server_context({"certificate": certificate, "key": key})
