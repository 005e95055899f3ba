"""HTTP/1.1 over sockets that others made: in a pod's namespace, or a Unix socket.

A server for the built-in programs and the API, and a client for probes, dials and commands.
"""

from __future__ import annotations

import asyncio
import os
import socket
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from msgspec import Struct

from kubenetlab.lab.log import say
from kubenetlab.lab.transport.exchange import BODILESS, Exchange, chunk, head
from kubenetlab.lab.transport.request_parser import ParsedRequest, RequestParser
from kubenetlab.lab.transport.tls import TlsConnection
from kubenetlab.programs.http import Peer, Request, Response, plain_peer

RECEIVE_BYTES = 64 * 1024
MAX_BODY_BYTES = 64 * 1024 * 1024
IDLE_TIMEOUT_S = 75.0

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_REASONS = {
    200: "OK",
    201: "Created",
    400: "Bad Request",
    404: "Not Found",
    409: "Conflict",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class Stream(Struct, frozen=True):
    """An answer that goes on: pieces of body as they come, sent in chunks."""

    pieces: AsyncIterator[bytes]
    content_type: str = "application/json"
    headers: Mapping[str, str] = {}


class FdReply(Struct, frozen=True):
    """An answer that brings file descriptors along, over a Unix socket; they are closed here once sent."""

    response: Response
    fds: tuple[int, ...]


Answer = Response | Stream | FdReply
Connection = socket.socket | TlsConnection
Handler = Callable[[Request], Awaitable[Answer]]


async def serve(
    connection: Connection,
    handler: Handler,
    received: bytes = b"",
    *,
    max_body_bytes: int = MAX_BODY_BYTES,
) -> None:
    """Answers the requests of one connection until it ends. A broken request is answered with 400, a broken handler with 500.

    `received` is what came in before.
    """
    connection.setblocking(False)
    try:
        incoming = RequestParser(*_names(connection), max_body_bytes)
        incoming.feed(received)
        while True:
            while incoming.requests:
                asked = incoming.requests.popleft()
                await _answer(connection, asked, await _handled(asked.request, handler))
                if asked.is_last:
                    return
            if incoming.refusal is not None:
                await _send(connection, _whole(incoming.refusal, is_last=True))
                return
            if incoming.awaits_continue:
                await _send(connection, CONTINUE)
                incoming.awaits_continue = False
            async with asyncio.timeout(IDLE_TIMEOUT_S):
                data = await _receive(connection)
            if not data:
                return
            incoming.feed(data)
    except (OSError, TimeoutError):
        pass  # the client is gone, perhaps before its connection was accepted
    finally:
        connection.close()


async def fetch(
    connection: Connection,
    method: str,
    target: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    enough_bytes: int | None = None,
) -> Response:
    """Send one request over a connected socket, and return its answer.

    enough_bytes: how much of the body is read, at least; of an answer that goes on the rest is left. Without it all is read.
    Raises ConnectionError when the answer is cut short, or its body longer than MAX_BODY_BYTES.
    """
    exchange = Exchange(method, target, headers or {}, body)
    await _send(connection, exchange.request_bytes)
    while not exchange.is_complete:
        exchange.feed(await _receive(connection))
        if enough_bytes is not None and exchange.body_bytes >= enough_bytes:
            break
        if exchange.body_bytes > MAX_BODY_BYTES:
            raise ConnectionError(f"the answer's body is longer than {MAX_BODY_BYTES >> 20} MiB")
    return exchange.response


def _names(connection: Connection) -> tuple[Peer, int]:
    """Who is at the other end, and at which of our ports; nobody in particular at the end of a Unix socket."""
    if connection.family == socket.AF_UNIX:
        return ("", 0), 0
    return plain_peer(connection.getpeername()), connection.getsockname()[1]


async def _handled(request: Request, handler: Handler) -> Answer:
    try:
        return await handler(request)
    except Exception as error:
        say(traceback.format_exc())
        return Response(500, f"{type(error).__name__}: {error}\n".encode())


async def _answer(connection: Connection, asked: ParsedRequest, answer: Answer) -> None:
    if isinstance(answer, Stream):
        headers = {
            "Content-Type": answer.content_type,
            **answer.headers,
            **({"Transfer-Encoding": "chunked"} if asked.takes_chunks else {}),
        }
        await _send(connection, _head(200, headers, is_last=asked.is_last))
        await _send_pieces(connection, answer.pieces, chunk if asked.takes_chunks else bytes)
        await _send(connection, chunk(b"") if asked.takes_chunks else b"")
        return
    response = answer.response if isinstance(answer, FdReply) else answer
    if not 200 <= response.status <= 999:
        response = Response(500, f"invalid status code {response.status}\n".encode())
    data = _whole(response, is_last=asked.is_last, is_head=asked.request.method == "HEAD")
    if isinstance(answer, FdReply):
        assert isinstance(connection, socket.socket)  # a Unix socket: there is no TLS
        try:
            data = data[socket.send_fds(connection, [data], answer.fds) :]
        finally:
            for fd in answer.fds:
                os.close(fd)
    await _send(connection, data)


async def _send_pieces(
    connection: Connection, pieces: AsyncIterator[bytes], framed: Callable[[bytes], bytes]
) -> None:
    """Piece by piece. Raises ConnectionError when the client is gone, also while there is nothing to send: nobody else would notice."""
    hung_up = asyncio.ensure_future(_receive(connection, 1))  # who listens has nothing more to say
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
            if piece:
                await _send(connection, framed(piece))
    finally:
        hung_up.cancel()
        await asyncio.gather(hung_up, return_exceptions=True)
        await pieces.aclose()  # type: ignore[attr-defined]


def _whole(response: Response, *, is_last: bool, is_head: bool = False) -> bytes:
    """An answer as it is sent; one whose headers HTTP cannot carry is an error of its own."""
    has_length = response.status not in BODILESS
    length = {"Content-Length": str(len(response.body))} if has_length else {}
    try:
        begun = _head(
            response.status,
            {"Content-Type": response.content_type, **response.headers, **length},
            is_last=is_last,
        )
    except ValueError as error:
        return _whole(Response(500, f"{error}\n".encode()), is_last=is_last, is_head=is_head)
    return begun + response.body if has_length and not is_head else begun


def _head(status: int, headers: Mapping[str, str], *, is_last: bool) -> bytes:
    lines = (*headers.items(), ("Connection", "close")) if is_last else headers.items()
    return head(f"HTTP/1.1 {status} {_REASONS.get(status, '')}", lines)


async def _send(connection: Connection, data: bytes) -> None:
    if isinstance(connection, TlsConnection):
        await connection.send(data)
    else:
        await asyncio.get_running_loop().sock_sendall(connection, data)


async def _receive(connection: Connection, count: int = RECEIVE_BYTES) -> bytes:
    if isinstance(connection, TlsConnection):
        return await connection.receive(count)
    return await asyncio.get_running_loop().sock_recv(connection, count)
