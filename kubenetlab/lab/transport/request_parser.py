"""Parser of the HTTP/1.1 requests of one connection, without input and output.

It is based on httptools.
"""

from __future__ import annotations

from collections import deque
from urllib.parse import urlsplit

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from msgspec import Struct

from kubenetlab.programs.support.http import Peer, Request, Response

MAX_HEAD_BYTES = 64 * 1024
"""Maximum size of the headers of a request."""


class ParsedRequest(Struct, frozen=True):
    """Request, and properties of its client that the response depends on."""

    request: Request
    is_last: bool
    """True if the connection is closed after the response."""
    takes_chunks: bool
    """True if the client understands a chunked body (HTTP/1.1)."""


class RequestParser:
    """Parser of requests: `feed` it with received bytes, then take the complete `requests`.

    If `refusal` is set, it is the response to the invalid request after these, and the connection
    must be closed.
    """

    def __init__(self, peer: Peer, port: int, max_body_bytes: int) -> None:
        """Create a parser for a connection from `peer` to a local port."""
        self.requests: deque[ParsedRequest] = deque()
        self.refusal: Response | None = None
        self.awaits_continue = False
        """True while the client waits for `100 Continue` to send its body (RFC 9110 §10.1.1)."""
        self._peer = peer
        self._port = port
        self._max_body_bytes = max_body_bytes
        self._head_bytes = 0
        self._is_closed = False
        self._has_head = False
        self._target = bytearray()
        self._headers: dict[str, str] = {}
        self._body = bytearray()
        self._parser: HttpRequestParser | None = HttpRequestParser(self)

    def feed(self, data: bytes) -> None:
        """Parse received bytes."""
        if self._parser is None:
            return
        self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            pass  # the client offers another protocol; the response is HTTP/1.1
        except HttpParserError as error:
            if not self._is_closed:
                self._refuse(400, str(error))
        if not self._has_head and self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(431, "the request's headers are too long")
        if self._is_closed:
            self._parser = None  # breaks the reference cycle

    def _refuse(self, status: int, message: str) -> None:
        """Set the response to an invalid request; only the first one counts."""
        self._is_closed = True
        self.refusal = self.refusal or Response(status, f"{message}\n".encode())

    # --- callbacks of the parser ---

    def on_message_begin(self) -> None:
        self._has_head = self.awaits_continue = False
        self._target, self._headers, self._body = bytearray(), {}, bytearray()

    def on_url(self, part: bytes) -> None:
        self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode(errors="replace").lower()] = value.decode(errors="replace")

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        self._has_head = True
        if "host" not in self._headers and self._takes_chunks:
            self._refuse(400, "missing required Host header")
        self.awaits_continue = self._headers.get("expect", "").lower() == "100-continue"

    def on_body(self, part: bytes) -> None:
        self.awaits_continue = False
        if len(self._body) + len(part) > self._max_body_bytes:
            self._refuse(413, "the request's body is too large")
        if not self._is_closed:
            self._body += part

    def on_message_complete(self) -> None:
        assert self._parser is not None
        self._has_head, self._head_bytes, self.awaits_continue = False, 0, False
        if self._is_closed:
            return
        method, target = self._parser.get_method().decode(), self._target.decode(errors="replace")
        try:
            urlsplit(target)
        except ValueError as error:
            self._refuse(400, f"the request's target is no URL: {error}")
            return
        request = Request(method, target, self._peer, self._headers, bytes(self._body), self._port)
        self._is_closed = (
            self._parser.should_upgrade()
            or not self._parser.should_keep_alive()
            or not self._takes_chunks
        )
        self.requests.append(ParsedRequest(request, self._is_closed, self._takes_chunks))

    @property
    def _takes_chunks(self) -> bool:
        """False for a client that uses HTTP/1.0."""
        assert self._parser is not None
        return self._parser.get_http_version() != "1.0"
