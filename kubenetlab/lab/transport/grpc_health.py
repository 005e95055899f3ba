"""gRPC's health checking protocol over sockets that callers open: server and client, based on h2.

Built-in programs use the server, probes the client.

message := u8 compressed | u32 length | protobuf
protobuf: HealthCheckRequest{1: service}, HealthCheckResponse{1: status}

Source: github.com/grpc/grpc doc/health-checking.md, doc/PROTOCOL-HTTP2.md; k8s.io/kubernetes
pkg/probe/grpc/grpc.go (1.33).
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from kubenetlab.datapath.probes import USER_AGENT

if TYPE_CHECKING:
    from h2.connection import H2Connection

PREFACE: Final = b"PRI * HTTP/2.0\r\n"
"""First bytes of every HTTP/2 client (RFC 9113 §3.4); no HTTP/1.1 request begins with them."""
CHECK: Final = "/grpc.health.v1.Health/Check"
WATCH: Final = "/grpc.health.v1.Health/Watch"

_RECEIVE_BYTES = 64 * 1024
_IDLE_TIMEOUT_S = 75.0
_MESSAGE = struct.Struct(">BI")
_STATUSES: Final = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
_SERVING: Final = b"\x08\x01"
_OK, _UNIMPLEMENTED, _UNAVAILABLE = "0", "12", "14"


async def serve(connection: socket.socket, received: bytes) -> None:
    """Serve one HTTP/2 connection: report every service as serving, refuse all other methods.

    received: the first bytes of the connection, which begin with the preface.
    """
    from h2 import events
    from h2.config import H2Configuration
    from h2.connection import H2Connection
    from h2.exceptions import ProtocolError

    loop = asyncio.get_running_loop()
    protocol = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
    protocol.initiate_connection()
    paths: dict[int, str] = {}
    try:
        while received:
            for event in protocol.receive_data(received):
                match event:
                    case events.RequestReceived():
                        paths[event.stream_id or 0] = _texts(event.headers).get(":path", "")
                    case events.DataReceived():
                        protocol.acknowledge_received_data(
                            event.flow_controlled_length or 0, event.stream_id or 0
                        )
                    case events.StreamEnded():
                        _answer(protocol, event.stream_id or 0, paths.pop(event.stream_id or 0, ""))
                    case events.ConnectionTerminated():
                        return
            await loop.sock_sendall(connection, protocol.data_to_send())
            async with asyncio.timeout(_IDLE_TIMEOUT_S):
                received = await loop.sock_recv(connection, _RECEIVE_BYTES)
    except (ProtocolError, OSError, TimeoutError):
        pass  # the client is gone, or speaks something else


def _answer(protocol: H2Connection, stream: int, path: str) -> None:
    head = [(":status", "200"), ("content-type", "application/grpc")]
    if path not in (CHECK, WATCH):
        protocol.send_headers(
            stream,
            [*head, ("grpc-status", _UNIMPLEMENTED), ("grpc-message", f"unknown method {path}")],
            end_stream=True,
        )
        return
    protocol.send_headers(stream, head)
    protocol.send_data(stream, _MESSAGE.pack(0, len(_SERVING)) + _SERVING)
    if path == CHECK:  # the stream of a watch stays open
        protocol.send_headers(stream, [("grpc-status", _OK)], end_stream=True)


async def check(connection: socket.socket, authority: str, service: str) -> str | None:
    """Check a service over a connected socket; return None if it is serving.

    Otherwise return an error message as the kubelet words it. Raises OSError.
    """
    from h2 import events
    from h2.config import H2Configuration
    from h2.connection import H2Connection
    from h2.exceptions import ProtocolError

    loop = asyncio.get_running_loop()
    protocol = H2Connection(H2Configuration(header_encoding="utf-8"))
    protocol.initiate_connection()
    name = service.encode()
    request = b"\x0a" + _varint(len(name)) + name if name else b""
    protocol.send_headers(
        1,
        [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", CHECK),
            (":authority", authority),
            ("content-type", "application/grpc"),
            ("user-agent", USER_AGENT),
            ("te", "trailers"),
        ],
    )
    protocol.send_data(1, _MESSAGE.pack(0, len(request)) + request, end_stream=True)
    headers: dict[str, str] = {}
    body = b""
    try:
        while True:
            await loop.sock_sendall(connection, protocol.data_to_send())
            received = await loop.sock_recv(connection, _RECEIVE_BYTES)
            if not received:
                return (
                    "rpc error: code = Unavailable desc = "
                    "connection closed before server preface received"
                )
            for event in protocol.receive_data(received):
                match event:
                    case events.ResponseReceived() | events.TrailersReceived():
                        headers |= _texts(event.headers)
                    case events.DataReceived():
                        body += event.data or b""
                    case (
                        events.StreamEnded() | events.StreamReset() | events.ConnectionTerminated()
                    ):
                        return _verdict(headers, body)
    except ProtocolError as error:
        return f"rpc error: code = Unavailable desc = {error}"


def _verdict(headers: dict[str, str], body: bytes) -> str | None:
    """Return None for a response that reports a serving service, otherwise the error message."""
    code = headers.get("grpc-status", _UNAVAILABLE)
    if code == _UNIMPLEMENTED:
        return (
            "error: this server does not implement the grpc health protocol "
            f"(grpc.health.v1.Health): {headers.get('grpc-message', '')}"
        )
    if code != _OK:
        return f"rpc error: code = {code} desc = {headers.get('grpc-message', '')}"
    message = body[_MESSAGE.size :]
    status = message[1] if len(message) >= 2 and message[0] == 0x08 else 0
    name = _STATUSES[status] if status < len(_STATUSES) else str(status)
    return None if name == "SERVING" else f'service unhealthy (responded with "{name}")'


def _texts(headers: Iterable[tuple[object, object]] | None) -> dict[str, str]:
    """Return the headers of an h2 event as text."""
    return {str(name): str(value) for name, value in headers or ()}


def _varint(number: int) -> bytes:
    """Encode a variable-length integer of protobuf."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*encoded, number))
