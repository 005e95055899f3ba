"""How the lab's own processes talk: JSON messages, each behind its length, over a Unix stream socket.

frame := u32 length, big-endian | JSON
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

_LENGTH = struct.Struct(">I")

Message = dict[str, Any]


def encode(message: Mapping[str, Any]) -> bytes:
    """A message as a frame."""
    body = msgspec.json.encode(message)
    return _LENGTH.pack(len(body)) + body


class Frames:
    """Puts the pieces of a stream together again."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages that are complete now."""
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(self._buffer)
            end = _LENGTH.size + size
            if len(self._buffer) < end:
                return
            message: Message = msgspec.json.decode(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            yield message
