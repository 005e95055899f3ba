"""ip6tnl tunnels: IPv4 and IPv6 packets in IPv6 packets, 40 bytes more each.

Source: net/ipv6/ip6_tunnel.c (6.12); iproute2 ip/link_ip6tnl.c; RFC 2473.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from kubenetlab.hoststate.links.ip_tunnel import IpTunnel
from kubenetlab.hoststate.netlink.message_classes import Attribute

OVERHEAD_BYTES: Final = 40
"""Bytes that a packet grows: one IPv6 header."""
_ANY_PROTOCOL: Final = 0
_IGNORE_ENCAPSULATION_LIMIT: Final = 1
"""IP6_TNL_F_IGN_ENCAP_LIMIT: without it each packet has eight bytes more, for a limit of nested
tunnels."""


class Ip6Tunnel(IpTunnel, frozen=True):
    """A tunnel for IPv4 and IPv6 packets between two IPv6 addresses."""

    kind = "ip6tnl"
    options = " mode any encaplimit none"

    mtu: int = 1460

    def attributes(self) -> Sequence[Attribute]:
        local = [("IFLA_IP6TNL_LOCAL", self.local)] if self.local else []
        remote = [("IFLA_IP6TNL_REMOTE", self.remote)] if self.remote else []
        return [
            *local,
            *remote,
            ("IFLA_IP6TNL_FLAGS", _IGNORE_ENCAPSULATION_LIMIT),
            ("IFLA_IP6TNL_PROTO", _ANY_PROTOCOL),
        ]
