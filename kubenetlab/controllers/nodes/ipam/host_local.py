"""host-local: each node has a range of addresses, its pod CIDR, as the plugin of this name does.

Addresses are assigned cyclically, so that a released address is not reused at once. A pod can
request its addresses or a pool; addresses of a pool are reserved for it.
Source: containernetworking/plugins plugins/ipam/host-local/backend/allocator/allocator.go.
"""

from collections.abc import Collection, Container, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import ClassVar

from msgspec import structs

from kubenetlab.api.config import Network, Pool
from kubenetlab.api.core import Node
from kubenetlab.api.lab import Attachment
from kubenetlab.api.plugins.allocations import HostLocalState
from kubenetlab.api.pods import POOL_ANNOTATION, Pod
from kubenetlab.api.store import Change, Cluster, Kind
from kubenetlab.api.values import ip
from kubenetlab.controllers.allocation.addresses import pod_addresses_after
from kubenetlab.controllers.nodes.ipam.allocator import (
    AllocationFailure,
    NodeRanges,
    requested_address,
)

FIRST_POD_INDEX = 2
"""Index into a node's range of the first address for pods."""


class HostLocal:
    """Allocator of addresses from the pod ranges of nodes."""

    watches: ClassVar[tuple[Kind, ...]] = ()
    has_node_ranges: ClassVar[bool] = True

    def __init__(self, cluster: Cluster, waiting: Collection[str]) -> None:
        self._cluster = cluster
        self._state = cluster.get(HostLocalState, "", "host-local") or HostLocalState()
        self._last = dict(self._state.last_addresses)
        self._taken: dict[str, dict[str, str]] = {name: {} for name in waiting}
        """Node → address → owner."""
        for attachment in cluster.all(Attachment) if waiting else ():
            if attachment.node in self._taken:
                owner = f"pod {attachment.full_name}"
                self._taken[attachment.node] |= dict.fromkeys(attachment.addresses, owner)

    @classmethod
    def can_provide(cls, pod: Pod, node: Node) -> bool:
        ranges = [ip.network(cidr) for cidr in node.spec.pod_cidrs]
        requested = [ip_address(address) for address in pod.requested_addresses]
        return all(
            any(address in cidr for cidr in ranges if cidr.version == address.version)
            for address in requested
        )

    @classmethod
    def ranges(cls, cluster: Cluster, node: Node) -> tuple[NodeRanges, ...]:
        return tuple(NodeRanges((cidr,)) for cidr in node.spec.pod_cidrs)

    def allocate(self, pod: Pod, node: Node) -> tuple[str, ...] | AllocationFailure:
        taken = self._taken[node.name]
        pool = _pool(self._cluster.config.networking.ipam.pools, pod, node.name)
        cursor = node.name if pool is None else f"{node.name} {pool.name}"
        result = (
            _requested(pod, node, taken)
            if pod.requested_addresses
            else _free(self._cluster, pod, node, pool, self._last.get(cursor, ()), taken)
        )
        if not isinstance(result, AllocationFailure):
            taken |= dict.fromkeys(result, f"pod {pod.full_name}")
            if not pod.requested_addresses:
                self._last[cursor] = result
        return result

    def changes(self) -> Iterator[Change]:
        if self._last != self._state.last_addresses:
            yield structs.replace(self._state, last_addresses=self._last)


def _pool(pools: Sequence[Pool], pod: Pod, node: str) -> Pool | None:
    """Return the pool for a pod's addresses; None when it uses the node's range.

    It is the pool that the pod names, or the first one for its namespace and node.
    """
    named = pod.metadata.annotations.get(POOL_ANNOTATION)
    if named is not None:
        return next((pool for pool in pools if pool.name == named), None)
    selective = (pool for pool in pools if (pool.namespaces or pool.nodes) and pool.serves(node))
    return next(
        (pool for pool in selective if not pool.namespaces or pod.namespace in pool.namespaces),
        None,
    )


def _free(
    cluster: Cluster,
    pod: Pod,
    node: Node,
    pool: Pool | None,
    last: Sequence[str],
    taken: Container[str],
) -> tuple[str, ...] | AllocationFailure:
    """Return one free address of each of the node's ranges."""
    named = pod.metadata.annotations.get(POOL_ANNOTATION)
    if named is not None and (pool is None or not pool.serves(node.name)):
        known = (
            ", ".join(
                other.name
                for other in cluster.config.networking.ipam.pools
                if other.serves(node.name)
            )
            or "none"
        )
        return AllocationFailure(f'node {node.name} has no address pool "{named}"; it has: {known}')
    reserved = [
        other
        for other in cluster.config.networking.ipam.pools
        if other is not pool and other.serves(node.name)
    ]
    addresses: list[str] = []
    for cidr, previous in zip(
        node.spec.pod_cidrs, (*last, *[""] * len(node.spec.pod_cidrs)), strict=False
    ):
        subnet = ip.network(cidr)
        first, end = (
            (pool.first, pool.last + 1)
            if pool is not None
            else (FIRST_POD_INDEX, subnet.num_addresses - 1)
        )
        end = min(end, subnet.num_addresses - 1)
        candidates = (
            address
            for address in pod_addresses_after(subnet, previous, first, end)
            if pool is not None or not _is_reserved(address, subnet, reserved)
        )
        address = next(
            (text for candidate in candidates if (text := str(candidate)) not in taken), None
        )
        if address is None:
            shown_first = max(1, first - 1) if pool is None else first
            return AllocationFailure(
                "failed to allocate for range 0: no IP addresses available in range set:"
                f" {subnet[shown_first]}-{subnet[end - 1]}"
            )
        addresses.append(address)
    return tuple(addresses)


def _is_reserved(
    address: IPv4Address | IPv6Address, subnet: Network, pools: Sequence[Pool]
) -> bool:
    """Return True for an address that belongs to a pool."""
    number = int(address) - int(subnet.network_address)
    return any(pool.first <= number <= pool.last for pool in pools)


def _requested(pod: Pod, node: Node, taken: dict[str, str]) -> tuple[str, ...] | AllocationFailure:
    """Return the addresses that the pod requests, in the order of the node's IP families."""
    addresses: list[str] = []
    for cidr in node.spec.pod_cidrs:
        subnet = ip.network(cidr)
        address = requested_address(pod, subnet.version)
        if isinstance(address, AllocationFailure):
            return address
        if address not in subnet or address in (subnet[0], subnet[1], subnet[-1]):
            return AllocationFailure(
                f"requested address {address} is not one of"
                f" {subnet[FIRST_POD_INDEX]}-{subnet[-2]}, the pods' on node {node.name}"
            )
        if str(address) in taken:
            return AllocationFailure(
                f"requested address {address} is in use by {taken[str(address)]}"
            )
        addresses.append(str(address))
    return tuple(addresses)
