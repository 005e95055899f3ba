"""SIT tunnels: IPv6 packets in IPv4 packets, 20 bytes more each.

Source: net/ipv6/sit.c (6.12); iproute2 ip/link_iptnl.c; RFC 4213.
"""

from __future__ import annotations

from collections.abc import Sequence

from kubenetlab.hoststate.links.ip_tunnel import IpTunnel
from kubenetlab.hoststate.netlink.message_classes import Attribute


class Sit(IpTunnel, frozen=True):
    """A SIT tunnel."""

    kind = "sit"

    def attributes(self) -> Sequence[Attribute]:
        local = [("IFLA_SIT_LOCAL", self.local)] if self.local else []
        remote = [("IFLA_SIT_REMOTE", self.remote)] if self.remote else []
        # Packets without a time to live of their own get that of the inner packet.
        return [*local, *remote, ("IFLA_SIT_TTL", 0), ("IFLA_SIT_PMTUDISC", 1)]
