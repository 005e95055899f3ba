"""Validation of the pod ranges of nodes: one per IP family, inside the pod range, without overlaps.

The remaining part of the pod range must have room for the nodes whose range the cluster allocates.
Source of the allocation: k8s.io/kubernetes pkg/controller/nodeipam.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_network
from itertools import islice, repeat
from typing import NamedTuple

from kubenetlab.api.config import ClusterConfig, Network
from kubenetlab.api.plugins.host_local import HostLocal, host_local_options
from kubenetlab.api.validate.host_local import pool_faults
from kubenetlab.api.values import ip

SMALLEST = 4
"""Size of the smallest range with a pod: the network, the gateway, the pod and the last address."""


class RangeFault(NamedTuple):
    """Mistake in the ranges of a node, or of all nodes."""

    node: str
    """Name of the node; empty if the mistake is not one of a single node."""
    message: str
    hints: tuple[str, ...] = ()


class _NodeRange(NamedTuple):
    """Pod range of a node, and the range of the cluster of the same IP version."""

    node: str
    range: Network
    pod_network: Network


def range_faults(config: ClusterConfig, given: Mapping[str, Sequence[str]]) -> Iterator[RangeFault]:
    """Yield the mistakes in the ranges given to nodes; other nodes get the next free ranges.

    given: name of a node → its ranges, empty for an allocated one.
    """
    try:
        pod_networks = config.networking.pod_networks
    except ValueError:
        return  # the validation of podSubnet reports it
    node_ranges: list[_NodeRange] = []
    for name, texts in given.items():
        if not texts:
            continue
        parsed = _parse(name, texts, pod_networks)
        if isinstance(parsed, RangeFault):
            yield parsed
        else:
            node_ranges += map(_NodeRange, repeat(name), parsed, pod_networks)
    options = host_local_options(config.networking)
    overlaps: dict[int, list[int]] = {}
    for one, other in overlapping([entry.range for entry in node_ranges]):
        overlaps.setdefault(max(one, other), []).append(min(one, other))
    for index, entry in enumerate(node_ranges):
        earlier = [node_ranges[other] for other in sorted(overlaps.get(index, ()))]
        for message in _faults(config, options, entry, earlier):
            yield RangeFault(entry.node, message)
    yield from _capacity_faults(config, given, node_ranges)


def _parse(
    name: str, texts: Sequence[str], pod_networks: Sequence[Network]
) -> Sequence[Network] | RangeFault:
    """Return a node's ranges, one for each range of the cluster."""
    try:
        ranges = [ip_network(text) for text in texts]
    except ValueError as error:
        return RangeFault(name, "expected ranges such as 10.244.7.0/24", (str(error),))
    if [range_.version for range_ in ranges] != [network.version for network in pod_networks]:
        families = " and ".join(f"one IPv{network.version} range" for network in pod_networks)
        return RangeFault(name, f"expected {families}, found {', '.join(texts)}")
    return ranges


def _faults(
    config: ClusterConfig,
    options: HostLocal,
    entry: _NodeRange,
    overlapped: Sequence[_NodeRange],
) -> Iterator[str]:
    """Yield the mistakes in one range. `overlapped` are earlier ranges that it overlaps."""
    range_ = entry.range
    if not ip.is_part(range_, entry.pod_network):
        yield f"expected a part of the pods' range {entry.pod_network}, found {range_}"
    if range_.num_addresses < SMALLEST:
        longest = range_.max_prefixlen - SMALLEST.bit_length() + 1
        yield f"expected room for pods, at least a /{longest}, found {range_}"
    for other in overlapped:
        yield f"{range_} overlaps {other.range} of node {other.node}"
    for pool in config.networking.ipam.pools:
        if pool.serves(entry.node) and pool.last > range_.num_addresses - 2:
            yield f"{range_} is too small for pool {pool.name} ({pool.first} to {pool.last})"
    if range_.num_addresses >= SMALLEST:
        for option, message in options.faults(range_):
            yield f"{range_} does not fit the option ipam.{option} of the CNI mode: {message}"
        for message in pool_faults(config, options, range_, entry.node):
            yield f"the gateway of {range_} (ipam.gateway of the CNI mode), {message}"


def _capacity_faults(
    config: ClusterConfig, given: Mapping[str, Sequence[str]], node_ranges: Sequence[_NodeRange]
) -> Iterator[RangeFault]:
    """Yield the pod ranges with too few free parts for the nodes without given ranges."""
    needed = sum(not given.get(name) for name in config.node_names)
    for network in config.networking.pod_networks:
        mask_size = config.networking.node_mask_size(network.version)
        if mask_size < network.prefixlen:
            continue  # the validation of podSubnet reports it
        taken = [entry.range for entry in node_ranges if entry.range.version == network.version]
        if not taken:
            continue
        free = len(list(islice(free_ranges(network, mask_size, taken), needed)))
        if free < needed:
            yield RangeFault(
                "",
                f"{network} has room for {free} more ranges of /{mask_size}, "
                f"but {needed} nodes need one",
            )


def free_ranges(
    pod_network: Network, mask_size: int, taken: Sequence[Network]
) -> Iterator[Network]:
    """Yield the free parts of the pod range, in the order in which they are allocated to nodes.

    mask_size: prefix length of the parts.
    taken: ranges of the same IP version that are in use.
    """
    remaining = sorted(map(_ends, taken), reverse=True)
    for part in pod_network.subnets(new_prefix=mask_size):
        first, last = _ends(part)
        while remaining and remaining[-1][1] < first:
            remaining.pop()
        if not remaining or remaining[-1][0] > last:
            yield part


def overlapping(ranges: Sequence[Network]) -> Iterator[tuple[int, int]]:
    """Yield the indices of each two ranges that overlap.

    One of two overlapping networks contains the other, so a single pass in the order of addresses
    finds all of them.
    """
    spans = sorted(
        (range_.version, first, -last, index)
        for index, range_ in enumerate(ranges)
        for first, last in [_ends(range_)]
    )
    containing: list[tuple[int, int, int]] = []
    """(version, last address, index) of the ranges that contain the current address."""
    for version, first, negative_last, index in spans:
        while containing and (containing[-1][0] != version or containing[-1][1] < first):
            containing.pop()
        yield from ((outer, index) for _, _, outer in containing)
        containing.append((version, -negative_last, index))


def _ends(network: Network) -> tuple[int, int]:
    return int(network.network_address), int(network.broadcast_address)
