"""HTTP/1.1 exchange of a client, without input and output: encode a request, parse the response.

Responses are parsed by httptools.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote

from httptools import HttpParserError, HttpResponseParser

from kubenetlab.programs.support.http import Response

MAX_HEAD_BYTES = 1024 * 1024
"""Maximum size of the headers of a response."""
BODILESS = (204, 304)
"""Statuses of responses without a body (RFC 9110 §15.3.5, §15.4.5)."""

_URL_CHARACTERS = "/?#[]@!$&'()*+,;=:%~"
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_INVALID = re.compile(r"[\0-\x08\n-\x1f\x7f]")
"""Characters that header values cannot contain (RFC 9110 §5.5)."""


def head(first_line: str, headers: Iterable[tuple[str, str]]) -> bytes:
    """Encode the first line and the headers of a message. Raises ValueError for invalid headers."""
    lines = [first_line]
    for name, value in headers:
        if not _TOKEN.fullmatch(name) or _INVALID.search(value):
            raise ValueError(f"invalid HTTP header {name!r}: {value!r}")
        lines.append(f"{name}: {value}")
    return "\r\n".join((*lines, "", "")).encode()


def chunk(data: bytes) -> bytes:
    """Encode a chunk of a chunked body (RFC 9112 §7.1); an empty chunk ends the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class Exchange:
    """One request and its response: send `request_bytes`, and `feed` what is received."""

    def __init__(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes = b"",
        *,
        is_stream: bool = False,
    ) -> None:
        """Encode a request.

        target: path and query; characters that are invalid in a URL are quoted.
        headers: if names differ only in case, the last one is sent.
        is_stream: True if the body of the response is only returned by `feed`, and not collected.
        Raises ValueError for invalid headers.
        """
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
        self._new_body = bytearray()
        """Part of the body that `feed` has not returned yet."""
        self._parser: HttpResponseParser | None = HttpResponseParser(self)

    def feed(self, data: bytes) -> bytes:
        """Parse received bytes and return the new part of the body.

        data: empty if the server has closed the connection.
        Raises ConnectionError if the response is invalid or incomplete.
        """
        if not self.is_complete:
            self._parse(data)
        new_body, self._new_body = bytes(self._new_body), bytearray()
        if not self._is_stream:
            self._body += new_body
        return new_body

    @property
    def body_bytes(self) -> int:
        """Length of the collected body; 0 with `is_stream`."""
        return len(self._body)

    @property
    def response(self) -> Response:
        """The response; its body is empty with `is_stream`."""
        return Response(
            self.status, bytes(self._body), self.headers.get("content-type", ""), self.headers
        )

    def _parse(self, data: bytes) -> None:
        assert self._parser is not None
        if not data:
            self._end()
        try:
            self._parser.feed_data(data)
        except HttpParserError as error:
            if not self.is_complete:  # bytes after the response are ignored
                raise ConnectionError(f"not an HTTP response: {error}") from None
        self._head_bytes += 0 if self._has_head else len(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            raise ConnectionError("invalid HTTP response: the answer's headers do not end")
        if self.is_complete:
            self._parser = None  # breaks the reference cycle

    def _end(self) -> None:
        """Handle the end of the connection, which is also the end of a body without a length."""
        if not self._has_head:
            raise ConnectionError("the connection ended without an answer")
        if "content-length" in self.headers or "chunked" in self.headers.get(
            "transfer-encoding", ""
        ):
            raise ConnectionError(
                "incomplete HTTP response: the connection ended in the middle of the answer"
            )
        self.is_complete = True

    # --- callbacks of the parser ---

    def on_message_begin(self) -> None:
        self.headers = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode(errors="replace").lower()] = value.decode(errors="replace")

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        if status >= 200:  # interim responses precede the final one (RFC 9110 §15.2)
            self.status = status
            self._has_head = True
            self.is_complete = self._is_bodiless

    def on_body(self, data: bytes) -> None:
        if not self._is_bodiless:
            self._new_body += data

    def on_message_complete(self) -> None:
        self.is_complete = self._has_head
