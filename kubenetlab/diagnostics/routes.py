"""Diagnostics of nodes that have no routes to the addresses of pods on other nodes."""

from __future__ import annotations

from collections.abc import Iterator

from kubenetlab.api.calico.ip_pools import IPPool
from kubenetlab.api.core import Node
from kubenetlab.api.lab import Attachment, NetworkFacts
from kubenetlab.api.segments import segment_of
from kubenetlab.api.store import Cluster
from kubenetlab.api.values.ip import is_in
from kubenetlab.datapath import modes
from kubenetlab.datapath.network.bgp import bgp_mode
from kubenetlab.diagnostics.model import (
    GATEWAY_UNREACHABLE,
    POOL_NOT_ROUTED,
    Diagnostic,
    Scope,
    pods_of_nodes,
)
from kubenetlab.diagnostics.templates import Templates


def check_gateways(cluster: Cluster, templates: Templates) -> Iterator[Diagnostic]:
    """Yield a diagnostic if routes to pods need gateways that are on other segments.

    The kernel refuses such routes, so that packets to these pods go to the router, which has no
    route to pods.
    """
    config = cluster.config
    if config.fabric.topology == "switched":
        return
    name, options = config.networking.cni_mode
    cni = modes.load("cni", name, options)
    if not cni.needs_one_segment or (config.fabric.bgp is not None and bgp_mode(cni) is not None):
        return
    nodes = cluster.all(Node)
    segments = {node.name: segment_of(config, node.addresses[0]) for node in nodes}
    unreachable = [
        (node, peer)
        for node in nodes
        for peer in nodes
        if segments[node.name] != segments[peer.name]
    ]
    if not unreachable:
        return
    node, peer = unreachable[0]
    others = f", and {len(unreachable) - 1} more routes" if len(unreachable) > 1 else ""
    pods = pods_of_nodes(cluster, segments)
    yield Diagnostic.of(
        config,
        GATEWAY_UNREACHABLE,
        ("fabric", "topology"),
        f"cni {name} needs all nodes on one layer-2 segment, but fabric.topology routed puts them "
        f"on {len(set(segments.values()))}: {node.name} has no route to the pods of {peer.name} "
        f"({peer.spec.pod_cidr}), because the gateway {peer.addresses[0]} is not on-link{others}",
        "use a mode with tunnels, the same `segment` for the nodes, or a mode with BGP and a "
        "router that has sessions with the nodes (fabric.bgp)",
        scope=Scope(into=pods, out_of=pods),
    )


def check_ip_pools(cluster: Cluster, templates: Templates) -> Iterator[Diagnostic]:
    """Yield a diagnostic for each pool without encapsulation where nothing exchanges routes."""
    pools = cluster.all(IPPool)
    facts = cluster.get(NetworkFacts, "", "network") or NetworkFacts()
    if not pools or facts.ipam != "calico":
        return
    name, options = cluster.config.networking.cni_mode
    cni = modes.load("cni", name, options)
    for pool in pools:
        if cni.routes_pool(pool):
            continue
        pods = tuple(
            attachment.full_name
            for attachment in cluster.all(Attachment)
            if any(is_in(address, pool.spec.cidr) for address in attachment.addresses)
        )
        yield Diagnostic.of(
            pool,
            POOL_NOT_ROUTED,
            ("spec", "vxlanMode"),
            f"nodes have no routes to addresses of {pool.spec.cidr} on other nodes: the pool has "
            "no tunnels, and with this backend of calico no node runs BIRD",
            "set vxlanMode to Always or CrossSubnet, or use the backend bgp",
            scope=Scope(into=pods, out_of=pods),
        )
