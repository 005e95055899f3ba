"""Encryption of the tunnels of the CNI mode cilium by WireGuard.

Programs give the packets of tunnels a firewall mark. A policy rule looks up packets with this mark
in a table with a default route to the link that encrypts them.

Source: cilium/cilium pkg/wireguard/agent/agent.go (1.13).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from kubenetlab import names
from kubenetlab.datapath.view import Family, NodeView
from kubenetlab.hoststate.encryption.wireguard import WireguardDevice, WireguardPeer
from kubenetlab.hoststate.encryption.wireguard_keys import node_keys
from kubenetlab.hoststate.links.wireguard import Wireguard
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.policy_rule import PolicyRule
from kubenetlab.hoststate.route import Route

LINK: Final = "cilium_wg0"
FEATURES: Final = ("wireguard", "policy routing")
"""Kernel features that encryption needs."""
PORT: Final = 51871
TABLE: Final = 201
PRIORITY: Final = 1
MARK, MASK = 0xE00, 0xF00
"""Firewall mark that programs give to packets of tunnels (MARK_ENCRYPT)."""
OVERHEAD_BYTES: Final = 80
"""Overhead that Cilium subtracts in both families; with IPv4 between nodes it is 60."""


def encryption(
    node: NodeView, own: Family, others: Sequence[Family], component: str
) -> Iterator[Object]:
    """Yield the link with its peers, the table, and the rule that selects it.

    own: family of the addresses between which the tunnels are.
    others: the same of each peer of the node, in their order.
    """
    keys = node_keys(node.seed, node.name)
    alias = names.link_alias(component, f"encryption of {node.name}")
    yield Wireguard(node.netns, LINK, node.mtu - OVERHEAD_BYTES, alias)
    yield WireguardDevice(node.netns, LINK, keys.public, keys.private, PORT)
    for peer, there in zip(node.peers, others, strict=True):
        key = node_keys(node.seed, peer.name).public
        allowed = (f"{there.address}/{there.host_length}",)
        yield WireguardPeer(node.netns, LINK, key, there.address, PORT, allowed)
    yield Route(node.netns, own.default_route, LINK, source=own.address, table=TABLE)
    yield PolicyRule(node.netns, own.version, PRIORITY, TABLE, MARK, MASK)
