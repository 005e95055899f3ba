"""Blocks of pod addresses in the CNI mode calico, their pools, and the tunnels between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from kubenetlab.api.calico.ip_pools import IPPool
from kubenetlab.api.values import ip
from kubenetlab.datapath.cni import calico_wireguard as wireguard
from kubenetlab.datapath.modes import OverlayLink
from kubenetlab.datapath.view import Family, NodeView
from kubenetlab.hoststate.links import ipip

VXLAN_LINKS: Final = {4: "vxlan.calico", 6: "vxlan-v6.calico"}
VXLAN_TUNNELS: Final = {4: "vxlan", 6: "vxlan-v6"}
"""IP version → kind of the tunnels whose ends have addresses from blocks."""


def overlay_links(node: NodeView) -> Iterator[OverlayLink]:
    """Yield a node's ends of tunnels that have an address from a block."""
    for family in node.families:
        version, own = family.version, family.tunnels
        if address := own.get(VXLAN_TUNNELS[version]):
            yield OverlayLink(VXLAN_LINKS[version], (address,))
        if address := own.get("ipip"):
            yield OverlayLink(ipip.FALLBACK_NAME, (address,), is_bare=True)
        if address := own.get(wireguard.kind(version)):
            yield OverlayLink(wireguard.LINKS[version], (address,), is_bare=True)


def own_blocks(node: NodeView, owner: Family, *, is_encapsulated: bool) -> Iterator[str]:
    """Yield the ranges of a node in pools with tunnels, or in pools without.

    Single addresses from blocks of other nodes count only where they are announced.
    """
    for block in owner.ranges:
        pool = pool_of(node, block)
        if pool is None or (pool.spec.disable_bgp_export and not is_encapsulated):
            continue
        if bool(pool.spec.tunnels) is is_encapsulated and not (
            is_encapsulated and ip.is_host(block)
        ):
            yield block


def pool_of(node: NodeView, block: str) -> IPPool | None:
    """Return the pool with a block or a single address."""
    network = ip.network(block)
    for pool in node.ip_pools:
        cidr = pool.spec.network
        if cidr.version == network.version and network.network_address in cidr:
            return pool
    return None


def outermost(pools: Sequence[IPPool]) -> Iterator[str]:
    """Yield the ranges of pools of one IP version without those inside of other ranges.

    A set of intervals refuses elements that overlap.
    """
    networks = {pool.spec.network: None for pool in pools}  # in order, and each once
    for network in networks:
        if not any(
            network.prefixlen > other.prefixlen and network.network_address in other
            for other in networks
        ):
            yield str(network)
