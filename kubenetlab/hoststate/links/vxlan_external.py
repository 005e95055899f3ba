"""VXLAN links whose tunnels are selected by a BPF program, packet by packet.

Source: include/uapi/linux/if_link.h, drivers/net/vxlan/vxlan_core.c (6.12); iproute2
ip/iplink_vxlan.c (external); bpf-helpers(7), bpf_skb_set_tunnel_key.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Self

from kubenetlab.hoststate.links.link import Link, OtherLinks, alias_option, alias_words, down_word
from kubenetlab.hoststate.links.messages import ObservedLink
from kubenetlab.hoststate.links.requests import configure_link, new_link_up
from kubenetlab.hoststate.netlink.wire import Links, attributes
from kubenetlab.hoststate.object import Object, ShellName

_PORT, _COLLECT_METADATA = 15, 25
"""Attributes IFLA_VXLAN_…"""
_PRIVATE_PORT: Final = 0


class VxlanExternal(Link, frozen=True):
    """A VXLAN link without an identifier and without a peer of its own.

    The metadata of each packet has both: identifier and address of the other end. Packets that
    arrive with any identifier are received by this link.
    """

    kind = "vxlan"
    rank = 55

    mac: str
    port: int
    mtu: int = 1500
    alias: str = ""
    is_up: bool = True

    @classmethod
    def decode(cls, netns: str, link: ObservedLink, others: OtherLinks) -> Self:
        """Return the link; one that is not external has port 0, so that it is made anew."""
        data = attributes(memoryview(link.data))
        is_external = _COLLECT_METADATA in data and bool(data[_COLLECT_METADATA][0])
        port = int.from_bytes(data[_PORT], "big") if is_external else _PRIVATE_PORT
        return cls(netns, link.name, link.mac, port, link.mtu, link.alias, link.is_up)

    def __str__(self) -> str:
        suffix = f"mtu {self.mtu}{alias_words(self.alias)}{down_word(self.is_up)}"
        return f"vxlan {self.name} external dstport {self.port} mac {self.mac} {suffix}"

    def can_become(self, desired: Object) -> bool:
        """Return True if the tunnel itself is the same."""
        return isinstance(desired, VxlanExternal) and self.port == desired.port

    def create(self, links: Links) -> bytes:
        data = (
            ("IFLA_VXLAN_COLLECT_METADATA", 1),
            ("IFLA_VXLAN_LEARNING", 0),
            ("IFLA_VXLAN_PORT", self.port),
        )
        index = links.new_index(self.netns, self.name)
        settings = (("IFLA_ADDRESS", self.mac), ("IFLA_MTU", self.mtu))
        return new_link_up(
            self.kind, self.name, *settings, index=index, data=data, alias=self.alias
        )

    def change(self, links: Links) -> bytes:
        index = links.index(self.netns, self.name)
        return configure_link(index, self.mac, self.mtu, self.alias)

    def commands(self, shell_name: ShellName) -> Iterator[str]:
        netns = shell_name(self.netns)
        settings = f"address {self.mac} mtu {self.mtu}"
        tunnel = f"external dstport {self.port} nolearning"
        yield f"ip -n {netns} link add {self.name} {settings} type vxlan {tunnel}"
        yield f"ip -n {netns} link set {self.name}{alias_option(self.alias)} up"
