"""Protocols of netlink sockets. Source: include/uapi/linux/netlink.h (6.12)."""

from typing import NamedTuple


class NetlinkProtocol(NamedTuple):
    """A protocol of netlink sockets: the third argument of socket(2)."""

    number: int
    family: str = ""
    """Family of generic netlink, whose number is the type of its messages; empty for others."""


ROUTE = NetlinkProtocol(0)
XFRM = NetlinkProtocol(6)
NETFILTER = NetlinkProtocol(12)
WIREGUARD = NetlinkProtocol(16, "wireguard")
