"""Frames of the messages between a lab's own processes: MessagePack over Unix stream sockets.

frame := u32 length of the message, big-endian | u64 number | message

A request and its reply have the same number, which is not 0. An event has number 0.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

import msgspec

from kubenetlab.lab.transport.protocol import Message

EVENT: Final = 0
"""Number of messages that are neither a request nor a reply."""
_HEADER: Final = struct.Struct(">IQ")
_ENCODER: Final = msgspec.msgpack.Encoder()


class Frame(NamedTuple):
    """A message that is not decoded yet."""

    number: int
    body: bytes


def encode(message: Message, number: int = EVENT) -> bytes:
    """Encode a message as a frame."""
    body = _ENCODER.encode(message)
    return _HEADER.pack(len(body), number) + body


class FrameDecoder:
    """Decoder of frames from the parts of a stream."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Add received bytes and yield every frame that they complete."""
        self._buffer += data
        while len(self._buffer) >= _HEADER.size:
            size, number = _HEADER.unpack_from(self._buffer)
            end = _HEADER.size + size
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_HEADER.size : end])
            del self._buffer[:end]
            yield Frame(number, body)
