"""Frames of the messages between a lab's own processes: JSON over Unix stream sockets.

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
    """Encode a message as a frame."""
    body = msgspec.json.encode(message)
    return _LENGTH.pack(len(body)) + body


class FrameDecoder:
    """Decoder of frames from the parts of a stream."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """Add received bytes and yield every message that they complete."""
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(self._buffer)
            end = _LENGTH.size + size
            if len(self._buffer) < end:
                return
            message: Message = msgspec.json.decode(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            yield message
