"""Tunnels that put an IP packet into another IP packet: what their kinds have in common.

Source: include/uapi/linux/if_tunnel.h, net/ipv4/ip_tunnel.c, net/ipv6/ip6_tunnel.c (6.12);
iproute2 ip/link_iptnl.c.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar, Self

from kubenetlab.hoststate.ip import address_text
from kubenetlab.hoststate.links.link import Link, OtherLinks, alias_option, alias_words, down_word
from kubenetlab.hoststate.links.messages import ObservedLink
from kubenetlab.hoststate.links.requests import change_link, new_link_up
from kubenetlab.hoststate.netlink.message_classes import Attribute
from kubenetlab.hoststate.netlink.wire import Links, attributes
from kubenetlab.hoststate.object import Object, ShellName

_LOCAL, _REMOTE = 2, 3
"""Attributes IFLA_IPTUN_…"""


class IpTunnel(Link, frozen=True):
    """A tunnel between two addresses."""

    event_fields = ("mtu", "is_up")
    rank = 55
    options: ClassVar[str] = ""
    """Further arguments of `ip link add`."""

    local: str
    """Source address of the outer packets; empty: selected by the kernel."""
    remote: str
    """Destination of the outer packets; empty: the gateway of the route into the tunnel."""
    mtu: int = 1480
    alias: str = ""
    is_up: bool = True

    @classmethod
    def decode(cls, netns: str, link: ObservedLink, others: OtherLinks) -> Self:
        data = attributes(memoryview(link.data))
        local, remote = (
            address_text(data[end]) if end in data and any(data[end]) else ""
            for end in (_LOCAL, _REMOTE)
        )
        return cls(netns, link.name, local, remote, link.mtu, link.alias, link.is_up)

    @abstractmethod
    def attributes(self) -> Sequence[Attribute]:
        """Return the attributes of the kind."""

    def __str__(self) -> str:
        suffix = f"{alias_words(self.alias)}{down_word(self.is_up)}"
        return f"{self.kind} {self.name}{self._ends} mtu {self.mtu}{suffix}"

    def can_become(self, desired: Object) -> bool:
        """Return True if both ends of the tunnel are the same."""
        return type(desired) is type(self) and (
            (self.local, self.remote) == (desired.local, desired.remote)
        )

    def create(self, links: Links) -> bytes:
        index = links.new_index(self.netns, self.name)
        mtu = ("IFLA_MTU", self.mtu)
        data = self.attributes()
        return new_link_up(self.kind, self.name, mtu, index=index, data=data, alias=self.alias)

    def change(self, links: Links) -> bytes:
        settings = (("IFLA_MTU", self.mtu), ("IFLA_IFALIAS", self.alias))
        return change_link(links.index(self.netns, self.name), *settings, is_up=True)

    def commands(self, shell_name: ShellName) -> Iterator[str]:
        netns = shell_name(self.netns)
        tunnel = f"type {self.kind}{self._ends}{self.options}"
        yield f"ip -n {netns} link add {self.name} mtu {self.mtu} {tunnel}"
        yield f"ip -n {netns} link set {self.name}{alias_option(self.alias)} up"

    @property
    def _ends(self) -> str:
        """Ends of the tunnel as arguments of `ip link add`."""
        local = f" local {self.local}" if self.local else ""
        return f"{local} remote {self.remote}" if self.remote else local
