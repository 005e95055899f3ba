"""Diagnostics of IPPools to whose addresses the nodes have no routes."""

from __future__ import annotations

from collections.abc import Iterator

from kubenetlab.api.calico.ip_pools import IPPool
from kubenetlab.api.lab import Attachment, NetworkFacts
from kubenetlab.api.store import Cluster
from kubenetlab.api.values.ip import is_in
from kubenetlab.datapath import modes
from kubenetlab.diagnostics.model import POOL_NOT_ROUTED, Diagnostic, Scope
from kubenetlab.diagnostics.templates import Templates


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
