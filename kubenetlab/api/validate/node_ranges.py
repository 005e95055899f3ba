"""The pod ranges that nodes bring with them: one per family, inside the pods' range, nobody else's, with room left for the others.

Source of how nodes get theirs: k8s.io/kubernetes pkg/controller/nodeipam.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_network
from itertools import islice
from typing import NamedTuple

from kubenetlab.api.config import ClusterConfig, Network

SMALLEST = 4
"""Addresses in the smallest range that holds a pod beside the network, the gateway and the last one."""


class RangeFault(NamedTuple):
    """What is wrong with a node's ranges; with those of all when no node is named."""

    node: str
    message: str
    hints: tuple[str, ...] = ()


def range_faults(config: ClusterConfig, given: Mapping[str, Sequence[str]]) -> Iterator[RangeFault]:
    """What speaks against the ranges `given` by the names of nodes; those without get the next free ones."""
    try:
        pod_networks = config.networking.pod_networks
    except ValueError:
        return  # which is told elsewhere
    seen: list[tuple[str, Network]] = []
    for name, texts in given.items():
        if not texts:
            continue
        try:
            parts = [ip_network(text) for text in texts]
        except ValueError as error:
            yield RangeFault(name, "wanted ranges such as 10.244.7.0/24", (str(error),))
            continue
        if [part.version for part in parts] != [network.version for network in pod_networks]:
            families = " and ".join(f"one IPv{network.version} range" for network in pod_networks)
            yield RangeFault(name, f"wanted {families}, found {', '.join(texts)}")
            continue
        for part, network in zip(parts, pod_networks, strict=True):
            yield from (RangeFault(name, message) for message in _faults(config, name, part, network, seen))
            seen.append((name, part))
    waiting = sum(not given.get(name) for name in config.node_names)
    for network in pod_networks:
        mask_size = config.networking.node_mask_size(network.version)
        if mask_size < network.prefixlen:
            continue  # which is told elsewhere
        taken = [part for _, part in seen if part.version == network.version]
        if not taken:
            continue
        left = list(islice(free_ranges(network, mask_size, taken), waiting))
        if len(left) < waiting:
            yield RangeFault(
                "", f"{network} has room for {len(left)} more ranges of /{mask_size}, wanted {waiting}, one for each node without"
            )


def _faults(config: ClusterConfig, name: str, part: Network, network: Network, seen: Sequence[tuple[str, Network]]) -> Iterator[str]:
    if not part.subnet_of(network):  # type: ignore[arg-type]
        yield f"wanted a part of the pods' range {network}, found {part}"
    if part.num_addresses < SMALLEST:
        yield f"wanted room for pods, at least a /{part.max_prefixlen - SMALLEST.bit_length() + 1}, found {part}"
    for whose, other in seen:
        if other.version == part.version and part.overlaps(other):
            yield f"{part} overlaps {other} of node {whose}"
    for pool in config.networking.ipam.pools:
        if pool.serves(name) and pool.last > part.num_addresses - 2:
            yield f"{part} is too small for pool {pool.name} ({pool.first} to {pool.last})"


def free_ranges(pod_network: Network, mask_size: int, taken: Sequence[Network]) -> Iterator[Network]:
    """The shares of the pod range that are nobody's, in the order in which nodes get them."""
    return (part for part in pod_network.subnets(new_prefix=mask_size) if not any(part.overlaps(other) for other in taken))
