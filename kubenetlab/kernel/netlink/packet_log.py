"""Packets that rules log (nfnetlink_log), as a listener of one network namespace gets them.

Source: include/uapi/linux/netfilter/nfnetlink_log.h, net/netfilter/nfnetlink_log.c (6.12).
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from msgspec import Struct

from kubenetlab.errors import LabError
from kubenetlab.hoststate.netlink.wire import (
    NLM_F_ACK,
    attribute,
    attributes,
    message,
    messages,
)
from kubenetlab.kernel.netlink import sockets

_PACKET, _CONFIG = 4 << 8, 4 << 8 | 1
"""NFNL_SUBSYS_ULOG with NFULNL_MSG_PACKET and NFULNL_MSG_CONFIG."""
_CFG_COMMAND, _CFG_MODE, _CFG_TIMEOUT, _CFG_THRESHOLD = 1, 2, 4, 5
_BIND = 1
_COPY_PACKET = 2
_SO_RCVBUFFORCE = 33
"""asm-generic/socket.h"""
_BUFFER_BYTES: Final = 4 << 20
"""Size of the socket's buffer: each packet takes about a kilobyte until it is read."""
_HEADER_BYTES: Final = 128
"""Length of the copied part of a packet: addresses and ports, also behind options."""
_NFULA_PAYLOAD, _NFULA_PREFIX = 9, 10
_NFGENMSG = struct.Struct("!BBH")
_PROTOCOLS: Final = {
    socket.IPPROTO_TCP: "TCP",
    socket.IPPROTO_UDP: "UDP",
    socket.IPPROTO_SCTP: "SCTP",
    socket.IPPROTO_ICMP: "ICMP",
    socket.IPPROTO_ICMPV6: "ICMP",
}
_WITH_PORTS: Final = ("TCP", "UDP", "SCTP")
_ECHO_REQUESTS: Final = (b"\x08", b"\x80")
"""Types of echo requests of ICMP and ICMPv6."""


class LoggedPacket(Struct, frozen=True):
    """A packet that a rule has logged."""

    at_s: float
    """Time at which it was read, in seconds since 1970."""
    prefix: str
    """Text that the rule gives to its packets."""
    protocol: str
    """TCP, UDP, SCTP, ICMP, or the number of another protocol."""
    source: str
    source_port: int
    """0 for protocols without ports, as `destination_port`."""
    destination: str
    destination_port: int
    echo: tuple[int, int] = (0, 0)
    """Identifier and sequence number of an ICMP echo request."""


class PacketLog:
    """Listener of one log group of the current network namespace."""

    def __init__(self, group: int) -> None:
        """Begin to listen. Raises LabError if another process listens already."""
        self._socket = sockets.open_socket(sockets.NETLINK_NETFILTER)
        header = _NFGENMSG.pack(socket.AF_UNSPEC, 0, group)
        mode = struct.pack("!IBx", _HEADER_BYTES, _COPY_PACKET)
        commands = (
            attribute(_CFG_COMMAND, bytes((_BIND,))),
            attribute(_CFG_MODE, mode)
            + attribute(_CFG_TIMEOUT, struct.pack("!I", 1))
            + attribute(_CFG_THRESHOLD, struct.pack("!I", 1)),
        )
        try:
            for command in commands:
                sockets.request(self._socket, message(_CONFIG, NLM_F_ACK, header + command))
        except OSError as error:
            self._socket.close()
            raise LabError(
                f"dropped packets cannot be read: {error.strerror}; "
                "only one process at a time can read those of a node"
            ) from None
        self._socket.setblocking(False)
        with suppress(PermissionError):
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self) -> Iterator[LoggedPacket]:
        """Yield the packets that have been logged since the last call."""
        while True:
            try:
                data = self._socket.recv(sockets.RECEIVE_BYTES)
            except BlockingIOError:
                return
            except OSError:  # the kernel has dropped messages, because they were not read in time
                continue
            now = time.time()
            for type_, _, _, body in messages(data):
                if type_ == _PACKET and (packet := decode_packet(body, now)) is not None:
                    yield packet

    def close(self) -> None:
        self._socket.close()


def decode_packet(body: memoryview, at_s: float) -> LoggedPacket | None:
    """Decode a message about a packet; None if it is no IP packet, or cut short.

    body: nfgenmsg (4 B) | attributes.
    """
    described = attributes(body[_NFGENMSG.size :])
    prefix = bytes(described.get(_NFULA_PREFIX, b"")).rstrip(b"\0").decode(errors="replace")
    packet = bytes(described.get(_NFULA_PAYLOAD, b""))
    if len(packet) < 20:
        return None
    if packet[0] >> 4 == 4:
        family, number, start = socket.AF_INET, packet[9], (packet[0] & 15) * 4
        source, destination = packet[12:16], packet[16:20]
    elif packet[0] >> 4 == 6 and len(packet) >= 40:
        family, number, start = socket.AF_INET6, packet[6], 40
        source, destination = packet[8:24], packet[24:40]
    else:
        return None
    protocol = _PROTOCOLS.get(number, str(number))
    ports = packet[start : start + 4] if protocol in _WITH_PORTS else b""
    source_port, destination_port = struct.unpack("!HH", ports) if len(ports) == 4 else (0, 0)
    is_echo = protocol == "ICMP" and packet[start : start + 1] in _ECHO_REQUESTS
    echo = packet[start + 4 : start + 8] if is_echo else b""
    return LoggedPacket(
        at_s,
        prefix,
        protocol,
        socket.inet_ntop(family, source),
        source_port,
        socket.inet_ntop(family, destination),
        destination_port,
        struct.unpack("!HH", echo) if len(echo) == 4 else (0, 0),
    )
