"""Members of all IP sets of a namespace, read by netlink.

A process for each node every few seconds would delay changes of rules.

reply := nfgenmsg (4 bytes) | attributes; the members of a large set come in several replies.
Source: include/uapi/linux/netfilter/ipset/ip_set.h, net/netfilter/ipset/ip_set_core.c
ip_set_dump_do() (6.12); ipset(8) 7.17 for the form of members.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Final

from kubenetlab.hoststate.netlink.wire import (
    NLM_F_ACK,
    NLM_F_DUMP,
    Attributes,
    as_string,
    attributes,
    each_attribute,
    message,
)
from kubenetlab.hoststate.rules.ipset_messages import LIST, PROTOCOL_AND_HEADER
from kubenetlab.kernel.netlink import sockets

_HEADER_BYTES: Final = 4
_SETNAME, _ADT = 2, 8
_IP, _CIDR, _PORT, _PROTO, _IP2, _CIDR2 = 1, 3, 4, 7, 20, 21
_KNOWN: Final = frozenset((_IP, _CIDR, _PORT, _PROTO, _IP2, _CIDR2))
_FAMILIES: Final = {1: socket.AF_INET, 2: socket.AF_INET6}
"""Family by type of attribute: IPSET_ATTR_IPADDR_IPV4 and _IPV6."""
_HOST_LENGTHS: Final = {4: 32, 16: 128}
"""Prefix length of one address, by length of the address in bytes."""
_PROTOCOLS: Final = {6: "tcp", 17: "udp", 132: "sctp"}


class UnknownFormError(Exception):
    """Raised for members of types that the lab does not use."""


def read_members(connection: socket.socket) -> Mapping[str, set[str]]:
    """Return the members of each set, as `ipset save` prints them.

    connection: a blocking socket of netfilter.
    Raises UnknownFormError if a set has members of another form, and OSError.
    """
    members: dict[str, set[str]] = {}
    request = message(LIST, NLM_F_DUMP | NLM_F_ACK, PROTOCOL_AND_HEADER)
    for body in sockets.request(connection, request):
        described = attributes(body[_HEADER_BYTES:])
        if _SETNAME not in described:
            continue
        items = members.setdefault(as_string(described[_SETNAME]), set())
        for _, data in each_attribute(described.get(_ADT, memoryview(b""))):
            items.add(_item(attributes(data)))
    return members


def _item(parts: Attributes) -> str:
    if not parts or parts.keys() - _KNOWN:
        raise UnknownFormError
    words = [_range(parts[_IP], parts.get(_CIDR))] if _IP in parts else []
    if _PORT in parts:
        number = str(int.from_bytes(parts[_PORT]))
        words.append(f"{_protocol(parts[_PROTO])}:{number}" if _PROTO in parts else number)
    if _IP2 in parts:
        words.append(_range(parts[_IP2], parts.get(_CIDR2)))
    return ",".join(words)


def _protocol(value: memoryview) -> str:
    if value[0] not in _PROTOCOLS:
        raise UnknownFormError
    return _PROTOCOLS[value[0]]


def _range(nested: memoryview, length: memoryview | None) -> str:
    ((family, packed),) = attributes(nested).items()
    address = socket.inet_ntop(_FAMILIES[family], packed)
    is_single = length is None or length[0] == _HOST_LENGTHS[len(packed)]
    return address if is_single or length is None else f"{address}/{length[0]}"
