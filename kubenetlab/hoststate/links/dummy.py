"""Dummy links."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from kubenetlab.hoststate.links.link import Link, OtherLinks, alias_option, alias_words
from kubenetlab.hoststate.links.messages import ObservedLink
from kubenetlab.hoststate.links.requests import change_link, new_link
from kubenetlab.hoststate.netlink.wire import Links
from kubenetlab.hoststate.object import ShellName


class Dummy(Link, frozen=True):
    """A dummy link that is down. Its addresses are local addresses of the machine all the same."""

    kind = "dummy"
    event_fields = ("mac",)
    is_removed_after_rules = True
    rank = 30

    mac: str
    alias: str = ""

    def __str__(self) -> str:
        return f"dummy {self.name} mac {self.mac}{alias_words(self.alias)}"

    @classmethod
    def decode(cls, netns: str, link: ObservedLink, others: OtherLinks) -> Self:
        return cls(netns, link.name, link.mac, link.alias)

    def create(self, links: Links) -> bytes:
        index = links.new_index(self.netns, self.name)
        mac = ("IFLA_ADDRESS", self.mac)
        created = new_link("dummy", self.name, mac, index=index)
        alias = ("IFLA_IFALIAS", self.alias)
        return created + (change_link(index, alias) if self.alias else b"")

    def change(self, links: Links) -> bytes:
        index = links.index(self.netns, self.name)
        return change_link(index, ("IFLA_ADDRESS", self.mac), ("IFLA_IFALIAS", self.alias))

    def commands(self, shell_name: ShellName) -> Iterator[str]:
        netns = shell_name(self.netns)
        yield f"ip -n {netns} link add {self.name} address {self.mac} type dummy"
        if self.alias:
            yield f"ip -n {netns} link set {self.name}{alias_option(self.alias)}"
