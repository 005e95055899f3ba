"""HTTP/1.1 as the lab's own server and client speak it: to whoever comes, however the bytes are cut."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenetlab.lab.transport import http
from kubenetlab.lab.transport.exchange import Exchange
from kubenetlab.lab.transport.http import Answer, Stream, fetch, serve
from kubenetlab.lab.transport.request_parser import MAX_HEAD_BYTES, RequestParser
from kubenetlab.programs.http import Request, Response

HOST = b"Host: web\r\n\r\n"
MAX_BODY_BYTES = 1000


async def echo(request: Request) -> Answer:
    """What was asked, as the answer's body."""

    async def pieces() -> AsyncIterator[bytes]:
        yield b"one"
        yield b""
        yield b"two"

    match request.path:
        case "/stream":
            return Stream(pieces())
        case "/split":
            return Response(200, b"", headers={"X": "a\r\nSet-Cookie: b"})
        case "/empty":
            return Response(204, b"not sent")
        case "/odd":
            return Response(99)
    return Response(200, f"{request.method} {request.target} {request.body.decode()}".encode())


def said(*parts: bytes) -> bytes:
    """All that the server says to a client who sends these, one after the other, and then no more."""

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
            heard = bytearray()
            async with asyncio.timeout(10):
                while data := await loop.sock_recv(ours, 65536):
                    heard += data
                await serving
            return bytes(heard)

    return asyncio.run(story())


def bodies(heard: bytes) -> list[str]:
    """The bodies of answers that say how long they are."""
    found = []
    while heard:
        head, _, rest = heard.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        found.append(rest[:length].decode())
        heard = rest[length:]
    return found


@pytest.mark.parametrize(
    ("parts", "wanted"),
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
        ([b"GET /split HTTP/1.1\r\n" + HOST], ["HTTP has no header 'X': 'a\\r\\nSet-Cookie: b'\n"]),
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
        "another protocol offered",
        "nonsense behind",
        "no host",
        "a header in a header",
        "no status",
        "long body",
        "long head",
        "nothing",
        "half of it",
    ],
)
def test_every_request_is_answered(parts: Sequence[bytes], wanted: list[str]) -> None:
    """In its order, or refused with what is wrong with it; never half."""
    assert bodies(said(*parts)) == wanted


@pytest.mark.parametrize("target", [b"//[x", b"http://[::1", b"/a?b=%ff"])
def test_an_odd_target_breaks_nothing(target: bytes) -> None:
    """What is no URL is refused; bytes that are no text are replaced."""
    heard = said(b"GET " + target + b" HTTP/1.1\r\n" + HOST)
    assert heard.startswith(b"HTTP/1.1 200" if target.startswith(b"/a") else b"HTTP/1.1 400"), heard


def test_an_answer_without_a_body_has_none() -> None:
    """To HEAD, and with a status that has none."""
    heard = said(b"HEAD /a HTTP/1.1\r\n" + HOST + b"GET /empty HTTP/1.1\r\n" + HOST)
    assert heard.count(b"HTTP/1.1") == 2
    assert heard.endswith(b"\r\n\r\n")
    assert b"Content-Length: 8\r\n" in heard
    assert b"not sent" not in heard


def test_who_asks_before_sending_a_body_is_told_to_go_on() -> None:
    """Once."""
    heard = said(
        b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n" + HOST, b"he", b"llo"
    )
    assert heard.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
    assert heard.endswith(b"POST / hello")


@pytest.mark.parametrize(
    ("version", "wanted"), [("1.1", b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"), ("1.0", b"onetwo")]
)
def test_an_answer_that_goes_on_is_sent_in_pieces(version: str, wanted: bytes) -> None:
    """To a client that does not know chunks until the connection ends."""
    heard = said(f"GET /stream HTTP/{version}\r\n".encode() + HOST)
    assert heard.partition(b"\r\n\r\n")[2] == wanted


@given(st.lists(st.integers(1, 40), max_size=20))
def test_it_does_not_matter_where_requests_are_cut(sizes: list[int]) -> None:
    """The requests are the same."""
    sent = (
        b"POST /a HTTP/1.1\r\nA: b\r\nContent-Length: 3\r\n"
        + HOST
        + b"xyzPUT /b?c=d HTTP/1.1\r\nTransfer-Encoding: chunked\r\n"
        + HOST
    )
    sent += b"4\r\nwxyz\r\n0\r\n\r\n"
    incoming, at = RequestParser(("10.0.0.1", 1), 80, MAX_BODY_BYTES), 0
    for size in (*sizes, len(sent)):
        incoming.feed(sent[at : at + size])
        at += size
    assert incoming.refusal is None
    first, second = (asked.request for asked in incoming.requests)
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


def read(*pieces: bytes) -> Exchange:
    """An exchange that has been fed these."""
    exchange = Exchange("GET", "/", {})
    for piece in pieces:
        if not exchange.is_complete:
            exchange.feed(piece)
    return exchange


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello, and more", b"hello"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
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
def test_answers_are_read_to_their_end(answer: bytes, body: bytes, is_cut: bool) -> None:
    """However they say where that is, and however they come."""
    pieces = [answer[at : at + 1] for at in range(len(answer))] if is_cut else [answer]
    exchange = read(*pieces, b"")
    assert (exchange.is_complete, exchange.status, exchange.response.body) == (True, 200, body)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "the connection ended without an answer"),
        (b"HTTP/1.1 200 OK\r\nContent-", "the connection ended without an answer"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
            "the connection ended in the middle of the answer",
        ),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "no HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1024 * 1024, "the answer's headers do not end"),
    ],
    ids=["nothing", "half a head", "half a body", "another protocol", "no end"],
)
def test_half_an_answer_is_none(answer: bytes, why: str) -> None:
    """Nobody takes it for the whole."""
    with pytest.raises(ConnectionError, match=why):
        read(answer, b"") if answer else read(b"")


def test_an_answer_to_head_ends_with_its_head() -> None:
    """Whatever length it names."""
    exchange = Exchange("HEAD", "/", {})
    exchange.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
    assert exchange.is_complete


def fetched(*parts: bytes, enough_bytes: int | None = None) -> tuple[Response, int]:
    """Return the answer of a server that says these parts again and again, and how many parts it could say at most."""

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
                pass  # the client has had enough

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


def test_of_an_endless_answer_only_so_much_is_read() -> None:
    """A probe of a server that streams succeeds, as a kubelet's does, and does not fill the memory."""
    response, count = fetched(b"x" * 4096, enough_bytes=10_000)
    assert response.status == 200
    assert 10_000 <= len(response.body) < 1 << 20
    assert count < 1000


def test_an_answer_may_not_be_endless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_BODY_BYTES", 1 << 20)
    with pytest.raises(ConnectionError, match="longer than 1 MiB"):
        fetched(b"x" * 65536)
