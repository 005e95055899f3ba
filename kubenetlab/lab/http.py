"""HTTP/1.1 over sockets that others made: in a pod's namespace, or a Unix socket. The protocol itself is h11's.

A server for the built-in programs and the API, and a client for probes, dials and commands.
"""

from __future__ import annotations

import asyncio
import os
import socket
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

import h11
from msgspec import Struct

from kubenetlab.lab.exchange import Exchange
from kubenetlab.lab.log import say
from kubenetlab.programs.http import Peer, Request, Response, plain_peer

RECEIVE_BYTES = 64 * 1024
MAX_BODY_BYTES = 64 * 1024 * 1024
IDLE_TIMEOUT_S = 75.0

BODILESS = (204, 304)
"""Statuses whose answers have no body (RFC 9110 §15.3.5, §15.4.5)."""

_REASONS = {
    200: b"OK",
    201: b"Created",
    400: b"Bad Request",
    404: b"Not Found",
    409: b"Conflict",
    500: b"Internal Server Error",
    503: b"Service Unavailable",
}


class Stream(Struct, frozen=True):
    """An answer that goes on: pieces of body as they come, sent in chunks."""

    pieces: AsyncIterator[bytes]
    content_type: str = "application/json"


class Handover(Struct, frozen=True):
    """An answer that brings file descriptors along, over a Unix socket; they are closed here once sent."""

    response: Response
    fds: tuple[int, ...]


Answer = Response | Stream | Handover
Handler = Callable[[Request], Awaitable[Answer]]


async def serve(connection: socket.socket, handler: Handler, received: bytes = b"", *, max_body_bytes: int = MAX_BODY_BYTES) -> None:
    """Answers the requests of one connection until it ends. A broken request is answered with 400, a broken handler with 500.

    `received` is what came in before.
    """
    connection.setblocking(False)
    protocol = h11.Connection(h11.SERVER, max_incomplete_event_size=RECEIVE_BYTES)
    try:
        if received:
            protocol.receive_data(received)
        peer, port = _names(connection)
        while True:
            request = await _read_request(connection, protocol, peer, port, max_body_bytes)
            if request is None:
                return
            await _answer(connection, protocol, await _handled(request, handler), is_head=request.method == "HEAD")
            if protocol.our_state is not h11.DONE or protocol.their_state is not h11.DONE:
                return
            protocol.start_next_cycle()
    except h11.RemoteProtocolError as error:
        if protocol.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await _answer(connection, protocol, Response(error.error_status_hint, f"{error}\n".encode()))
    except (OSError, TimeoutError):
        pass  # the client is gone, perhaps before its connection was accepted
    finally:
        connection.close()


async def fetch(
    connection: socket.socket, method: str, target: str, *, headers: Mapping[str, str] | None = None, body: bytes = b""
) -> Response:
    """One request over a connected socket, and its answer. Raises ConnectionError when the answer is cut short."""
    loop = asyncio.get_running_loop()
    exchange = Exchange(method, target, headers or {}, body)
    await loop.sock_sendall(connection, exchange.request_bytes)
    while not exchange.is_complete:
        exchange.feed(await loop.sock_recv(connection, RECEIVE_BYTES))
    return exchange.response


def _names(connection: socket.socket) -> tuple[Peer, int]:
    """Who is at the other end, and at which of our ports; nobody in particular at the end of a Unix socket."""
    if connection.family == socket.AF_UNIX:
        return ("", 0), 0
    return plain_peer(connection.getpeername()), connection.getsockname()[1]


async def _read_request(connection: socket.socket, protocol: h11.Connection, peer: Peer, port: int, max_body_bytes: int) -> Request | None:
    head: h11.Request | None = None
    body = bytearray()
    while True:
        event = protocol.next_event()
        if event is h11.NEED_DATA:
            if protocol.they_are_waiting_for_100_continue:
                await _send(connection, protocol, h11.InformationalResponse(status_code=100, headers=[]))
            async with asyncio.timeout(IDLE_TIMEOUT_S):
                protocol.receive_data(await asyncio.get_running_loop().sock_recv(connection, RECEIVE_BYTES))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > max_body_bytes:
                raise h11.RemoteProtocolError("the request's body is too large", 413)
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            headers = {name.decode(): value.decode(errors="replace") for name, value in head.headers}
            return Request(head.method.decode(), head.target.decode(errors="replace"), peer, headers, bytes(body), port)
        else:
            return None


async def _handled(request: Request, handler: Handler) -> Answer:
    try:
        return await handler(request)
    except Exception as error:
        say(traceback.format_exc())
        return Response(500, f"{type(error).__name__}: {error}\n".encode())


async def _answer(connection: socket.socket, protocol: h11.Connection, answer: Answer, *, is_head: bool = False) -> None:
    if isinstance(answer, Stream):
        await _send(connection, protocol, _head(Response(200, content_type=answer.content_type), None, is_chunked=True))
        await _send_pieces(connection, protocol, answer.pieces)
        await _send(connection, protocol, h11.EndOfMessage())
        return
    response = answer.response if isinstance(answer, Handover) else answer
    if not 200 <= response.status <= 999:
        response = Response(500, f"invalid status code {response.status}\n".encode())
    has_body = bool(response.body) and not is_head and response.status not in BODILESS
    events: Sequence[h11.Event] = (
        _head(response, None if response.status in BODILESS else len(response.body)),
        *([h11.Data(data=response.body)] if has_body else []),
        h11.EndOfMessage(),
    )
    data = b"".join(protocol.send(event) or b"" for event in events)
    if isinstance(answer, Handover):
        try:
            data = data[socket.send_fds(connection, [data], answer.fds) :]
        finally:
            for fd in answer.fds:
                os.close(fd)
    await asyncio.get_running_loop().sock_sendall(connection, data)


async def _send_pieces(connection: socket.socket, protocol: h11.Connection, pieces: AsyncIterator[bytes]) -> None:
    """Piece by piece. Raises ConnectionError when the client is gone, also while there is nothing to send: nobody else would notice."""
    hung_up = asyncio.ensure_future(asyncio.get_running_loop().sock_recv(connection, 1))  # who listens has nothing more to say
    try:
        while True:
            coming = asyncio.ensure_future(anext(pieces, None))
            await asyncio.wait((coming, hung_up), return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                coming.cancel()
                await asyncio.wait((coming,))
                raise ConnectionResetError("the client is gone")
            if (piece := coming.result()) is None:
                return
            await _send(connection, protocol, h11.Data(data=piece))
    finally:
        hung_up.cancel()
        await asyncio.gather(hung_up, return_exceptions=True)
        await pieces.aclose()  # type: ignore[attr-defined]


def _head(response: Response, length: int | None, *, is_chunked: bool = False) -> h11.Response:
    headers = {"Content-Type": response.content_type, **response.headers}
    headers |= {"Content-Length": str(length)} if length is not None else {"Transfer-Encoding": "chunked"} if is_chunked else {}
    return h11.Response(status_code=response.status, headers=list(headers.items()), reason=_REASONS.get(response.status, b""))


async def _send(connection: socket.socket, protocol: h11.Connection, event: h11.Event) -> None:
    await asyncio.get_running_loop().sock_sendall(connection, protocol.send(event) or b"")
