"""cluster-pool: Cilium's operator assigns each node a range of each IP family from pools.

The ranges take the place of the node's podCIDRs. Each has the same size, and a node has one of each
family or none at all. A released range is not reused before the others of its pool. Pods get
addresses of their node's range as with host-local.
Source: cilium/cilium pkg/ipam/allocator/podcidr/podcidr.go, pkg/ipam/cidrset/cidr_set.go (v1.17).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import ClassVar

from msgspec import structs

from kubenetlab.api.config import Network
from kubenetlab.api.core import Node
from kubenetlab.api.lab import Attachment, NetworkFacts
from kubenetlab.api.plugins.allocations import ClusterPoolState
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Change, Cluster, Kind
from kubenetlab.api.values import ip
from kubenetlab.controllers.nodes.ipam.allocator import (
    AllocationFailure,
    NodeRanges,
    contain_request,
)
from kubenetlab.controllers.nodes.ipam.host_local import HostLocal


class ClusterPool:
    """Allocator of ranges from the pools of the cluster, and of addresses from these ranges."""

    watches: ClassVar[tuple[Kind, ...]] = (ClusterPoolState,)
    request_kinds: ClassVar[tuple[Kind, ...]] = watches
    has_node_ranges: ClassVar[bool] = True

    def __init__(self, cluster: Cluster, waiting: Collection[str]) -> None:
        facts = cluster.get(NetworkFacts, "", "network") or NetworkFacts()
        self._pools = {pools.version: pools for pools in facts.node_range_pools}
        self._before = _state(cluster)
        self._last = dict(self._before.last)
        nodes = cluster.all(Node)
        self._ranges = dict(self._retained(cluster, {node.name for node in nodes}))
        self._taken = {cidr for cidrs in self._ranges.values() for cidr in cidrs}
        self._failures: dict[str, AllocationFailure] = {}
        for node in nodes:
            if node.name not in self._ranges:
                self._assign(cluster, node.name)
        self._addresses = HostLocal(cluster, waiting)

    def can_provide(self, pod: Pod, node: Node) -> bool:
        return contain_request(self._ranges.get(node.name, ()), pod)

    @classmethod
    def ranges(cls, cluster: Cluster, node: Node) -> tuple[NodeRanges, ...]:
        cidrs = _state(cluster).ranges.get(node.name, ())
        versions = cluster.config.networking.versions
        return tuple(NodeRanges(ip.of_version(cidrs, version)) for version in versions)

    def allocate(self, pod: Pod, node: Node) -> tuple[str, ...] | AllocationFailure:
        if failure := self._failures.get(node.name):
            return failure
        cidrs = self._ranges[node.name]
        spec = structs.replace(node.spec, pod_cidr=cidrs[0], pod_cidrs=cidrs)
        return self._addresses.allocate(pod, structs.replace(node, spec=spec))

    def changes(self) -> Iterator[Change]:
        state = structs.replace(self._before, ranges=self._ranges, last=self._last)
        if state != self._before:
            yield state
        yield from self._addresses.changes()

    def _retained(
        self, cluster: Cluster, nodes: Collection[str]
    ) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yield the ranges of nodes, and those of removed nodes whose addresses pods still have.

        With other pools or IP families, nodes get new ranges.
        """
        versions = cluster.config.networking.versions
        for node, cidrs in self._before.ranges.items():
            is_used = node in nodes or node in cluster.index(Attachment, _nodes_with_pods)
            if is_used and tuple(map(ip.version_of, cidrs)) == versions:
                networks = map(ip.network, cidrs)
                if all(self._is_part(cluster, network) for network in networks):
                    yield node, cidrs

    def _is_part(self, cluster: Cluster, cidr: Network) -> bool:
        """Return True if the pools of an IP family have this range."""
        pools = self._pools[cidr.version]
        networking = cluster.config.networking
        return cidr.prefixlen == pools.range_length(networking) and any(
            cidr.network_address in pool for pool in pools.networks(networking)
        )

    def _assign(self, cluster: Cluster, node: str) -> None:
        """Assign a node a free range of each IP family, if there is one of all."""
        networking = cluster.config.networking
        chosen: list[tuple[str, str]] = []
        """(pool, range) of each IP family."""
        for version in networking.versions:
            pools = self._pools[version]
            length = pools.range_length(networking)
            found = next(
                (
                    (str(pool), cidr)
                    for pool in pools.networks(networking)
                    if (cidr := self._next_free(pool, length)) is not None
                ),
                None,
            )
            if found is None:
                names = ", ".join(map(str, pools.networks(networking)))
                self._failures[node] = AllocationFailure(
                    f"required IPv{version} PodCIDR not available: no range of /{length} is left "
                    f"in the cluster pool {names} for node {node}"
                )
                return
            chosen.append(found)
        self._last |= dict(chosen)
        self._ranges[node] = tuple(cidr for _, cidr in chosen)
        self._taken |= set(self._ranges[node])

    def _next_free(self, pool: Network, length: int) -> str | None:
        """Return the first free range of a pool after the one that was assigned last."""
        count = 2 ** (length - pool.prefixlen)
        size = 2 ** (pool.max_prefixlen - length)
        last = self._last.get(str(pool))
        start = 0
        if last is not None:
            first = ip.network(last).network_address
            start = (int(first) - int(pool.network_address)) // size + 1
        # One more than there are ranges with an owner: the rest of a huge pool is never looked at.
        for step in range(min(count, len(self._taken) + 1)):
            cidr = f"{pool[(start + step) % count * size]}/{length}"
            if cidr not in self._taken:
                return cidr
        return None


def _state(cluster: Cluster) -> ClusterPoolState:
    return cluster.get(ClusterPoolState, "", "cluster-pool") or ClusterPoolState()


def _nodes_with_pods(attachments: Iterable[Attachment]) -> frozenset[str]:
    return frozenset(attachment.node for attachment in attachments if not attachment.is_stale)
