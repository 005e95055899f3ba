"""The pod ranges that nodes bring with them: one per family, inside the pods' range, nobody else's, with room left for the others.

Source of how nodes get theirs: k8s.io/kubernetes pkg/controller/nodeipam.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_network
from itertools import count, islice
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
    found = {name: _parts(name, texts, pod_networks) for name, texts in given.items() if texts}
    seen = [
        (name, part)
        for name, parts in found.items()
        if not isinstance(parts, RangeFault)
        for part in parts
    ]
    others: dict[int, list[int]] = {}
    for one, other in overlapping([part for _, part in seen]):
        others.setdefault(max(one, other), []).append(min(one, other))
    place = count()
    for name, parts in found.items():
        if isinstance(parts, RangeFault):
            yield parts
            continue
        for part, network in zip(parts, pod_networks, strict=True):
            before = [seen[index] for index in sorted(others.get(next(place), ()))]
            yield from (
                RangeFault(name, message)
                for message in _faults(config, name, part, network, before)
            )
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
                "",
                f"{network} has room for {len(left)} more ranges of /{mask_size}, expected {waiting}, one for each node without",
            )


def _parts(
    name: str, texts: Sequence[str], pod_networks: Sequence[Network]
) -> Sequence[Network] | RangeFault:
    """A node's ranges, one for each of the cluster's."""
    try:
        parts = [ip_network(text) for text in texts]
    except ValueError as error:
        return RangeFault(name, "expected ranges such as 10.244.7.0/24", (str(error),))
    if [part.version for part in parts] != [network.version for network in pod_networks]:
        families = " and ".join(f"one IPv{network.version} range" for network in pod_networks)
        return RangeFault(name, f"expected {families}, found {', '.join(texts)}")
    return parts


def _faults(
    config: ClusterConfig,
    name: str,
    part: Network,
    network: Network,
    before: Sequence[tuple[str, Network]],
) -> Iterator[str]:
    """`before` are those overlapping that came before it."""
    if not part.subnet_of(network):  # type: ignore[arg-type]
        yield f"expected a part of the pods' range {network}, found {part}"
    if part.num_addresses < SMALLEST:
        yield f"expected room for pods, at least a /{part.max_prefixlen - SMALLEST.bit_length() + 1}, found {part}"
    yield from (f"{part} overlaps {other} of node {whose}" for whose, other in before)
    for pool in config.networking.ipam.pools:
        if pool.serves(name) and pool.last > part.num_addresses - 2:
            yield f"{part} is too small for pool {pool.name} ({pool.first} to {pool.last})"


def free_ranges(
    pod_network: Network, mask_size: int, taken: Sequence[Network]
) -> Iterator[Network]:
    """The shares of the pod range that are nobody's, in the order in which nodes get them. What is taken is of the same family."""
    left = sorted(map(_ends, taken), reverse=True)
    for part in pod_network.subnets(new_prefix=mask_size):
        first, last = _ends(part)
        while left and left[-1][1] < first:
            left.pop()
        if not left or left[-1][0] > last:
            yield part


def overlapping(ranges: Sequence[Network]) -> Iterator[tuple[int, int]]:
    """Each two that overlap, by their places: one of them lies in the other, so one pass from the first to the last address finds them."""
    spans = sorted(
        (part.version, first, -last, place)
        for place, part in enumerate(ranges)
        for first, last in [_ends(part)]
    )
    around: list[tuple[int, int, int]] = []
    for version, first, minus_last, place in spans:
        while around and (around[-1][0] != version or around[-1][1] < first):
            around.pop()
        yield from ((outer, place) for _, _, outer in around)
        around.append((version, -minus_last, place))


def _ends(part: Network) -> tuple[int, int]:
    return int(part.network_address), int(part.broadcast_address)
