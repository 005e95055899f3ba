"""ICMP echo for both IP families by the kernel's ping sockets, which need no privilege.

The socket sets identifier and checksum itself, and receives only replies to its own requests.

Source: RFC 792, RFC 4443 §4; net/ipv4/ping.c, net/ipv6/ping.c (6.12); ip(7), ipv6(7) for the error
queue.
"""

from __future__ import annotations

import socket
import struct
from typing import Final

from msgspec import Struct

_ECHO = struct.Struct(">BBHHH")
"""Type, code, checksum, identifier, sequence number."""


class Echo(Struct, frozen=True):
    """ICMP constants of one IP family."""

    family: socket.AddressFamily
    protocol: int
    request_type: int
    reply_type: int
    level: int
    """Socket option level of `receive_errors`, and of messages from the error queue."""
    receive_errors: int
    """Socket option IP_RECVERR or IPV6_RECVERR."""

    def request(self, number: int) -> bytes:
        """Return an echo request with a sequence number."""
        return _ECHO.pack(self.request_type, 0, 0, 0, number)

    def replied(self, data: bytes) -> int | None:
        """Return the sequence number of an echo reply; None for any other packet."""
        return sequence_number(data) if data[0] == self.reply_type else None

    def keep_errors(self, sock: socket.socket) -> None:
        """Make the socket queue the ICMP errors that routers send back."""
        sock.setsockopt(self.level, self.receive_errors, 1)


IPV4: Final = Echo(socket.AF_INET, socket.IPPROTO_ICMP, 8, 0, socket.IPPROTO_IP, 11)
IPV6: Final = Echo(socket.AF_INET6, socket.IPPROTO_ICMPV6, 128, 129, socket.IPPROTO_IPV6, 25)


def echo_of(address: str) -> Echo:
    """Return the constants for an address's family."""
    return IPV6 if ":" in address else IPV4


def sequence_number(packet: bytes) -> int:
    """Return the sequence number of an echo request or reply."""
    return int.from_bytes(packet[6:8])
