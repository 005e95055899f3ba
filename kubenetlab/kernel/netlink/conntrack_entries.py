"""Connection tracking entries of the current network namespace.

They have a codec of their own, because a node may track thousands of connections.

Source: include/uapi/linux/netfilter/nfnetlink_conntrack.h, nf_conntrack_tcp.h (6.12).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from typing import Final, NamedTuple

from msgspec import Struct

from kubenetlab.hoststate.netlink.wire import (
    NLA_F_NESTED,
    NLM_F_ACK,
    NLM_F_DUMP,
    attribute,
    attributes,
    message,
)
from kubenetlab.kernel.netlink import sockets

CTA_PROTO_DST_PORT: Final = 3

_GET, _DELETE, _GET_STATS = 1 << 8 | 1, 1 << 8 | 2, 1 << 8 | 5
"""NFNL_SUBSYS_CTNETLINK with IPCTNL_MSG_CT_GET, _DELETE and _GET_STATS."""
_CTA_STATS_GLOBAL_ENTRIES = 1
_CTA_TUPLE_ORIG, _CTA_TUPLE_REPLY, _CTA_STATUS, _CTA_PROTOINFO, _CTA_TIMEOUT = 1, 2, 3, 4, 7
_CTA_ID = 12
_CTA_TUPLE_IP, _CTA_TUPLE_PROTO = 1, 2
_CTA_IP: Final[Mapping[int, tuple[int, int]]] = {socket.AF_INET: (1, 2), socket.AF_INET6: (3, 4)}
"""Address family → attributes of the source and of the destination."""
_CTA_PROTO_NUM, _CTA_PROTO_SRC_PORT = 1, 2
_CTA_PROTOINFO_TCP, _CTA_PROTOINFO_TCP_STATE = 1, 1
_FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
_NFGENMSG = struct.Struct("=BBH")
_PROTOCOLS: Final = {
    socket.IPPROTO_TCP: "TCP",
    socket.IPPROTO_UDP: "UDP",
    socket.IPPROTO_SCTP: "SCTP",
    socket.IPPROTO_ICMP: "ICMP",
    socket.IPPROTO_ICMPV6: "ICMPv6",
}
_TCP_STATES: Final = (
    "NONE",
    "SYN_SENT",
    "SYN_RECV",
    "ESTABLISHED",
    "FIN_WAIT",
    "CLOSE_WAIT",
    "LAST_ACK",
    "TIME_WAIT",
    "CLOSE",
    "SYN_SENT2",
)
_IPS_SEEN_REPLY: Final = 1 << 1

AddressPort = tuple[str, int]
"""Address and port; the port is 0 for protocols without ports."""


class Direction(NamedTuple):
    """Packets of an entry in one direction."""

    protocol: int
    source: AddressPort
    destination: AddressPort


class ConntrackEntry(Struct, frozen=True):
    """One tracked connection; the differences between both directions are the translations."""

    protocol: str
    state: str
    """State of a TCP connection; other protocols: UNREPLIED until a reply was seen, then empty."""
    client: AddressPort
    """Source of the first packet; ports are 0 for protocols without them."""
    destination: AddressPort
    """Destination of the first packet."""
    server: AddressPort
    """Source of replies: the endpoint after DNAT."""
    seen_as: AddressPort
    """Destination of replies: the client after masquerading."""
    timeout_s: int


def tracked_entries() -> list[ConntrackEntry]:
    """Return all entries of the current network namespace.

    Raises OSError if the kernel refuses.
    """
    with sockets.open_socket(sockets.NETLINK_NETFILTER) as connection:
        return [
            decode_entry(body)
            for version in _FAMILIES
            for body in entry_messages(connection, version)
        ]


def entry_messages(connection: socket.socket, version: int) -> list[memoryview]:
    """Return the message about each entry of an IP version, without its nlmsghdr.

    If nothing is tracked, no dump is requested: the kernel would walk the tables of all
    namespaces, which takes 10 ms. Raises OSError if the kernel refuses.
    """
    if not _count(connection):
        return []
    return sockets.request(
        connection, message(_GET, NLM_F_DUMP, _NFGENMSG.pack(_FAMILIES[version], 0, 0))
    )


def decode_entry(body: memoryview) -> ConntrackEntry:
    """Decode a message about an entry."""
    described = attributes(body[_NFGENMSG.size :])
    original, reply = (
        _decode_direction(body[0], attributes(described[number]))
        for number in (_CTA_TUPLE_ORIG, _CTA_TUPLE_REPLY)
    )
    return ConntrackEntry(
        _PROTOCOLS.get(original.protocol, str(original.protocol)),
        _state(described),
        original.source,
        original.destination,
        reply.source,
        reply.destination,
        int.from_bytes(described.get(_CTA_TIMEOUT, b""), "big"),
    )


def _decode_direction(family: int, parts: Mapping[int, memoryview]) -> Direction:
    """Decode one direction: addresses, and a protocol with the ports that it may have."""
    addresses, protocol = attributes(parts[_CTA_TUPLE_IP]), attributes(parts[_CTA_TUPLE_PROTO])
    source, destination = (
        socket.inet_ntop(family, addresses[number]) for number in _CTA_IP[family]
    )
    return Direction(
        protocol[_CTA_PROTO_NUM][0],
        (source, int.from_bytes(protocol.get(_CTA_PROTO_SRC_PORT, b""), "big")),
        (destination, int.from_bytes(protocol.get(CTA_PROTO_DST_PORT, b""), "big")),
    )


def deletion(body: memoryview) -> bytes:
    """Return the request that deletes an entry; ENOENT if it does not exist any more.

    The kernel gets back the two attributes that identify the entry, as it has sent them.
    """
    header, attrs = body[: _NFGENMSG.size], attributes(body[_NFGENMSG.size :])
    identity = attribute(_CTA_TUPLE_ORIG | NLA_F_NESTED, bytes(attrs[_CTA_TUPLE_ORIG]))
    identity += attribute(_CTA_ID, bytes(attrs[_CTA_ID]))
    return message(_DELETE, NLM_F_ACK, bytes(header) + identity)


def _count(connection: socket.socket) -> int:
    """Return the number of tracked connections of all protocols in the socket's namespace."""
    (body,) = sockets.request(
        connection, message(_GET_STATS, NLM_F_ACK, _NFGENMSG.pack(socket.AF_UNSPEC, 0, 0))
    )
    return int.from_bytes(attributes(body[_NFGENMSG.size :])[_CTA_STATS_GLOBAL_ENTRIES], "big")


def _state(described: Mapping[int, memoryview]) -> str:
    if _CTA_PROTOINFO in described:
        info = attributes(described[_CTA_PROTOINFO])
        if _CTA_PROTOINFO_TCP in info:
            number = attributes(info[_CTA_PROTOINFO_TCP])[_CTA_PROTOINFO_TCP_STATE][0]
            if number < len(_TCP_STATES):
                return _TCP_STATES[number]
    status = int.from_bytes(described.get(_CTA_STATUS, b""), "big")
    return "" if status & _IPS_SEEN_REPLY else "UNREPLIED"
