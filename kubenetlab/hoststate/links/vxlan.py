"""VXLAN links: Ethernet frames in UDP datagrams between nodes.

Source: include/uapi/linux/if_link.h, drivers/net/vxlan/vxlan_core.c (6.12); iproute2
ip/iplink_vxlan.c; RFC 7348.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Self

from kubenetlab.hoststate.ip import address_text
from kubenetlab.hoststate.links.link import Link, OtherLinks, alias_option, alias_words, down_word
from kubenetlab.hoststate.links.messages import ObservedLink
from kubenetlab.hoststate.links.requests import configure_link, new_link_up
from kubenetlab.hoststate.netlink.wire import Links, as_number, attributes
from kubenetlab.hoststate.object import Key, Object, ShellName

OVERHEAD_BYTES: Final = {4: 50, 6: 70}
"""IP version between the nodes → bytes that a packet grows: Ethernet, VXLAN, UDP and IP headers."""
_ID, _LINK, _LOCAL, _LEARNING, _PORT, _LOCAL6 = 1, 3, 4, 7, 15, 17
"""Attributes IFLA_VXLAN_…"""


class Vxlan(Link, frozen=True):
    """A VXLAN tunnel endpoint (VTEP) that sends where its `FdbEntry` objects say."""

    kind = "vxlan"
    rank = 55

    mac: str
    vni: int
    port: int
    local: str
    """Source address of the datagrams."""
    device: str
    """Link by which they are sent."""
    mtu: int = 1450
    is_learning: bool = False
    """True to add forwarding entries for the senders of received frames."""
    alias: str = ""
    is_up: bool = True
    master: str = ""
    """Name of the bridge whose port it is; empty: none."""

    @classmethod
    def decode(cls, netns: str, link: ObservedLink, others: OtherLinks) -> Self:
        data = attributes(memoryview(link.data))
        local = data.get(_LOCAL, data.get(_LOCAL6))
        device = as_number(data[_LINK]) if _LINK in data else 0
        return cls(
            netns,
            link.name,
            link.mac,
            as_number(data[_ID]),
            int.from_bytes(data[_PORT], "big"),
            address_text(local) if local is not None else "",
            others.names.get(device, ""),
            link.mtu,
            bool(data[_LEARNING][0]),
            link.alias,
            link.is_up,
            others.names.get(link.master_index, ""),
        )

    def matches(self, link: ObservedLink, indexes: Mapping[str, int]) -> bool:
        return super().matches(link, indexes) and link.master_index == indexes.get(self.master, 0)

    @property
    def depends_on(self) -> Key | None:
        return ("Link", self.device)

    def __str__(self) -> str:
        learning = " learning" if self.is_learning else ""
        master = f" master {self.master}" if self.master else ""
        suffix = f"{master}{alias_words(self.alias)}{down_word(self.is_up)}"
        return (
            f"vxlan {self.name} id {self.vni} local {self.local} dev {self.device} "
            f"dstport {self.port}{learning} mac {self.mac} mtu {self.mtu}{suffix}"
        )

    def can_become(self, desired: Object) -> bool:
        """Return True if the tunnel itself is the same."""
        return isinstance(desired, Vxlan) and self._tunnel == desired._tunnel

    def create(self, links: Links) -> bytes:
        local = "IFLA_VXLAN_LOCAL6" if ":" in self.local else "IFLA_VXLAN_LOCAL"
        data = (
            ("IFLA_VXLAN_ID", self.vni),
            (local, self.local),
            ("IFLA_VXLAN_LINK", links.index(self.netns, self.device)),
            ("IFLA_VXLAN_PORT", self.port),
            ("IFLA_VXLAN_LEARNING", int(self.is_learning)),
        )
        index = links.new_index(self.netns, self.name)
        settings = (("IFLA_ADDRESS", self.mac), ("IFLA_MTU", self.mtu))
        master = links.index(self.netns, self.master) if self.master else 0
        return new_link_up(
            self.kind,
            self.name,
            *settings,
            index=index,
            data=data,
            alias=self.alias,
            master=master,
        )

    def change(self, links: Links) -> bytes:
        index = links.index(self.netns, self.name)
        master = links.index(self.netns, self.master) if self.master else 0
        return configure_link(index, self.mac, self.mtu, self.alias, ("IFLA_MASTER", master))

    def commands(self, shell_name: ShellName) -> Iterator[str]:
        netns = shell_name(self.netns)
        learning = "learning" if self.is_learning else "nolearning"
        tunnel = f"id {self.vni} local {self.local} dev {self.device} dstport {self.port}"
        settings = f"address {self.mac} mtu {self.mtu}"
        yield f"ip -n {netns} link add {self.name} {settings} type vxlan {tunnel} {learning}"
        master = f" master {self.master}" if self.master else ""
        yield f"ip -n {netns} link set {self.name}{master}{alias_option(self.alias)} up"

    @property
    def _tunnel(self) -> tuple[int, int, str, str, bool]:
        """Settings that cannot change once the link exists."""
        return self.vni, self.port, self.local, self.device, self.is_learning
