"""MACVLAN links: further MAC addresses on a link.

Source: include/uapi/linux/if_link.h, drivers/net/macvlan.c (6.12); iproute2 ip/iplink_macvlan.c.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Literal, Self

from kubenetlab.hoststate.links.link import Link, OtherLinks, alias_option, alias_words, down_word
from kubenetlab.hoststate.links.messages import ObservedLink
from kubenetlab.hoststate.links.requests import configure_link, new_link_up
from kubenetlab.hoststate.netlink.wire import Links, as_number, attributes
from kubenetlab.hoststate.object import Key, Object, ShellName

MacvlanMode = Literal["private", "vepa", "bridge", "passthru"]
_MODES: Final[Mapping[int, MacvlanMode]] = {1: "private", 2: "vepa", 4: "bridge", 8: "passthru"}
_MODE = 1
"""Attribute IFLA_MACVLAN_MODE."""


class Macvlan(Link, frozen=True):
    """A link with a MAC address of its own on another link of its namespace."""

    kind = "macvlan"
    rank = 55

    mac: str
    device: str
    """Link by which frames are sent and received."""
    mode: MacvlanMode = "bridge"
    """bridge: links on the same device reach each other; private: they do not; vepa: by a switch
    outside; passthru: the device has no other link."""
    mtu: int = 1500
    alias: str = ""
    is_up: bool = True

    @classmethod
    def decode(cls, netns: str, link: ObservedLink, others: OtherLinks) -> Self:
        mode = _MODES.get(as_number(attributes(memoryview(link.data))[_MODE]), "private")
        device = others.names.get(link.peer_index, "")
        return cls(netns, link.name, link.mac, device, mode, link.mtu, link.alias, link.is_up)

    @property
    def depends_on(self) -> Key | None:
        return ("Link", self.device)

    def __str__(self) -> str:
        suffix = f"{alias_words(self.alias)}{down_word(self.is_up)}"
        place = f"dev {self.device} mode {self.mode}"
        return f"macvlan {self.name} {place} mac {self.mac} mtu {self.mtu}{suffix}"

    def can_become(self, desired: Object) -> bool:
        """Return True if device and mode are the same."""
        return isinstance(desired, Macvlan) and (
            (self.device, self.mode) == (desired.device, desired.mode)
        )

    def create(self, links: Links) -> bytes:
        device = ("IFLA_LINK", links.index(self.netns, self.device))
        index = links.new_index(self.netns, self.name)
        settings = (device, ("IFLA_ADDRESS", self.mac), ("IFLA_MTU", self.mtu))
        mode = [("IFLA_MACVLAN_MODE", self.mode)]
        return new_link_up(
            self.kind, self.name, *settings, index=index, data=mode, alias=self.alias
        )

    def change(self, links: Links) -> bytes:
        index = links.index(self.netns, self.name)
        return configure_link(index, self.mac, self.mtu, self.alias)

    def commands(self, shell_name: ShellName) -> Iterator[str]:
        netns = shell_name(self.netns)
        settings = f"link {self.device} address {self.mac} mtu {self.mtu}"
        yield f"ip -n {netns} link add {self.name} {settings} type macvlan mode {self.mode}"
        yield f"ip -n {netns} link set {self.name}{alias_option(self.alias)} up"
