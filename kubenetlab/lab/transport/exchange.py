"""Exchange: one HTTP/1.1 request and its answer as bytes, without any input or output. What comes in is taken apart by httptools."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote

from httptools import HttpParserError, HttpResponseParser

from kubenetlab.programs.http import Response

MAX_HEAD_BYTES = 1024 * 1024
BODILESS = (204, 304)
"""Statuses whose answers have no body (RFC 9110 §15.3.5, §15.4.5)."""

_URL_CHARACTERS = "/?#[]@!$&'()*+,;=:%~"
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_IMPOSSIBLE = re.compile(r"[\0-\x08\n-\x1f\x7f]")
"""What no header's value can hold (RFC 9110 §5.5)."""


def head(first_line: str, headers: Iterable[tuple[str, str]]) -> bytes:
    """What stands before a message's body. Raises ValueError for a header that HTTP cannot carry."""
    lines = [first_line]
    for name, value in headers:
        if not _TOKEN.fullmatch(name) or _IMPOSSIBLE.search(value):
            raise ValueError(f"HTTP has no header {name!r}: {value!r}")
        lines.append(f"{name}: {value}")
    return "\r\n".join((*lines, "", "")).encode()


def chunk(data: bytes) -> bytes:
    """A piece of a body whose length is not known when it begins (RFC 9112 §7.1); the empty one is its end."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class Exchange:
    """The client's side of one request, without any input or output of its own.

    What a URL cannot hold is quoted in the target; of headers with one name the last counts. Raises ValueError for a header that HTTP
    cannot carry. With `is_stream` the body is handed out by `feed` and not kept.
    """

    def __init__(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes = b"",
        *,
        is_stream: bool = False,
    ) -> None:
        lines = {
            "host": ("Host", "kubenetlab"),
            **{name.lower(): (name, value) for name, value in headers.items()},
        }
        lines["connection"] = ("Connection", "close")
        if body or method in ("POST", "PUT", "PATCH"):
            lines["content-length"] = ("Content-Length", str(len(body)))
        self.request_bytes = (
            head(f"{method} {quote(target, safe=_URL_CHARACTERS)} HTTP/1.1", lines.values()) + body
        )
        self.status = 0
        self.headers: dict[str, str] = {}
        self.is_complete = False
        self._is_stream = is_stream
        self._is_bodiless = method == "HEAD"
        self._has_head = False
        self._head_bytes = 0
        self._body = bytearray()
        self._fresh = bytearray()
        self._parser: HttpResponseParser | None = HttpResponseParser(self)

    def feed(self, data: bytes) -> bytes:
        """Takes what came in (nothing: the connection ended); returns the new part of the body. Raises ConnectionError."""
        if not self.is_complete:
            self._take(data)
        fresh, self._fresh = bytes(self._fresh), bytearray()
        if not self._is_stream:
            self._body += fresh
        return fresh

    @property
    def body_bytes(self) -> int:
        """Length of the body so far; 0 with `is_stream`."""
        return len(self._body)

    @property
    def response(self) -> Response:
        return Response(
            self.status, bytes(self._body), self.headers.get("content-type", ""), self.headers
        )

    def _take(self, data: bytes) -> None:
        assert self._parser is not None
        if not data:
            self._take_end()
        try:
            self._parser.feed_data(data)
        except HttpParserError as error:
            if not self.is_complete:  # what comes behind the answer is of no interest
                raise ConnectionError(f"no HTTP: {error}") from None
        self._head_bytes += 0 if self._has_head else len(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            raise ConnectionError("no HTTP: the answer's headers do not end")
        if self.is_complete:
            self._parser = None  # which knows us

    def _take_end(self) -> None:
        """The connection has ended, which is where an answer of no given length ends, too."""
        if not self._has_head:
            raise ConnectionError("the connection ended without an answer")
        if "content-length" in self.headers or "chunked" in self.headers.get(
            "transfer-encoding", ""
        ):
            raise ConnectionError("no HTTP: the connection ended in the middle of the answer")
        self.is_complete = True

    # --- what the parser calls ---

    def on_message_begin(self) -> None:
        self.headers = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode(errors="replace").lower()] = value.decode(errors="replace")

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        if status >= 200:  # others only announce the answer (RFC 9110 §15.2)
            self.status = status
            self._has_head = True
            self.is_complete = self._is_bodiless

    def on_body(self, data: bytes) -> None:
        if not self._is_bodiless:
            self._fresh += data

    def on_message_complete(self) -> None:
        self.is_complete = self._has_head
