"""HTTP/1.1 over sockets that callers open: in a pod's namespace, or Unix sockets.

The server is used by built-in programs and the API, the client by probes, programs and commands.
"""

from __future__ import annotations

import asyncio
import os
import socket
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

from msgspec import Struct

from kubenetlab.lab.log import write_text
from kubenetlab.lab.transport.exchange import BODILESS, Exchange, chunk, head
from kubenetlab.lab.transport.request_parser import ParsedRequest, RequestParser
from kubenetlab.lab.transport.tls import TlsConnection
from kubenetlab.programs.support.http import Peer, Request, Response, plain_peer

RECEIVE_BYTES = 64 * 1024
MAX_BODY_BYTES = 64 * 1024 * 1024
IDLE_TIMEOUT_S = 75.0
"""Time after which a connection without requests is closed, in seconds."""

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
    """Response whose body is sent in parts, as a generator yields them."""

    parts: AsyncGenerator[bytes, None]
    content_type: str = "application/json"
    headers: Mapping[str, str] = {}


class FdReply(Struct, frozen=True):
    """Response with file descriptors, over a Unix socket. They are closed once they are sent."""

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
    """Serve the requests of one connection until it ends, and close it.

    The response to an invalid request has a status of 400 or more; that to a request whose handler
    raises an exception has the status 500.

    received: bytes that were received already.
    """
    connection.setblocking(False)
    try:
        parser = RequestParser(*_addresses(connection), max_body_bytes)
        parser.feed(received)
        while True:
            while parser.requests:
                parsed = parser.requests.popleft()
                await _respond(connection, parsed, await _handled(parsed.request, handler))
                if parsed.is_last:
                    return
            if parser.refusal is not None:
                await _send(connection, _encode(parser.refusal, is_last=True))
                return
            if parser.awaits_continue:
                await _send(connection, CONTINUE)
                parser.awaits_continue = False
            async with asyncio.timeout(IDLE_TIMEOUT_S):
                data = await _receive(connection)
            if not data:
                return
            parser.feed(data)
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
    """Send one request over a connected socket and return the response.

    enough_bytes: number of bytes of the body after which reading stops, for endless responses.
    Without it, the whole body is read.
    Raises ConnectionError if the response is incomplete, or its body exceeds MAX_BODY_BYTES.
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


def _addresses(connection: Connection) -> tuple[Peer, int]:
    """Return the peer's address and the local port; empty values for a Unix socket."""
    if connection.family == socket.AF_UNIX:
        return ("", 0), 0
    return plain_peer(connection.getpeername()), int(connection.getsockname()[1])


async def _handled(request: Request, handler: Handler) -> Answer:
    """Return the handler's answer; a response with status 500 if it raises an exception."""
    try:
        return await handler(request)
    except Exception as error:
        write_text(traceback.format_exc())
        return Response(500, f"{type(error).__name__}: {error}\n".encode())


async def _respond(connection: Connection, parsed: ParsedRequest, answer: Answer) -> None:
    """Send the answer to a request."""
    if isinstance(answer, Stream):
        headers = {
            "Content-Type": answer.content_type,
            **answer.headers,
            **({"Transfer-Encoding": "chunked"} if parsed.takes_chunks else {}),
        }
        await _send(connection, _head(200, headers, is_last=parsed.is_last))
        await _send_parts(connection, answer.parts, chunk if parsed.takes_chunks else bytes)
        await _send(connection, chunk(b"") if parsed.takes_chunks else b"")
        return
    response = answer.response if isinstance(answer, FdReply) else answer
    if not 200 <= response.status <= 999:
        response = Response(500, f"invalid status code {response.status}\n".encode())
    data = _encode(response, is_last=parsed.is_last, is_head=parsed.request.method == "HEAD")
    if isinstance(answer, FdReply):
        assert isinstance(connection, socket.socket)  # a Unix socket: there is no TLS
        try:
            data = data[socket.send_fds(connection, [data], answer.fds) :]
        finally:
            for fd in answer.fds:
                os.close(fd)
    await _send(connection, data)


async def _send_parts(
    connection: Connection, parts: AsyncGenerator[bytes, None], encode: Callable[[bytes], bytes]
) -> None:
    """Send the parts of a body.

    Raises ConnectionError as soon as the client closes the connection, also while there is nothing
    to send.
    """
    # A client sends nothing while it receives a stream, so that data means its end as well.
    disconnected = asyncio.ensure_future(_receive(connection, 1))
    try:
        while True:
            following = asyncio.ensure_future(anext(parts, None))
            await asyncio.wait((following, disconnected), return_when=asyncio.FIRST_COMPLETED)
            if not following.done():
                following.cancel()
                await asyncio.wait((following,))
                raise ConnectionResetError("the client is gone")
            if (part := following.result()) is None:
                return
            if part:
                await _send(connection, encode(part))
    finally:
        disconnected.cancel()
        await asyncio.gather(disconnected, return_exceptions=True)
        await parts.aclose()


def _encode(response: Response, *, is_last: bool, is_head: bool = False) -> bytes:
    """Encode a response; if its headers are invalid, encode one with status 500 instead."""
    has_length = response.status not in BODILESS
    length = {"Content-Length": str(len(response.body))} if has_length else {}
    try:
        encoded_head = _head(
            response.status,
            {"Content-Type": response.content_type, **response.headers, **length},
            is_last=is_last,
        )
    except ValueError as error:
        return _encode(Response(500, f"{error}\n".encode()), is_last=is_last, is_head=is_head)
    return encoded_head + response.body if has_length and not is_head else encoded_head


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
