"""rtnetlink messages about links: attributes, headers, and the decoder.

Source: include/uapi/linux/if_link.h, net/core/rtnetlink.c (6.12); iproute2 ip/iplink.c.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from msgspec import Struct

from kubenetlab.hoststate.netlink import wire
from kubenetlab.hoststate.netlink.wire import (
    Links,
    as_mac,
    as_number,
    as_string,
    attribute,
    attributes,
    mac_bytes,
    message,
    nested,
    number,
    string,
)

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK = 1, 3, 4, 5
IFLA_MASTER, IFLA_LINKINFO, IFLA_IFALIAS, IFLA_NET_NS_FD = 10, 18, 20, 28
IFLA_EXT_MASK, IFLA_NUM_TX_QUEUES, IFLA_NUM_RX_QUEUES = 29, 31, 32
RTEXT_FILTER_SKIP_STATS = 1 << 3
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
IFLA_BRPORT_MODE, IFLA_BRPORT_LEARNING, IFLA_BRPORT_UNICAST_FLOOD = 4, 8, 9
IFLA_BRPORT_FLUSH, IFLA_BRPORT_MCAST_FLOOD, IFLA_BRPORT_BCAST_FLOOD = 24, 27, 30
IFLA_BR_MCAST_SNOOPING = 23
IFLA_AF_SPEC, IFLA_INET_CONF, AF_INET = 26, 1, 2
RTM_SETNEIGHTBL = 67
NDTA_NAME, NDTA_PARMS, NDTPA_IFINDEX, NDTPA_PROXY_DELAY = 1, 6, 1, 13
VETH_INFO_PEER = 1
IFF_UP, IFF_NOARP = 0x1, 0x80
AF_BRIDGE = 7

IPV4_SETTINGS = {"proxy_arp": 3, "rp_filter": 8}
"""Name of a setting in net/ipv4/conf of a link → its number in IFLA_INET_CONF (linux/ip.h)."""

_IFINFOMSG = struct.Struct("=BxHiII")
"""family, device type, index, flags, change mask"""


class ObservedLink(Struct, frozen=True):
    """One link of a dump, before veth ends are matched to pairs by their interface indexes."""

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
    has_arp: bool = True
    """False if the link has no neighbours to resolve (IFF_NOARP)."""
    data: bytes = b""
    """Attributes of its kind (IFLA_INFO_DATA), not decoded."""
    families: bytes = b""
    """Settings of its address families (IFLA_AF_SPEC), not decoded."""

    def ipv4_setting(self, name: str) -> int:
        """Return a setting of `IPV4_SETTINGS`; 0 if the kernel has not sent it."""
        settings = attributes(memoryview(self.families)).get(AF_INET)
        values = attributes(settings).get(IFLA_INET_CONF) if settings is not None else None
        position = 4 * (IPV4_SETTINGS[name] - 1)
        return as_number(values[position : position + 4]) if values is not None else 0


def decode_link(body: memoryview) -> ObservedLink:
    """Decode one RTM_NEWLINK message: ifinfomsg (16 bytes) | attributes."""
    _, _, index, flags, _ = _IFINFOMSG.unpack_from(body)
    attrs = attributes(body[_IFINFOMSG.size :])
    info = attributes(attrs[IFLA_LINKINFO]) if IFLA_LINKINFO in attrs else {}
    port = attributes(info[IFLA_INFO_SLAVE_DATA]) if IFLA_INFO_SLAVE_DATA in info else {}
    return ObservedLink(
        index=index,
        name=as_string(attrs[IFLA_IFNAME]),
        kind=as_string(info[IFLA_INFO_KIND]) if IFLA_INFO_KIND in info else "",
        mac=as_mac(attrs[IFLA_ADDRESS]) if IFLA_ADDRESS in attrs else "",
        mtu=as_number(attrs[IFLA_MTU]),
        is_up=bool(flags & IFF_UP),
        peer_index=as_number(attrs[IFLA_LINK]) if IFLA_LINK in attrs else 0,
        master_index=as_number(attrs[IFLA_MASTER]) if IFLA_MASTER in attrs else 0,
        alias=as_string(attrs[IFLA_IFALIAS]) if IFLA_IFALIAS in attrs else "",
        has_arp=not flags & IFF_NOARP,
        is_hairpin=IFLA_BRPORT_MODE in port and bool(as_number(port[IFLA_BRPORT_MODE])),
        data=bytes(info[IFLA_INFO_DATA]) if IFLA_INFO_DATA in info else b"",
        families=bytes(attrs[IFLA_AF_SPEC]) if IFLA_AF_SPEC in attrs else b"",
    )


def is_bridge_port_message(body: memoryview) -> bool:
    """Return True for the bridge's own message about a port, which has only a few attributes."""
    return body[0] == AF_BRIDGE


def dump_links() -> bytes:
    """Return the request for all links of a namespace."""
    return message(wire.RTM_GETLINK, wire.NLM_F_DUMP, ifinfo(0))


def link_request(index: int) -> bytes:
    """Return the request for one link, without its statistics."""
    mask = number(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
    return message(wire.RTM_GETLINK, wire.NLM_F_ACK, ifinfo(index) + mask)


def ifinfo(index: int, flags: int = 0) -> bytes:
    """Encode an ifinfomsg that sets `flags` and leaves all other flags unchanged."""
    return _IFINFOMSG.pack(0, 0, index, flags, flags)


def ipv4_settings(values: Mapping[str, int]) -> bytes:
    """Encode settings of `IPV4_SETTINGS` for a message about a link."""
    numbers = (number(IPV4_SETTINGS[name], value) for name, value in values.items())
    return nested(IFLA_AF_SPEC, nested(AF_INET, nested(IFLA_INET_CONF, *numbers)))


def immediate_proxy_arp(index: int) -> bytes:
    """Return the request that makes a link answer at once for the addresses of others.

    By default the kernel waits for a random time below 0.8 s (net.ipv4.neigh.LINK.proxy_delay).
    Source: include/uapi/linux/neighbour.h, net/ipv4/arp.c arp_process().
    """
    parameters = number(NDTPA_IFINDEX, index) + attribute(NDTPA_PROXY_DELAY, bytes(8))
    table = string(NDTA_NAME, "arp_cache") + nested(NDTA_PARMS, parameters)
    return message(RTM_SETNEIGHTBL, 0, struct.pack("=B3x", AF_INET) + table)


def link_flags(*, has_arp: bool) -> tuple[int, int]:
    """Return flags and change mask of a link that is up."""
    return IFF_UP | (0 if has_arp else IFF_NOARP), IFF_UP | IFF_NOARP


def configuration(
    index: int, mac: str, mtu: int, alias: str, settings: bytes = b"", *, has_arp: bool = True
) -> bytes:
    """Return the request that sets a link up, and sets its MAC, MTU, alias and use of ARP.

    settings: further attributes.
    """
    body = (
        _IFINFOMSG.pack(0, 0, index, *link_flags(has_arp=has_arp))
        + attribute(IFLA_ADDRESS, mac_bytes(mac))
        + number(IFLA_MTU, mtu)
        + string(IFLA_IFALIAS, alias)
        + settings
    )
    return message(wire.RTM_NEWLINK, 0, body)


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
