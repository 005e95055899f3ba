"""The peer end of a veth pair of which both ends are in one namespace; see veth.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from kubenetlab.hoststate.links.link import (
    Link,
    OtherLinks,
    alias_option,
    alias_words,
    arp_option,
    arp_word,
    down_word,
)
from kubenetlab.hoststate.links.messages import ObservedLink, configuration
from kubenetlab.hoststate.netlink.wire import Links
from kubenetlab.hoststate.object import ShellName


class LocalVethPeer(Link, frozen=True):
    """The peer end of a `Veth` in the same namespace, which no other namespace has to create."""

    kind = "veth"
    event_fields = (*Link.event_fields, "has_arp")
    rank = 50

    mac: str
    mtu: int = 1500
    alias: str = ""
    is_up: bool = True
    has_arp: bool = True
    """False for a link that has no neighbours to resolve."""

    @classmethod
    def decode(cls, netns: str, link: ObservedLink, others: OtherLinks) -> Self:
        return cls(netns, link.name, link.mac, link.mtu, link.alias, link.is_up, link.has_arp)

    def __str__(self) -> str:
        suffix = f"{arp_word(self.has_arp)}{alias_words(self.alias)}{down_word(self.is_up)}"
        return f"veth {self.name} mac {self.mac} mtu {self.mtu}{suffix}"

    def create(self, links: Links) -> bytes:
        """Return the request that configures the link, which its veth created with its MTU."""
        return self.change(links)

    def change(self, links: Links) -> bytes:
        index = links.index(self.netns, self.name)
        return configuration(index, self.mac, self.mtu, self.alias, has_arp=self.has_arp)

    def commands(self, shell_name: ShellName) -> Iterator[str]:
        settings = f"address {self.mac}{alias_option(self.alias)}{arp_option(self.has_arp)}"
        yield f"ip -n {shell_name(self.netns)} link set {self.name} {settings} up"
