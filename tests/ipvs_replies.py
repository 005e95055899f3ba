"""Replies about IPVS as the kernel sends them, without their nlmsghdr.

Addresses have sixteen bytes in both families, and a real server's address comes before its family.
"""

from __future__ import annotations

import struct
from ipaddress import ip_address

from kubenetlab.hoststate.netlink.wire import attribute, message, messages, nested, number, string
from kubenetlab.hoststate.rules import ipvs_messages
from kubenetlab.hoststate.rules.ipvs import RealServer, VirtualServer

HEADER = struct.Struct("=BBH")
"""genlmsghdr: command, version, reserved."""
AF = {4: 2, 6: 10}
PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
METHODS = {"-m": 0, "-i": 2, "-g": 3}
FAMILY_NUMBER = 30


def version(address: str) -> int:
    return ip_address(address).version


def reply(command: int, *parts: bytes) -> memoryview:
    body = HEADER.pack(command, 1, 0) + b"".join(parts)
    ((_, _, _, body_view),) = messages(message(FAMILY_NUMBER, 0, body))
    return body_view


def family_reply() -> memoryview:
    return reply(1, string(2, "IPVS"), attribute(1, struct.pack("=H", FAMILY_NUMBER)))


def service_reply(server: VirtualServer) -> memoryview:
    """Return a reply with statistics; without persistence the timeout has no meaning."""
    flags = struct.pack("=II", 0x1 if server.persistence_s else 0, 0xFFFFFFFF)
    parts = (
        attribute(1, struct.pack("=H", AF[version(server.address)])),
        attribute(2, struct.pack("=H", PROTOCOLS[server.protocol])),
        _address(3, server.address),
        attribute(4, struct.pack("!H", server.port)),
        string(6, server.scheduler),
        attribute(7, flags),
        number(8, server.persistence_s or 360),
        nested(10, number(1, 9)),
    )
    return reply(ipvs_messages.NEW_SERVICE, nested(1, *parts))


def mark_reply(mark: int) -> memoryview:
    """Return a reply about a virtual server that matches a mark."""
    parts = (attribute(1, struct.pack("=H", AF[4])), number(5, mark), string(6, "rr"))
    return reply(ipvs_messages.NEW_SERVICE, nested(1, *parts))


def destination_reply(
    real: RealServer, weight: int = 1, connections: int = 0, method: int | None = None
) -> memoryview:
    parts = (
        _address(1, real.real_address),
        attribute(2, struct.pack("!H", real.real_port)),
        number(3, METHODS[real.forwarding] if method is None else method),
        number(4, weight),
        number(5, 0),
        number(6, 0),
        number(7, connections),
        number(8, 0),
        number(9, 100),
        attribute(11, struct.pack("=H", AF[version(real.real_address)])),
    )
    return reply(ipvs_messages.NEW_DEST, nested(2, *parts))


def _address(type_: int, address: str) -> bytes:
    return attribute(type_, ip_address(address).packed.ljust(16, b"\0"))
