"""rtnetlink messages about the machine's own network, encoded and decoded by pyroute2.

Only the machine's side of an uplink needs them. Source: include/uapi/linux/{if_link,if_addr,
rtnetlink}.h (6.12); iproute2 ip/ipaddress.c.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_interface, ip_network
from typing import NamedTuple

from kubenetlab.hoststate.ip import AF_INET6, FAMILY_OF_VERSION
from kubenetlab.hoststate.netlink import wire
from kubenetlab.hoststate.netlink.message_classes import MessageClass

_ADDRESS = MessageClass("pyroute2.netlink.rtnl.ifaddrmsg", "ifaddrmsg")
_ROUTE = MessageClass("pyroute2.netlink.rtnl.rtmsg", "rtmsg")
_IFA_F_NODAD = 0x02


class MachineAddress(NamedTuple):
    """An address of the machine."""

    link_index: int
    """Interface index of its link."""
    address: str
    """With its prefix length."""


def add_address(index: int, address: str) -> bytes:
    """Return the request that adds an address to a link, without duplicate address detection.

    address: with its prefix length.
    """
    interface = ip_interface(address)
    family = FAMILY_OF_VERSION[interface.version]
    return _ADDRESS.encode(
        wire.RTM_NEWADDR,
        wire.NLM_F_CREATE | wire.NLM_F_EXCL,
        {
            "family": family,
            "prefixlen": interface.network.prefixlen,
            "flags": _IFA_F_NODAD if family == AF_INET6 else 0,
            "index": index,
        },
        [("IFA_LOCAL", str(interface.ip)), ("IFA_ADDRESS", str(interface.ip))],
    )


def list_addresses(family: int = 0) -> bytes:
    """Return the request for all addresses of a family; 0: of all families."""
    return _ADDRESS.encode(wire.RTM_GETADDR, wire.NLM_F_DUMP, {"family": family})


def decode_address(body: memoryview) -> MachineAddress:
    """Decode a reply to `list_addresses`."""
    message = _ADDRESS.decode(body)
    address = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    return MachineAddress(message["index"], f"{address}/{message['prefixlen']}")


def list_routes(version: int) -> bytes:
    """Return the request for the routes of an IP version, of all tables."""
    return _ROUTE.encode(wire.RTM_GETROUTE, wire.NLM_F_DUMP, {"family": FAMILY_OF_VERSION[version]})


def decode_destinations(bodies: Iterable[memoryview]) -> list[IPv4Network | IPv6Network]:
    """Decode replies to `list_routes`; return the destinations, without those of default routes."""
    messages = map(_ROUTE.decode, bodies)
    return [
        ip_network(f"{message.get_attr('RTA_DST')}/{message['dst_len']}", strict=False)
        for message in messages
        if message["dst_len"]
    ]
