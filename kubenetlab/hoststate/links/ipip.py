"""IPIP tunnels: IPv4 packets in IPv4 packets, 20 bytes more each.

Source: net/ipv4/ipip.c, net/ipv4/ip_tunnel.c (6.12); iproute2 ip/link_iptnl.c; RFC 2003.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Self

from kubenetlab.hoststate.links.ip_tunnel import IpTunnel
from kubenetlab.hoststate.links.link import Link, OtherLinks, alias_option, alias_words, down_word
from kubenetlab.hoststate.links.messages import ObservedLink
from kubenetlab.hoststate.links.requests import adopt_link, change_link
from kubenetlab.hoststate.netlink.message_classes import Attribute
from kubenetlab.hoststate.netlink.wire import Links
from kubenetlab.hoststate.object import ShellName

OVERHEAD_BYTES: Final = 20
"""Bytes that a packet grows: one IPv4 header."""
FALLBACK_NAME: Final = "tunl0"


class Ipip(IpTunnel, frozen=True):
    """An IPIP tunnel as flanneld makes it.

    Outer packets may be fragmented, and packets other than IPv4 are not refused.
    """

    kind = "ipip"
    options = " mode any nopmtudisc"

    def attributes(self) -> Sequence[Attribute]:
        local = [("IFLA_IPIP_LOCAL", self.local)] if self.local else []
        remote = [("IFLA_IPIP_REMOTE", self.remote)] if self.remote else []
        return [*local, *remote, ("IFLA_IPIP_PMTUDISC", 0), ("IFLA_IPIP_PROTO", 0)]


class FallbackIpip(Link, frozen=True):
    """The tunnel `tunl0` to every gateway of a route into it.

    The module ipip creates it in every namespace, unless the sysctl net.core.fb_tunnels_only_for_
    init_net says otherwise. Then the lab creates it. The kernel does not delete its own.
    """

    kind = "ipip"
    event_fields = ("mtu", "is_up")
    is_adopted = True
    rank = 55

    name: str = FALLBACK_NAME
    mtu: int = 1480
    alias: str = ""
    is_up: bool = True

    @classmethod
    def decode(cls, netns: str, link: ObservedLink, others: OtherLinks) -> Self:
        return cls(netns, link.name, link.mtu, link.alias, link.is_up)

    def __str__(self) -> str:
        suffix = f"{alias_words(self.alias)}{down_word(self.is_up)}"
        return f"ipip {self.name} mtu {self.mtu}{suffix}"

    def create(self, links: Links) -> bytes:
        alias = (("IFLA_IFALIAS", self.alias),) if self.alias else ()
        return adopt_link(self.kind, self.name) + change_link(
            0, ("IFLA_IFNAME", self.name), ("IFLA_MTU", self.mtu), *alias, is_up=True
        )

    def change(self, links: Links) -> bytes:
        settings = (("IFLA_MTU", self.mtu), ("IFLA_IFALIAS", self.alias))
        return change_link(links.index(self.netns, self.name), *settings, is_up=True)

    def delete(self, links: Links) -> bytes:
        """Return the requests that set the link down and delete it if the lab created it.

        The kernel ignores the deletion of its own.
        """
        index = links.index(self.netns, self.name)
        return change_link(index, ("IFLA_IFALIAS", ""), is_up=False) + super().delete(links)

    def commands(self, shell_name: ShellName) -> Iterator[str]:
        netns = shell_name(self.netns)
        show = f"ip -n {netns} link show {self.name} >/dev/null 2>&1"
        yield f"{show} || ip -n {netns} link add {self.name} type ipip 2>/dev/null || {show}"
        yield f"ip -n {netns} link set {self.name} mtu {self.mtu}{alias_option(self.alias)} up"
