"""Validation of the options of host-local: the ranges of nodes must have room for them."""

from __future__ import annotations

from collections.abc import Iterator

from kubenetlab.api.config import VERSIONS, ClusterConfig, Network
from kubenetlab.api.plugins.host_local import HostLocal
from kubenetlab.api.text.decode import Finding
from kubenetlab.api.text.documents import Path
from kubenetlab.api.values import ip

_PATH: Path = ("networking", "cni", "ipam")


def host_local_findings(config: ClusterConfig, options: HostLocal) -> Iterator[Finding]:
    """Yield the contradictions between the options of a CNI mode and the Cluster document.

    The ranges that nodes are given in the document are validated with these ranges
    (`range_faults`).
    """
    if all(node.pod_cidrs for node in config.nodes):
        return
    for network in _samples(config):
        field = f"networking.nodeCIDRMaskSizeIPv{network.version}"
        for option, message in options.faults(network):
            yield Finding(
                (*_PATH, option),
                message,
                hints=(f"each node gets a range of /{network.prefixlen}: {field} is its length",),
            )
        for fault in pool_faults(config, options, network):
            yield Finding((*_PATH, "gateway"), f"the gateway, {fault}")


def _samples(config: ClusterConfig) -> Iterator[Network]:
    """Yield a range of each IP family as the cluster allocates it to a node."""
    for version in VERSIONS[config.networking.ip_family]:
        zero = {4: "0.0.0.0", 6: "::"}[version]
        yield ip.network(f"{zero}/{config.networking.node_mask_size(version)}")


def pool_faults(
    config: ClusterConfig, options: HostLocal, network: Network, node: str = ""
) -> Iterator[str]:
    """Yield the pools that contain the gateway of a node with this range.

    node: name of the node; empty for any node.
    """
    gateway = options.gateway_of(network)
    for pool in config.networking.ipam.pools:
        if (not node or pool.serves(node)) and pool.first <= gateway <= pool.last:
            yield (f"number {gateway}, belongs to pool {pool.name} ({pool.first} to {pool.last})")
