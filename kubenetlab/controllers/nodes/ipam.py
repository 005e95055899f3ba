"""IPAM: an address and a host interface for each pod, as the CNI plugins host-local and bridge do.

It reads nodes, pods and the Cluster document, and writes an Attachment for each pod in the pod
network. Addresses are assigned cyclically, so that a released address is not reused at once. A pod
can request its addresses or a pool; addresses of a pool are reserved for it.
Source: containernetworking/plugins plugins/ipam/host-local/backend/allocator/allocator.go.
"""

from collections.abc import Container, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from msgspec import Struct, structs

from kubenetlab import names
from kubenetlab.api.config import ClusterConfig, Network, Pool
from kubenetlab.api.core import Node
from kubenetlab.api.lab import AllocationState, Attachment, NetworkFacts
from kubenetlab.api.meta import ObjectMeta
from kubenetlab.api.pods import POOL_ANNOTATION, Pod
from kubenetlab.api.store import Change, Cluster, Kind
from kubenetlab.api.values import ip
from kubenetlab.controllers.allocation.addresses import pod_addresses_after
from kubenetlab.controllers.support.events import event, is_recorded

WATCHES: Final[tuple[Kind, ...]] = (ClusterConfig, NetworkFacts, Node, Pod, Attachment)

FIRST_POD_INDEX = 2
"""Index into a node's range of the first address for pods."""


class AllocationFailure(Struct, frozen=True):
    """Reason why a pod gets no address, in the plugin's words."""

    message: str


def reconcile(cluster: Cluster, now: float) -> Iterator[Change]:
    facts = network(cluster)
    if not facts.has_network:
        return
    state = cluster.get(AllocationState, "", "ledger") or AllocationState()
    last, numbers = dict(state.last_addresses), dict(state.next_veth)
    waiting = {
        node.name: [pod for pod in cluster.pods_on(node.name) if needs_attachment(cluster, pod)]
        for node in cluster.all(Node)
    }
    taken_on = _taken_addresses(cluster, [name for name, pods in waiting.items() if pods])
    for node in cluster.all(Node):
        for pod in waiting[node.name]:
            taken = taken_on[node.name]
            pool = _pool(cluster.config.networking.ipam.pools, pod, node.name)
            cursor = node.name if pool is None else f"{node.name} {pool.name}"
            result = (
                _requested(pod, node, taken)
                if pod.requested_addresses
                else _free(cluster, pod, node, pool, last.get(cursor, ()), taken)
            )
            if isinstance(result, AllocationFailure):
                yield from _failure_event(cluster, pod, node, facts.plugin, result, now)
                continue
            taken |= dict.fromkeys(result, f"pod {pod.full_name}")
            if not pod.requested_addresses:
                last[cursor] = result
            number = numbers.get(node.name, 0)
            numbers[node.name] = number + 1
            ifname = facts.host_ifname.format(number=number, id=names.link_id(pod.uid))
            meta = ObjectMeta(name=pod.name, namespace=pod.namespace)
            yield Attachment(meta, pod.uid, node.name, ifname, result)
    if last != state.last_addresses or numbers != state.next_veth:
        yield structs.replace(state, last_addresses=last, next_veth=numbers)


def _taken_addresses(cluster: Cluster, nodes: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return node → address → owner for the given nodes."""
    taken: dict[str, dict[str, str]] = {name: {} for name in nodes}
    for attachment in cluster.all(Attachment) if taken else ():
        if attachment.node in taken:
            owner = f"pod {attachment.full_name}"
            taken[attachment.node] |= dict.fromkeys(attachment.addresses, owner)
    return taken


def network(cluster: Cluster) -> NetworkFacts:
    """Return the facts about the cluster's CNI plugin."""
    return cluster.get(NetworkFacts, "", "network") or NetworkFacts()


def attachment_of(cluster: Cluster, pod: Pod) -> Attachment | None:
    """Return the pod's attachment.

    Return None when there is none yet, or only that of an older pod with the same name.
    """
    attachment = cluster.get(Attachment, pod.namespace, pod.name)
    return attachment if attachment is not None and attachment.pod_uid == pod.uid else None


def needs_attachment(cluster: Cluster, pod: Pod) -> bool:
    return (
        not pod.spec.host_network
        and not pod.is_terminating
        and not pod.is_finished
        and attachment_of(cluster, pod) is None
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
    requested = [ip_address(address) for address in pod.requested_addresses]
    addresses: list[str] = []
    for cidr in node.spec.pod_cidrs:
        subnet = ip.network(cidr)
        address = next(
            (address for address in requested if address.version == subnet.version), None
        )
        if address is None:
            shown = ", ".join(pod.requested_addresses)
            return AllocationFailure(
                f"the pod asks for {shown}, and for no IPv{subnet.version} address"
            )
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


def _failure_event(
    cluster: Cluster, pod: Pod, node: Node, plugin: str, failure: AllocationFailure, now: float
) -> Iterator[Change]:
    """Yield the event of a pod that gets no address, once."""
    message = (
        f'Failed to create pod sandbox: plugin type="{plugin}" failed (add): {failure.message}'
    )
    if not is_recorded(cluster, pod, "FailedCreatePodSandBox", message):
        yield event(
            cluster, pod, "Warning", "FailedCreatePodSandBox", message, f"kubelet, {node.name}", now
        )
