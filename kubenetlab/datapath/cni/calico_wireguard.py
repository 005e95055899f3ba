"""WireGuard links between the nodes of the CNI mode calico.

Packets to blocks of other nodes are encrypted. Their routes are in a table of their own, which a
policy rule selects for all packets but those that WireGuard has already encrypted and marked.

Source: projectcalico/calico felix/wireguard/wireguard.go, felix/dataplane/driver.go (3.30).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from kubenetlab import names
from kubenetlab.controllers.nodes.ipam.blocks import WIREGUARD
from kubenetlab.datapath.view import Family, NodeView
from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.encryption.wireguard import WireguardDevice, WireguardPeer
from kubenetlab.hoststate.encryption.wireguard_keys import KeyPair, node_keys
from kubenetlab.hoststate.links.wireguard import OVERHEAD_BYTES, Wireguard
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.policy_rule import PolicyRule
from kubenetlab.hoststate.route import Route

LINKS: Final = {4: "wireguard.cali", 6: "wg-v6.cali"}
PORTS: Final = {4: 51820, 6: 51821}
TABLES: Final = {4: 1, 6: 2}
"""IP version → number of the table with the routes to other nodes."""
PRIORITY: Final = 99
MARK: Final = 0x200000
"""Firewall mark of encrypted packets: the first bit that Felix does not use for its rules."""


def mtu(node: NodeView, version: int) -> int:
    """Return the MTU of the link of one IP version."""
    return node.mtu - OVERHEAD_BYTES[version]


def tunnels(node: NodeView, index: int, component: str) -> Iterator[Object]:
    """Yield the link of one family with its peers, their routes, and the rule for their table.

    Packets to the node's own blocks are left to the main table. component: name of the mode.
    """
    family = node.families[index]
    version, link = family.version, LINKS[family.version]
    alias = names.link_alias(component, f"tunnels of {node.name}")
    keys = _keys(node, node.name, version)
    yield Wireguard(node.netns, link, mtu(node, version), alias)
    if (address := family.tunnels.get(kind(version))) is not None:
        yield Address(node.netns, link, f"{address}/{family.host_length}")
    yield WireguardDevice(node.netns, link, keys.public, keys.private, PORTS[version], MARK)
    for block in family.ranges:
        yield Route(node.netns, block, "", type="throw", table=TABLES[version])
    for peer in node.peers:
        yield from _peer(node, peer.name, peer.families[index])
    yield PolicyRule(node.netns, version, PRIORITY, TABLES[version], MARK, MARK, is_inverted=True)


def _peer(node: NodeView, name: str, peer: Family) -> Iterator[Object]:
    version, link = peer.version, LINKS[peer.version]
    key = _keys(node, name, version).public
    networks = tuple(sorted(peer.ranges))
    yield WireguardPeer(node.netns, link, key, peer.address, PORTS[version], networks)
    for block in peer.ranges:
        yield Route(node.netns, block, link, table=TABLES[version])


def _keys(node: NodeView, owner: str, version: int) -> KeyPair:
    """Return the keys of a node, which differ between its links."""
    return node_keys(node.seed, owner if version == 4 else f"{owner} for IPv6")


def kind(version: int) -> str:
    """Return the kind of the tunnels of one IP version, by which IPAM knows their addresses."""
    return WIREGUARD if version == 4 else f"{WIREGUARD}-v6"
