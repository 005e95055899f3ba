"""rtnetlink messages about links: attributes, headers, and the decoder.

Source: include/uapi/linux/if_link.h, net/core/rtnetlink.c (6.12); iproute2 ip/iplink.c.
"""

from __future__ import annotations

import struct

from msgspec import Struct

from kubenetlab.hoststate import wire
from kubenetlab.hoststate.wire import (
    Links,
    as_mac,
    as_number,
    as_string,
    attribute,
    attributes,
    message,
    nested,
    string,
)

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK = 1, 3, 4, 5
IFLA_MASTER, IFLA_LINKINFO, IFLA_IFALIAS, IFLA_NET_NS_FD = 10, 18, 20, 28
IFLA_NUM_TX_QUEUES, IFLA_NUM_RX_QUEUES = 31, 32
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
IFLA_BRPORT_MODE, IFLA_BRPORT_LEARNING, IFLA_BRPORT_UNICAST_FLOOD = 4, 8, 9
IFLA_BRPORT_FLUSH, IFLA_BRPORT_MCAST_FLOOD, IFLA_BRPORT_BCAST_FLOOD = 24, 27, 30
IFLA_BR_MCAST_SNOOPING = 23
VETH_INFO_PEER = 1
IFF_UP = 1
AF_BRIDGE = 7

_IFINFOMSG = struct.Struct("=BxHiII")
"""family, device type, index, flags, change mask"""


class SeenLink(Struct, frozen=True):
    """One link as a dump shows it, before the ends of veth pairs are put together."""

    index: int
    name: str
    kind: str
    mac: str
    mtu: int
    is_up: bool
    peer_index: int
    master_index: int
    alias: str
    is_hairpin: bool


def decode_link(body: memoryview) -> SeenLink:
    """One RTM_NEWLINK message: ifinfomsg (16 bytes) | attributes."""
    _, _, index, flags, _ = _IFINFOMSG.unpack_from(body)
    found = attributes(body[_IFINFOMSG.size :])
    info = attributes(found[IFLA_LINKINFO]) if IFLA_LINKINFO in found else {}
    port = attributes(info[IFLA_INFO_SLAVE_DATA]) if IFLA_INFO_SLAVE_DATA in info else {}
    return SeenLink(
        index=index,
        name=as_string(found[IFLA_IFNAME]),
        kind=as_string(info[IFLA_INFO_KIND]) if IFLA_INFO_KIND in info else "",
        mac=as_mac(found[IFLA_ADDRESS]) if IFLA_ADDRESS in found else "",
        mtu=as_number(found[IFLA_MTU]),
        is_up=bool(flags & IFF_UP),
        peer_index=as_number(found[IFLA_LINK]) if IFLA_LINK in found else 0,
        master_index=as_number(found[IFLA_MASTER]) if IFLA_MASTER in found else 0,
        alias=as_string(found[IFLA_IFALIAS]) if IFLA_IFALIAS in found else "",
        is_hairpin=IFLA_BRPORT_MODE in port and bool(as_number(port[IFLA_BRPORT_MODE])),
    )


def is_bridges_own(body: memoryview) -> bool:
    """True for what a bridge says of its port, beside what the kernel says of the link: it has a few attributes only."""
    return body[0] == AF_BRIDGE


def dump_links() -> bytes:
    """The request for all links of a namespace."""
    return message(wire.RTM_GETLINK, wire.NLM_F_DUMP, ifinfo(0))


def ifinfo(index: int, flags: int = 0) -> bytes:
    """Encode an ifinfomsg that sets `flags` and leaves all other flags of the link alone."""
    return _IFINFOMSG.pack(0, 0, index, flags, flags)


def hairpin_mode(is_on: bool) -> bytes:
    """Encode the hairpin mode of a bridge port for a message about its link."""
    return port_settings(attribute(IFLA_BRPORT_MODE, bytes([is_on])))


def port_settings(settings: bytes) -> bytes:
    """Encode attributes of a bridge port for a message about its link."""
    return nested(
        IFLA_LINKINFO,
        string(IFLA_INFO_SLAVE_KIND, "bridge"),
        nested(IFLA_INFO_SLAVE_DATA, settings),
    )


def delete_link(links: Links, netns: str, name: str) -> bytes:
    """Return the request that deletes a link."""
    return message(wire.RTM_DELLINK, 0, ifinfo(links.index(netns, name)))
