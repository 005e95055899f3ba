"""VXLAN tunnels between nodes, as several CNI modes have them."""

from __future__ import annotations

from collections.abc import Iterator

from kubenetlab import names
from kubenetlab.datapath.view import Family, NodeView
from kubenetlab.hoststate.fdb import FdbEntry
from kubenetlab.hoststate.links.vxlan import OVERHEAD_BYTES, Vxlan
from kubenetlab.hoststate.neighbor import Neighbor
from kubenetlab.hoststate.object import Object


def vxlan_end(
    node: NodeView, family: Family, link: str, vni: int, port: int, component: str
) -> Vxlan:
    """Return a node's end of the tunnels of one address family, which learns nothing.

    component: name of the mode in the alias of the link.
    """
    return Vxlan(
        node.netns,
        link,
        names.tunnel_mac_of(family.address),
        vni,
        port,
        family.address,
        names.NODE_UPLINK,
        node.mtu - OVERHEAD_BYTES[family.version],
        alias=names.link_alias(component, f"tunnels of {node.name}"),
    )


def vxlan_peer(node: NodeView, link: str, peer: Family, address: str) -> Iterator[Object]:
    """Yield the entries by which a node finds another one behind its tunnel.

    address: address of the other node's end.
    """
    mac = names.tunnel_mac_of(peer.address)
    yield Neighbor(node.netns, link, address, mac)
    yield FdbEntry(node.netns, link, mac, peer.address)
