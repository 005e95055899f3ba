"""One datagram: the routers that it passes, its source address, and its size on the fabric.

Source: ip(7) IP_RECVTTL and IP_MTU, ipv6(7) IPV6_RECVHOPLIMIT and IPV6_MTU, packet(7).
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Final, NamedTuple, Self

from kubenetlab.errors import LabError
from kubenetlab.names import NODE_UPLINK
from kubenetlab.observe.comparison.sockets import TIMEOUT_S, open_sockets
from kubenetlab.observe.targets.locations import Location

_FIRST_TTL: Final = 64
"""TTL of the packets that a pod sends."""
_CONTENT_BYTES: Final = {4: 804, 6: 800}
"""IP version → length of the random content by which the datagram is found on the fabric.

No other packet of a new lab has about this length, and encryption needs no padding: the IP packet
is a multiple of 16 bytes, as WireGuard pads it, and a VXLAN datagram with the two bytes of ESP's
trailer is a multiple of 4.
"""
_MAX_GROWTH: Final = 160
"""Bytes that encryption and encapsulation add at most."""
_REPEAT_S: Final = 0.5
"""Time after which the datagram is sent again, in seconds: a route may still be missing."""
_ETH_P_ALL: Final = 3
_HEADERS: Final = {4: 14 + 20 + 8, 6: 14 + 40 + 8}
"""Bytes of the headers Ethernet, IP and UDP, by IP version."""
_IP_RECVTTL: Final = 12
_IPV6_RECVHOPLIMIT: Final = 51
_TTL_OPTIONS: Final = {
    4: (socket.IPPROTO_IP, _IP_RECVTTL),
    6: (socket.IPPROTO_IPV6, _IPV6_RECVHOPLIMIT),
}
"""IP version → level and name of the socket option for the TTL of a received packet."""
_IP_MTU: Final = 14
_IPV6_MTU: Final = 24
_MTU_OPTIONS: Final = {
    4: (socket.IPPROTO_IP, _IP_MTU),
    6: (socket.IPPROTO_IPV6, _IPV6_MTU),
}
"""IP version → level and name of the socket option for the MTU of a connected socket's route."""
_ANCILLARY_BYTES: Final = 64
_INT: Final = struct.Struct("=i")


class Datagram(NamedTuple):
    """A datagram that has arrived."""

    hops: int
    """Number of routers that it has passed."""
    source: str
    """Source address that the receiver has seen."""
    content: bytes
    version: int
    """IP version."""


class Growth(NamedTuple):
    """Growth of a datagram between its sender and a link."""

    bytes: int | None
    """None if it was not found on the link."""
    is_encrypted: bool
    """True if its content cannot be read on the link."""


class Capture:
    """Packets that pass a link. Also a context manager that closes the socket."""

    def __init__(self) -> None:
        """Begin to capture at the node's link to the fabric, in the current namespace."""
        self._socket = socket.socket(
            socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(_ETH_P_ALL)
        )
        self._socket.bind((NODE_UPLINK, 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def growth(self, datagram: Datagram) -> Growth:
        """Return by how much a datagram was larger on the link than a plain one."""
        return growth(list(self._frames()), datagram)

    def _frames(self) -> Iterator[bytes]:
        """Yield the frames that have been captured."""
        with suppress(BlockingIOError):
            while True:
                yield self._socket.recv(1 << 16)


def growth(frames: Sequence[bytes], datagram: Datagram) -> Growth:
    """Return by how much a datagram was larger among captured frames than a plain one.

    If no frame contains its content, it was encrypted: it is the frame that is the least larger.
    """
    plain = _HEADERS[datagram.version] + len(datagram.content)
    for frame in frames:
        if datagram.content in frame:
            return Growth(len(frame) - plain, is_encrypted=False)
    grown = [len(frame) - plain for frame in frames]
    added = min((size for size in grown if 0 < size <= _MAX_GROWTH), default=None)
    return Growth(added, is_encrypted=added is not None)


def send(source: Location, destination: Location, home: int) -> Datagram:
    """Send a datagram from one location to another until it arrives.

    Raises LabError if it does not.
    """
    version = 6 if ":" in destination.address else 4
    content = os.urandom(_CONTENT_BYTES[version])
    (receiver,) = open_sockets(destination, socket.SOCK_DGRAM, home)
    (sender,) = open_sockets(source, socket.SOCK_DGRAM, home)
    with receiver, sender:
        receiver.setsockopt(*_TTL_OPTIONS[version], 1)
        receiver.bind((destination.address, 0))
        receiver.settimeout(_REPEAT_S)
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            try:
                sender.sendto(content, receiver.getsockname())
                _, messages, _, address = receiver.recvmsg(len(content), _ANCILLARY_BYTES)
            except TimeoutError:
                continue
            except OSError as error:
                raise LabError(f"{_names(source, destination)}: {error.strerror}") from None
            (ttl,) = _INT.unpack(messages[0][2][: _INT.size])
            return Datagram(_FIRST_TTL - ttl, address[0], content, version)
    raise LabError(f"{_names(source, destination)}: no packet arrives")


def path_mtu(source: Location, destination: Location, home: int) -> int:
    """Return the MTU that the source uses for a destination, in bytes: of its link or route."""
    (sender,) = open_sockets(source, socket.SOCK_DGRAM, home)
    with sender:
        sender.connect((destination.address, 1))
        return sender.getsockopt(*_MTU_OPTIONS[6 if ":" in destination.address else 4])


def _names(source: Location, destination: Location) -> str:
    return f"{source.title} to {destination.title} ({destination.address})"
