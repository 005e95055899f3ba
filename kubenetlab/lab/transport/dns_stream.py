"""DNS messages over TCP: each behind its length in two bytes (RFC 1035 section 4.2.2)."""

from __future__ import annotations

import asyncio
import socket
import struct

_READ_BYTES = 64 * 1024


def framed(message: bytes) -> bytes:
    """Return a message behind its length."""
    return struct.pack(">H", len(message)) + message


def split(buffer: bytes) -> tuple[bytes | None, bytes]:
    """Return the first whole message of what was read, or None, and the bytes that follow it."""
    if len(buffer) < 2 or len(buffer) < 2 + (size := int.from_bytes(buffer[:2], "big")):
        return None, buffer
    return buffer[2 : 2 + size], buffer[2 + size :]


async def ask(connection: socket.socket, message: bytes) -> bytes:
    """Send a question over a connected socket and return the answer. Raises OSError when the server closes early."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(connection, framed(message))
    buffer = b""
    while (answer := split(buffer)[0]) is None:
        if not (fresh := await loop.sock_recv(connection, _READ_BYTES)):
            raise ConnectionError("the server closed the connection before the end of its answer")
        buffer += fresh
    return answer
