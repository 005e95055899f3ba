"""DNS messages over TCP: each is preceded by its length in two bytes (RFC 1035 section 4.2.2)."""

from __future__ import annotations

import asyncio
import socket
import struct

_READ_BYTES = 64 * 1024


def frame(message: bytes) -> bytes:
    """Return a message preceded by its length."""
    return struct.pack(">H", len(message)) + message


def split(buffer: bytes) -> tuple[bytes | None, bytes]:
    """Return the first complete message of a buffer, or None, and the remaining bytes."""
    if len(buffer) < 2 or len(buffer) < 2 + (size := int.from_bytes(buffer[:2], "big")):
        return None, buffer
    return buffer[2 : 2 + size], buffer[2 + size :]


async def query(connection: socket.socket, message: bytes) -> bytes:
    """Send a query over a connected socket and return the response.

    Raises OSError if the server closes the connection before the response is complete.
    """
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(connection, frame(message))
    buffer = b""
    while (response := split(buffer)[0]) is None:
        if not (data := await loop.sock_recv(connection, _READ_BYTES)):
            raise ConnectionError("the server closed the connection before the end of its answer")
        buffer += data
    return response
