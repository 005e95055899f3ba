"""Pings of both families by the kernel's own ICMP sockets, which need no privilege.

A socket fills in identifier and checksum itself, and gets only the answers to what it sent.
Source: RFC 792, RFC 4443 §4; net/ipv4/ping.c, net/ipv6/ping.c (6.12); ip(7), ipv6(7) for the error queue.
"""

from __future__ import annotations

import socket
import struct
from typing import Final

from msgspec import Struct

_ECHO = struct.Struct(">BBHHH")
"""type, code, checksum, identifier, sequence number"""


class Echo(Struct, frozen=True):
    """What differs between the families."""

    family: socket.AddressFamily
    protocol: int
    request_type: int
    reply_type: int
    level: int
    """Of the option that has errors kept, and of what the error queue brings."""
    receive_errors: int

    def request(self, number: int) -> bytes:
        """An echo request with a sequence number."""
        return _ECHO.pack(self.request_type, 0, 0, 0, number)

    def replied(self, data: bytes) -> int | None:
        """The sequence number of an echo reply; None for anything else."""
        return sequence_number(data) if data[0] == self.reply_type else None

    def keep_errors(self, opened: socket.socket) -> None:
        """Has a socket keep the errors that routers send back."""
        opened.setsockopt(self.level, self.receive_errors, 1)


IPV4: Final = Echo(socket.AF_INET, socket.IPPROTO_ICMP, 8, 0, socket.IPPROTO_IP, 11)
IPV6: Final = Echo(socket.AF_INET6, socket.IPPROTO_ICMPV6, 128, 129, socket.IPPROTO_IPV6, 25)


def echo_of(address: str) -> Echo:
    """The echo of an address's family."""
    return IPV6 if ":" in address else IPV4


def sequence_number(packet: bytes) -> int:
    """The sequence number of an echo request or reply."""
    return int.from_bytes(packet[6:8])
