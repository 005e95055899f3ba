"""Messages about logged packets: prefix, protocol, addresses and ports."""

from __future__ import annotations

import socket
import struct

import pytest

from kubenetlab.hoststate.netlink.wire import attribute
from kubenetlab.kernel.netlink.packet_log import LoggedPacket, decode_packet

PREFIX, PAYLOAD = 10, 9


def message(payload: bytes, prefix: str = "Ingress isolated by default/web") -> memoryview:
    header = struct.pack("!BBH", socket.AF_INET, 0, 100)
    parts = attribute(PREFIX, prefix.encode() + b"\0") + attribute(PAYLOAD, payload)
    return memoryview(header + parts)


def ipv4(protocol: int, rest: bytes, options: bytes = b"") -> bytes:
    words = 5 + len(options) // 4
    addresses = socket.inet_aton("10.244.1.2") + socket.inet_aton("10.244.2.3")
    header = struct.pack("!BBHHHBBH", 4 << 4 | words, 0, 40, 0, 0, 64, protocol, 0)
    return header + addresses + options + rest


def ipv6(protocol: int, rest: bytes) -> bytes:
    addresses = b"".join(socket.inet_pton(socket.AF_INET6, f"fd00::{end}") for end in (2, 3))
    return struct.pack("!IHBB", 6 << 28, 20, protocol, 64) + addresses + rest


PORTS = struct.pack("!HH", 40000, 80) + bytes(16)


@pytest.mark.parametrize(
    ("packet", "protocol", "source", "ports"),
    [
        (ipv4(6, PORTS), "TCP", "10.244.1.2", (40000, 80)),
        (ipv4(17, PORTS, bytes(8)), "UDP", "10.244.1.2", (40000, 80)),
        (ipv4(132, PORTS), "SCTP", "10.244.1.2", (40000, 80)),
        (ipv4(1, bytes(8)), "ICMP", "10.244.1.2", (0, 0)),
        (ipv4(47, bytes(8)), "47", "10.244.1.2", (0, 0)),
        (ipv4(6, b""), "TCP", "10.244.1.2", (0, 0)),
        (ipv6(6, PORTS), "TCP", "fd00::2", (40000, 80)),
        (ipv6(58, bytes(8)), "ICMP", "fd00::2", (0, 0)),
    ],
)
def test_packets_are_decoded(
    packet: bytes, protocol: str, source: str, ports: tuple[int, int]
) -> None:
    """A packet that is cut short has no ports."""
    logged = decode_packet(message(packet), 1.5)
    assert logged is not None
    assert logged == LoggedPacket(
        1.5,
        "Ingress isolated by default/web",
        protocol,
        source,
        ports[0],
        source.replace("1.2", "2.3").replace("::2", "::3"),
        ports[1],
    )


@pytest.mark.parametrize("packet", [b"", bytes(19), bytes(40), ipv6(6, PORTS)[:30]])
def test_other_packets_are_left_out(packet: bytes) -> None:
    assert decode_packet(message(packet), 1.5) is None
