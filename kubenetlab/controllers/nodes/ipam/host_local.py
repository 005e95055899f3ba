"""host-local: each node has a range of addresses, its pod CIDR, as the plugin of this name does.

Addresses are assigned cyclically, so that a released address is not reused at once. The option
`ipam` of the CNI modes bridge and ptp selects the gateway, and the part of the range for pods. A
pod can request its addresses or a pool; addresses of a pool are reserved for it.
Source: containernetworking/plugins plugins/ipam/host-local/backend/allocator/allocator.go.
"""

from collections.abc import Collection, Iterator, Sequence
from itertools import chain, repeat
from typing import ClassVar

from msgspec import structs

from kubenetlab.api.config import Network, Pool
from kubenetlab.api.core import Node
from kubenetlab.api.lab import Attachment
from kubenetlab.api.plugins.allocations import HostLocalState
from kubenetlab.api.plugins.host_local import host_local_options
from kubenetlab.api.pods import POOL_ANNOTATION, Pod
from kubenetlab.api.store import Change, Cluster, Kind
from kubenetlab.api.values import ip
from kubenetlab.controllers.allocation.addresses import Address, pod_numbers_after
from kubenetlab.controllers.nodes.ipam.allocator import (
    AllocationFailure,
    NodeRanges,
    contain_request,
    requested_address,
)


class HostLocal:
    """Allocator of addresses from the pod ranges of nodes."""

    watches: ClassVar[tuple[Kind, ...]] = ()
    request_kinds: ClassVar[tuple[Kind, ...]] = ()
    has_node_ranges: ClassVar[bool] = True

    def __init__(self, cluster: Cluster, waiting: Collection[str]) -> None:
        self._cluster = cluster
        self._options = host_local_options(cluster.config.networking)
        self._state = cluster.get(HostLocalState, "", "host-local") or HostLocalState()
        self._last = dict(self._state.last_addresses)
        self._taken: dict[str, dict[str, str]] = {name: {} for name in waiting}
        """Node → address → owner."""
        for attachment in cluster.all(Attachment) if waiting else ():
            if attachment.node in self._taken:
                owner = f"pod {attachment.full_name}"
                self._taken[attachment.node] |= dict.fromkeys(attachment.addresses, owner)

    def can_provide(self, pod: Pod, node: Node) -> bool:
        return contain_request(node.spec.pod_cidrs, pod)

    @classmethod
    def ranges(cls, cluster: Cluster, node: Node) -> tuple[NodeRanges, ...]:
        return tuple(NodeRanges((cidr,)) for cidr in node.spec.pod_cidrs)

    def allocate(self, pod: Pod, node: Node) -> tuple[str, ...] | AllocationFailure:
        taken = self._taken[node.name]
        pool = _pool(self._cluster.config.networking.ipam.pools, pod, node.name)
        cursor = node.name if pool is None else f"{node.name} {pool.name}"
        result = (
            self._requested(pod, node)
            if pod.requested_addresses
            else self._free(pod, node, pool, self._last.get(cursor, ()))
        )
        if not isinstance(result, AllocationFailure):
            taken |= dict.fromkeys(result, f"pod {pod.full_name}")
            if not pod.requested_addresses:
                self._last[cursor] = result
        return result

    def changes(self) -> Iterator[Change]:
        if self._last != self._state.last_addresses:
            yield structs.replace(self._state, last_addresses=self._last)

    def _free(
        self, pod: Pod, node: Node, pool: Pool | None, latest: Sequence[str]
    ) -> tuple[str, ...] | AllocationFailure:
        """Return one free address of each of the node's ranges.

        latest: address of each range that was assigned last.
        """
        taken, pools = self._taken[node.name], self._cluster.config.networking.ipam.pools
        if failure := _pool_failure(pod, node, pool, pools):
            return failure
        reserved = [other for other in pools if other is not pool and other.serves(node.name)]
        addresses: list[str] = []
        for cidr, previous in zip(node.spec.pod_cidrs, chain(latest, repeat("")), strict=False):
            subnet = ip.network(cidr)
            gateway = self._options.gateway_of(subnet)
            first, last = (
                (pool.first, min(pool.last, subnet.num_addresses - 2))
                if pool is not None
                else (self._options.first(subnet), self._options.last(subnet))
            )
            candidates = (
                str(subnet[number])
                for number in pod_numbers_after(subnet, previous, first, last + 1)
                if number != gateway and (pool is not None or not _is_reserved(number, reserved))
            )
            address = next((text for text in candidates if text not in taken), None)
            if address is None:
                return AllocationFailure(
                    "failed to allocate for range 0: no IP addresses available in range set:"
                    f" {subnet[first]}-{subnet[last]}"
                )
            addresses.append(address)
        return tuple(addresses)

    def _requested(self, pod: Pod, node: Node) -> tuple[str, ...] | AllocationFailure:
        """Return the addresses that the pod requests, in the order of the node's IP families."""
        taken = self._taken[node.name]
        addresses: list[str] = []
        for cidr in node.spec.pod_cidrs:
            subnet = ip.network(cidr)
            address = requested_address(pod, subnet.version)
            if isinstance(address, AllocationFailure):
                return address
            if failure := self._request_failure(address, subnet, node.name):
                return failure
            if str(address) in taken:
                return AllocationFailure(
                    f"requested address {address} is in use by {taken[str(address)]}"
                )
            addresses.append(str(address))
        return tuple(addresses)

    def _request_failure(
        self, address: Address, subnet: Network, node: str
    ) -> AllocationFailure | None:
        """Return a failure if no pod of the node may have the address, by pools or by the range."""
        gateway = self._options.gateway_of(subnet)
        first, last = self._options.ends(subnet)
        number = int(address) - int(subnet.network_address)
        pools = self._cluster.config.networking.ipam.pools
        if first < number == gateway < last:
            return AllocationFailure(f"requested address {address} is the gateway on node {node}")
        if first <= number <= last or any(
            pool.first <= number <= pool.last for pool in pools if pool.serves(node)
        ):
            return None
        return AllocationFailure(
            f"requested address {address} is not one of"
            f" {subnet[first]}-{subnet[last]}, the pods' on node {node}"
        )


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


def _pool_failure(
    pod: Pod, node: Node, pool: Pool | None, pools: Sequence[Pool]
) -> AllocationFailure | None:
    """Return a failure if the pod names a pool that its node does not have."""
    named = pod.metadata.annotations.get(POOL_ANNOTATION)
    if named is None or (pool is not None and pool.serves(node.name)):
        return None
    known = ", ".join(other.name for other in pools if other.serves(node.name)) or "none"
    return AllocationFailure(f'node {node.name} has no address pool "{named}"; it has: {known}')


def _is_reserved(number: int, pools: Sequence[Pool]) -> bool:
    """Return True for the number of an address that belongs to a pool."""
    return any(pool.first <= number <= pool.last for pool in pools)
