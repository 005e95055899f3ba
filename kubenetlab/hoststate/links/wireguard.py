"""WireGuard links: encrypted IP packets in UDP datagrams between nodes.

The keys and the peers of a link are objects of their own: see wireguard.py of the parent package.
Source: drivers/net/wireguard/device.c (6.12); wireguard.com/protocol.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Self

from kubenetlab.hoststate.links.link import Link, OtherLinks, alias_option, alias_words, down_word
from kubenetlab.hoststate.links.messages import ObservedLink
from kubenetlab.hoststate.links.requests import change_link, new_link_up
from kubenetlab.hoststate.netlink.wire import Links
from kubenetlab.hoststate.object import ShellName

OVERHEAD_BYTES: Final = {4: 60, 6: 80}
"""IP version between the nodes → bytes that a packet grows: type, key index, counter and tag
(32 bytes), and UDP and IP headers."""


class Wireguard(Link, frozen=True):
    """A WireGuard link."""

    kind = "wireguard"
    event_fields = ("mtu", "is_up")
    rank = 55

    mtu: int = 1420
    alias: str = ""
    is_up: bool = True

    @classmethod
    def decode(cls, netns: str, link: ObservedLink, others: OtherLinks) -> Self:
        return cls(netns, link.name, link.mtu, link.alias, link.is_up)

    def __str__(self) -> str:
        suffix = f"{alias_words(self.alias)}{down_word(self.is_up)}"
        return f"wireguard {self.name} mtu {self.mtu}{suffix}"

    def create(self, links: Links) -> bytes:
        index = links.new_index(self.netns, self.name)
        mtu = ("IFLA_MTU", self.mtu)
        return new_link_up(self.kind, self.name, mtu, index=index, alias=self.alias)

    def change(self, links: Links) -> bytes:
        settings = (("IFLA_MTU", self.mtu), ("IFLA_IFALIAS", self.alias))
        return change_link(links.index(self.netns, self.name), *settings, is_up=True)

    def commands(self, shell_name: ShellName) -> Iterator[str]:
        netns = shell_name(self.netns)
        yield f"ip -n {netns} link add {self.name} mtu {self.mtu} type wireguard"
        yield f"ip -n {netns} link set {self.name}{alias_option(self.alias)} up"
