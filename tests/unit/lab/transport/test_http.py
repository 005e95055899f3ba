"""HTTP/1.1 server and client of the lab, for all ways in which the bytes may arrive."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenetlab.lab.transport import http
from kubenetlab.lab.transport.exchange import Exchange
from kubenetlab.lab.transport.http import Answer, Stream, fetch, serve
from kubenetlab.lab.transport.request_parser import MAX_HEAD_BYTES, RequestParser
from kubenetlab.programs.support.http import Request, Response

HOST = b"Host: web\r\n\r\n"
MAX_BODY_BYTES = 1000


async def echo(request: Request) -> Answer:
    """Return a response that depends on the path; by default the request is its body."""

    async def parts() -> AsyncGenerator[bytes, None]:
        yield b"one"
        yield b""
        yield b"two"

    match request.path:
        case "/stream":
            return Stream(parts())
        case "/split":
            return Response(200, b"", headers={"X": "a\r\nSet-Cookie: b"})
        case "/empty":
            return Response(204, b"not sent")
        case "/odd":
            return Response(99)
    return Response(200, f"{request.method} {request.target} {request.body.decode()}".encode())


def response_to(*parts: bytes) -> bytes:
    """Return everything that the server sends to a client that sends these parts."""

    async def story() -> bytes:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        loop = asyncio.get_running_loop()
        with ours:
            serving = loop.create_task(serve(theirs, echo, max_body_bytes=MAX_BODY_BYTES))
            for part in parts:
                await loop.sock_sendall(ours, part)
                await asyncio.sleep(0)
            ours.shutdown(socket.SHUT_WR)
            received = bytearray()
            async with asyncio.timeout(10):
                while data := await loop.sock_recv(ours, 65536):
                    received += data
                await serving
            return bytes(received)

    return asyncio.run(story())


def bodies(data: bytes) -> list[str]:
    """Return the bodies of responses with a content length."""
    result = []
    while data:
        head, _, rest = data.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        result.append(rest[:length].decode())
        data = rest[length:]
    return result


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([b"GET /a HTTP/1.1\r\n" + HOST, b"GET /b HTTP/1.1\r\n" + HOST], ["GET /a ", "GET /b "]),
        ([b"GET /a HTTP/1.1\r\n" + HOST + b"GET /b HTTP/1.1\r\n" + HOST], ["GET /a ", "GET /b "]),
        (
            [b"GET /a HTTP/1.1\r\nConnection: close\r\n" + HOST + b"GET /b HTTP/1.1\r\n" + HOST],
            ["GET /a "],
        ),
        ([b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n" + HOST], ["GET /a "]),
        (
            [
                b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + HOST,
                b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
            ],
            ["POST / hello"],
        ),
        ([b"GET /a HTTP/1.1\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n" + HOST], ["GET /a "]),
        (
            [b"GET /a HTTP/1.1\r\n" + HOST + b"NONSENSE\r\n\r\n"],
            ["GET /a ", "Invalid method encountered\n"],
        ),
        ([b"GET /a HTTP/1.1\r\n\r\n"], ["missing required Host header\n"]),
        (
            [b"GET /split HTTP/1.1\r\n" + HOST],
            ["invalid HTTP header 'X': 'a\\r\\nSet-Cookie: b'\n"],
        ),
        ([b"GET /odd HTTP/1.1\r\n" + HOST], ["invalid status code 99\n"]),
        (
            [b"POST / HTTP/1.1\r\nContent-Length: 1001\r\n" + HOST, b"x" * 1001],
            ["the request's body is too large\n"],
        ),
        (
            [b"GET / HTTP/1.1\r\nX: ", b"x" * MAX_HEAD_BYTES],
            ["the request's headers are too long\n"],
        ),
        ([b""], []),
        ([b"GET /a HTTP"], []),
    ],
    ids=[
        "kept",
        "pipelined",
        "closed",
        "1.0",
        "chunks",
        "upgrade offered",
        "invalid after valid",
        "no host",
        "header injection",
        "invalid status",
        "long body",
        "long head",
        "nothing",
        "incomplete",
    ],
)
def test_every_request_is_answered(parts: Sequence[bytes], expected: list[str]) -> None:
    """Responses have the order of the requests; an invalid request gets an error message."""
    assert bodies(response_to(*parts)) == expected


@pytest.mark.parametrize("target", [b"//[x", b"http://[::1", b"/a?b=%ff"])
def test_an_invalid_target_is_refused(target: bytes) -> None:
    """A target that is not a URL is refused; bytes that are not UTF-8 are replaced."""
    received = response_to(b"GET " + target + b" HTTP/1.1\r\n" + HOST)
    status = b"HTTP/1.1 200" if target.startswith(b"/a") else b"HTTP/1.1 400"
    assert received.startswith(status), received


def test_responses_to_head_and_with_some_statuses_have_no_body() -> None:
    """A response to HEAD has a content length all the same."""
    received = response_to(b"HEAD /a HTTP/1.1\r\n" + HOST + b"GET /empty HTTP/1.1\r\n" + HOST)
    assert received.count(b"HTTP/1.1") == 2
    assert received.endswith(b"\r\n\r\n")
    assert b"Content-Length: 8\r\n" in received
    assert b"not sent" not in received


def test_a_client_that_expects_100_continue_gets_it() -> None:
    """It is sent once."""
    received = response_to(
        b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n" + HOST, b"he", b"llo"
    )
    assert received.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
    assert received.endswith(b"POST / hello")


@pytest.mark.parametrize(
    ("version", "expected"), [("1.1", b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"), ("1.0", b"onetwo")]
)
def test_a_stream_is_sent_in_chunks(version: str, expected: bytes) -> None:
    """For a client of HTTP/1.0, the end of the connection ends the body."""
    received = response_to(f"GET /stream HTTP/{version}\r\n".encode() + HOST)
    assert received.partition(b"\r\n\r\n")[2] == expected


@given(st.lists(st.integers(1, 40), max_size=20))
def test_requests_may_arrive_in_parts_of_any_size(sizes: list[int]) -> None:
    """The parsed requests are always the same."""
    sent = (
        b"POST /a HTTP/1.1\r\nA: b\r\nContent-Length: 3\r\n"
        + HOST
        + b"xyzPUT /b?c=d HTTP/1.1\r\nTransfer-Encoding: chunked\r\n"
        + HOST
    )
    sent += b"4\r\nwxyz\r\n0\r\n\r\n"
    parser, at = RequestParser(("10.0.0.1", 1), 80, MAX_BODY_BYTES), 0
    for size in (*sizes, len(sent)):
        parser.feed(sent[at : at + size])
        at += size
    assert parser.refusal is None
    first, second = (parsed.request for parsed in parser.requests)
    assert (first.method, first.target, first.body, first.headers["a"]) == (
        "POST",
        "/a",
        b"xyz",
        "b",
    )
    assert (second.method, second.target, second.body, second.port) == (
        "PUT",
        "/b?c=d",
        b"wxyz",
        80,
    )


def read(*parts: bytes) -> Exchange:
    """Return an exchange that has received these parts."""
    exchange = Exchange("GET", "/", {})
    for part in parts:
        if not exchange.is_complete:
            exchange.feed(part)
    return exchange


@pytest.mark.parametrize(
    ("response", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello, and more", b"hello"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
            b"hello",
        ),
        (b"HTTP/1.0 200 OK\r\n\r\nhello", b"hello"),
        (
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            b"hello",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
    ],
    ids=["length", "more", "chunks", "until the end", "continue", "empty"],
)
@pytest.mark.parametrize("is_cut", [False, True], ids=["at once", "byte by byte"])
def test_responses_are_read_to_their_end(response: bytes, body: bytes, is_cut: bool) -> None:
    """A length, chunks or the end of the connection may end the body."""
    parts = [response[at : at + 1] for at in range(len(response))] if is_cut else [response]
    exchange = read(*parts, b"")
    assert (exchange.is_complete, exchange.status, exchange.response.body) == (True, 200, body)


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (b"", "the connection ended without an answer"),
        (b"HTTP/1.1 200 OK\r\nContent-", "the connection ended without an answer"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
            "the connection ended in the middle of the answer",
        ),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not an HTTP response"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1024 * 1024, "the answer's headers do not end"),
    ],
    ids=["nothing", "half a head", "half a body", "another protocol", "endless head"],
)
def test_an_incomplete_response_is_an_error(response: bytes, reason: str) -> None:
    """The same is true for a response that is not HTTP."""
    with pytest.raises(ConnectionError, match=reason):
        read(response, b"") if response else read(b"")


def test_a_response_to_head_ends_after_its_headers() -> None:
    """Its content length is that of the missing body."""
    exchange = Exchange("HEAD", "/", {})
    exchange.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
    assert exchange.is_complete


def fetched(*parts: bytes, enough_bytes: int | None = None) -> tuple[Response, int]:
    """Return the response of a server that repeats these parts, and the number of parts it sent."""

    async def story() -> tuple[Response, int]:
        ours, theirs = socket.socketpair()
        count = 0

        async def answer() -> None:
            nonlocal count
            try:
                await asyncio.get_running_loop().sock_sendall(theirs, b"HTTP/1.1 200 OK\r\n\r\n")
                while True:
                    for part in parts:
                        await asyncio.get_running_loop().sock_sendall(theirs, part)
                        count += 1
            except OSError:
                pass  # the client has closed the connection

        with ours, theirs:
            ours.setblocking(False)
            theirs.setblocking(False)
            serving = asyncio.get_running_loop().create_task(answer())
            try:
                async with asyncio.timeout(30):
                    return await fetch(ours, "GET", "/", enough_bytes=enough_bytes), count
            finally:
                serving.cancel()

    return asyncio.run(story())


def test_an_endless_response_is_read_up_to_a_limit() -> None:
    """So a probe of a streaming server succeeds, like the kubelet's, and needs little memory."""
    response, count = fetched(b"x" * 4096, enough_bytes=10_000)
    assert response.status == 200
    assert 10_000 <= len(response.body) < 1 << 20
    assert count < 1000


def test_an_endless_response_is_an_error_without_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_BODY_BYTES", 1 << 20)
    with pytest.raises(ConnectionError, match="longer than 1 MiB"):
        fetched(b"x" * 65536)
