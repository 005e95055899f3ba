"""Connection tracking entries of all protocols in the current network namespace.

Source: include/uapi/linux/netfilter/nfnetlink_conntrack.h, nf_conntrack_tcp.h (6.12).
"""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address
from typing import Final

from msgspec import Struct

from kubenetlab.hoststate.wire import NLM_F_ACK, NLM_F_DUMP, Attributes, attributes, message
from kubenetlab.kernel.netlink import sockets

_GET, _GET_STATS = 1 << 8 | 1, 1 << 8 | 5
"""NFNL_SUBSYS_CTNETLINK with IPCTNL_MSG_CT_GET and IPCTNL_MSG_CT_GET_STATS."""
_CTA_TUPLE_ORIG, _CTA_TUPLE_REPLY, _CTA_STATUS, _CTA_PROTOINFO, _CTA_TIMEOUT = 1, 2, 3, 4, 7
_CTA_TUPLE_IP, _CTA_TUPLE_PROTO = 1, 2
_CTA_IP_SRC, _CTA_IP_DST = {4: 1, 6: 3}, {4: 2, 6: 4}
_CTA_PROTO_NUM, _CTA_PROTO_SRC_PORT, _CTA_PROTO_DST_PORT = 1, 2, 3
_CTA_PROTOINFO_TCP, _CTA_PROTOINFO_TCP_STATE = 1, 1
_CTA_STATS_GLOBAL_ENTRIES = 1
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


class ConntrackEntry(Struct, frozen=True):
    """One tracked connection; the differences between both directions are the translations."""

    protocol: str
    state: str
    """State of a TCP connection; other protocols: UNREPLIED until a reply was seen, then empty."""
    client: tuple[str, int]
    """Source of the first packet; ports are 0 for protocols without them."""
    destination: tuple[str, int]
    """Destination of the first packet."""
    server: tuple[str, int]
    """Source of replies: the endpoint after DNAT."""
    seen_as: tuple[str, int]
    """Destination of replies: the client after masquerading."""
    timeout_s: int


def tracked_entries() -> list[ConntrackEntry]:
    """Return all entries of the current network namespace.

    Raises OSError if the kernel refuses.
    """
    with sockets.open_socket(sockets.NETLINK_NETFILTER) as connection:
        # A dump walks the table of all namespaces, which takes 10 ms: skip it in an empty one.
        (statistics,) = sockets.ask(
            connection, message(_GET_STATS, NLM_F_ACK, _NFGENMSG.pack(socket.AF_UNSPEC, 0, 0))
        )
        if not int.from_bytes(
            attributes(statistics[_NFGENMSG.size :])[_CTA_STATS_GLOBAL_ENTRIES], "big"
        ):
            return []
        entries = []
        for version, family in _FAMILIES.items():
            bodies = sockets.ask(
                connection, message(_GET, NLM_F_DUMP, _NFGENMSG.pack(family, 0, 0))
            )
            entries += [
                decode_entry(attributes(body[_NFGENMSG.size :]), version) for body in bodies
            ]
        return entries


def decode_entry(entry: Attributes, version: int) -> ConntrackEntry:
    """Decode the attributes of an IPCTNL_MSG_CT_NEW message.

    Raises WireError if an attribute is cut short.
    """
    original, reply = attributes(entry[_CTA_TUPLE_ORIG]), attributes(entry[_CTA_TUPLE_REPLY])
    protocol = attributes(original[_CTA_TUPLE_PROTO])[_CTA_PROTO_NUM][0]
    source, destination = (
        (_CTA_IP_SRC[version], _CTA_PROTO_SRC_PORT),
        (_CTA_IP_DST[version], _CTA_PROTO_DST_PORT),
    )
    return ConntrackEntry(
        _PROTOCOLS.get(protocol, str(protocol)),
        _state(entry),
        _endpoint(original, *source),
        _endpoint(original, *destination),
        _endpoint(reply, *source),
        _endpoint(reply, *destination),
        int.from_bytes(entry.get(_CTA_TIMEOUT, b""), "big"),
    )


def _state(entry: Attributes) -> str:
    if _CTA_PROTOINFO in entry:
        of_tcp = attributes(entry[_CTA_PROTOINFO]).get(_CTA_PROTOINFO_TCP)
        number = (
            attributes(of_tcp).get(_CTA_PROTOINFO_TCP_STATE, b"\0")[0]
            if of_tcp is not None
            else len(_TCP_STATES)
        )
        if number < len(_TCP_STATES):
            return _TCP_STATES[number]
    return (
        "" if int.from_bytes(entry.get(_CTA_STATUS, b""), "big") & _IPS_SEEN_REPLY else "UNREPLIED"
    )


def _endpoint(parts: Attributes, address: int, port: int) -> tuple[str, int]:
    ip, protocol = attributes(parts[_CTA_TUPLE_IP]), attributes(parts[_CTA_TUPLE_PROTO])
    return str(ip_address(bytes(ip[address]))), int.from_bytes(protocol.get(port, b""), "big")
