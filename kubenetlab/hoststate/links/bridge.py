"""Linux bridges.

Source: include/uapi/linux/if_link.h, net/core/rtnetlink.c (6.12); iproute2 ip/iplink.c.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from kubenetlab.hoststate.links.link import Link, OtherLinks, alias_option, alias_words, down_word
from kubenetlab.hoststate.links.messages import (
    IFF_UP,
    IFLA_ADDRESS,
    IFLA_BR_MCAST_SNOOPING,
    IFLA_IFALIAS,
    IFLA_IFNAME,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_LINKINFO,
    IFLA_MTU,
    ObservedLink,
    configuration,
    ifinfo,
)
from kubenetlab.hoststate.netlink import wire
from kubenetlab.hoststate.netlink.wire import (
    Links,
    attribute,
    mac_bytes,
    message,
    nested,
    number,
    string,
)
from kubenetlab.hoststate.object import ShellName


class Bridge(Link, frozen=True):
    """A Linux bridge."""

    kind = "bridge"
    rank = 30

    mac: str
    mtu: int = 1500
    alias: str = ""
    is_up: bool = True

    def __str__(self) -> str:
        suffix = f"{alias_words(self.alias)}{down_word(self.is_up)}"
        return f"bridge {self.name} mac {self.mac} mtu {self.mtu}{suffix}"

    @classmethod
    def decode(cls, netns: str, link: ObservedLink, others: OtherLinks) -> Self:
        return cls(netns, link.name, link.mac, link.mtu, link.alias, link.is_up)

    def create(self, links: Links) -> bytes:
        index = links.new_index(self.netns, self.name)
        body = ifinfo(index, IFF_UP) + string(IFLA_IFNAME, self.name) + self._settings()
        link_info = nested(
            IFLA_LINKINFO,
            string(IFLA_INFO_KIND, "bridge"),
            nested(IFLA_INFO_DATA, attribute(IFLA_BR_MCAST_SNOOPING, b"\0")),
        )
        created = message(wire.RTM_NEWLINK, wire.NLM_F_CREATE | wire.NLM_F_EXCL, body + link_info)
        # The kernel ignores an alias in the message that creates a link.
        return created + (
            message(wire.RTM_NEWLINK, 0, ifinfo(index) + string(IFLA_IFALIAS, self.alias))
            if self.alias
            else b""
        )

    def change(self, links: Links) -> bytes:
        index = links.index(self.netns, self.name)
        return configuration(index, self.mac, self.mtu, self.alias)

    def commands(self, shell_name: ShellName) -> Iterator[str]:
        netns = shell_name(self.netns)
        settings = f"address {self.mac} mtu {self.mtu} type bridge mcast_snooping 0"
        yield f"ip -n {netns} link add {self.name} {settings}"
        yield f"ip -n {netns} link set {self.name}{alias_option(self.alias)} up"

    def _settings(self) -> bytes:
        return attribute(IFLA_ADDRESS, mac_bytes(self.mac)) + number(IFLA_MTU, self.mtu)
