"""Exchange: one HTTP request and its answer as bytes, without any input or output. The protocol is h11's."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

import h11

from kubenetlab.programs.http import Response

MAX_EVENT_BYTES = 1024 * 1024
_URL_CHARACTERS = "/?#[]@!$&'()*+,;=:%~"


class Exchange:
    """The client's side of one request, without any input or output of its own.

    What a URL cannot hold is quoted in the target; of headers with one name the last counts. Raises ValueError for a header that HTTP
    cannot carry. With `is_stream` the body is handed out by `feed` and not kept.
    """

    def __init__(self, method: str, target: str, headers: Mapping[str, str], body: bytes = b"", *, is_stream: bool = False) -> None:
        self._protocol = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_EVENT_BYTES)
        self._is_stream = is_stream
        lines = {"host": ("Host", "kubenetlab"), **{name.lower(): (name, value) for name, value in headers.items()}}
        lines["connection"] = ("Connection", "close")
        if body or method in ("POST", "PUT", "PATCH"):
            lines["content-length"] = ("Content-Length", str(len(body)))
        try:
            request = h11.Request(method=method, target=quote(target, safe=_URL_CHARACTERS), headers=list(lines.values()))
            pieces = [
                self._protocol.send(request),
                self._protocol.send(h11.Data(data=body)) if body else b"",
                self._protocol.send(h11.EndOfMessage()),
            ]
        except h11.LocalProtocolError as error:
            raise ValueError(f"no HTTP request: {error}") from None
        self.request_bytes = b"".join(piece or b"" for piece in pieces)
        self.status = 0
        self.headers: dict[str, str] = {}
        self.is_complete = False
        self._body = bytearray()

    def feed(self, data: bytes) -> bytes:
        """Takes what came in (nothing: the connection ended); returns the new part of the body. Raises ConnectionError."""
        fresh = bytearray()
        try:
            self._protocol.receive_data(data)
            while True:
                event = self._protocol.next_event()
                match event:
                    case h11.Response():
                        self.status = event.status_code
                        self.headers = {name.decode(): value.decode(errors="replace") for name, value in event.headers}
                    case h11.Data():
                        fresh += event.data
                    case h11.EndOfMessage() | h11.PAUSED | h11.ConnectionClosed():
                        self.is_complete = True
                        break
                    case _:
                        break
        except h11.RemoteProtocolError as error:
            raise ConnectionError(f"no HTTP: {error}") from None
        if self.is_complete and not self.status:
            raise ConnectionError("the connection ended without an answer")
        if not self._is_stream:
            self._body += fresh
        return bytes(fresh)

    @property
    def response(self) -> Response:
        return Response(self.status, bytes(self._body), self.headers.get("content-type", ""), self.headers)
