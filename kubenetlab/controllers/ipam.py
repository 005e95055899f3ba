"""IPAM: an address and an interface for each pod on a node, as the CNI plugins host-local and bridge give them.

Addresses go round: the one behind the last given out is tried first, so what is freed is not used again at once. A pod may ask for
its addresses, or for a pool; what belongs to a pool is given to nobody else.
Source: containernetworking/plugins plugins/ipam/host-local/backend/allocator/allocator.go.
"""

from collections.abc import Container, Iterator, Sequence
from ipaddress import ip_address
from typing import Final

from msgspec import Struct, structs

from kubenetlab.api import ip
from kubenetlab.api.config import ClusterConfig, Network, Pool
from kubenetlab.api.core import Node
from kubenetlab.api.lab import AllocationState, Attachment, NetworkFacts
from kubenetlab.api.meta import ObjectMeta
from kubenetlab.api.pods import POOL_ANNOTATION, Pod
from kubenetlab.api.store import Change, Cluster, Kind
from kubenetlab.controllers.addresses import pod_addresses_after
from kubenetlab.controllers.events import event, is_recorded

WATCHES: Final[tuple[Kind, ...]] = (ClusterConfig, NetworkFacts, Node, Pod, Attachment)

FIRST_POD_NUMBER = 2
"""The first number in a node's range that a pod may have."""


class AllocationFailure(Struct, frozen=True):
    """Why a pod gets no address, in the plugin's words."""

    message: str


def reconcile(cluster: Cluster, now: float) -> Iterator[Change]:
    facts = network(cluster)
    if not facts.has_network:
        return
    ledger = cluster.get(AllocationState, "", "ledger") or AllocationState()
    last, numbers = dict(ledger.last_addresses), dict(ledger.next_veth)
    waiting = {
        node.name: [pod for pod in cluster.pods_on(node.name) if needs_attachment(cluster, pod)]
        for node in cluster.all(Node)
    }
    taken_on: dict[str, dict[str, str]] = {name: {} for name, pods in waiting.items() if pods}
    """Node → address → whose it is, where somebody waits for one."""
    for attachment in cluster.all(Attachment) if taken_on else ():
        if attachment.node in taken_on:
            taken_on[attachment.node] |= dict.fromkeys(
                attachment.addresses, f"pod {attachment.full_name}"
            )
    for node in cluster.all(Node):
        for pod in waiting[node.name]:
            taken = taken_on[node.name]
            pool = _pool(cluster.config.networking.ipam.pools, pod, node.name)
            place = node.name if pool is None else f"{node.name} {pool.name}"
            found = (
                _asked_for(pod, node, taken)
                if pod.wanted_addresses
                else _free(cluster, pod, node, pool, last.get(place, ()), taken)
            )
            if isinstance(found, AllocationFailure):
                yield from _refused(cluster, pod, node, facts.plugin, found, now)
                continue
            taken |= dict.fromkeys(found, f"pod {pod.full_name}")
            if not pod.wanted_addresses:
                last[place] = found
            number = numbers.get(node.name, 0)
            numbers[node.name] = number + 1
            ifname = facts.host_ifname.format(number=number)
            yield Attachment(
                ObjectMeta(name=pod.name, namespace=pod.namespace),
                pod.uid,
                node.name,
                ifname,
                found,
            )
    if last != ledger.last_addresses or numbers != ledger.next_veth:
        yield structs.replace(ledger, last_addresses=last, next_veth=numbers)


def network(cluster: Cluster) -> NetworkFacts:
    """What is known of the cluster's CNI plugin."""
    return cluster.get(NetworkFacts, "", "network") or NetworkFacts()


def attachment_of(cluster: Cluster, pod: Pod) -> Attachment | None:
    """The pod's attachment; None before it has one, and for an older pod of the same name."""
    found = cluster.get(Attachment, pod.namespace, pod.name)
    return found if found is not None and found.pod_uid == pod.uid else None


def needs_attachment(cluster: Cluster, pod: Pod) -> bool:
    return (
        not pod.spec.host_network
        and not pod.is_terminating
        and not pod.is_finished
        and attachment_of(cluster, pod) is None
    )


def _pool(pools: Sequence[Pool], pod: Pod, node: str) -> Pool | None:
    """The pool that a pod takes its addresses from: the one it names, or the first that is for its namespace and node."""
    named = pod.metadata.annotations.get(POOL_ANNOTATION)
    if named is not None:
        return next((pool for pool in pools if pool.name == named), None)
    meant = (pool for pool in pools if (pool.namespaces or pool.nodes) and pool.serves(node))
    return next(
        (pool for pool in meant if not pool.namespaces or pod.namespace in pool.namespaces), None
    )


def _free(
    cluster: Cluster,
    pod: Pod,
    node: Node,
    pool: Pool | None,
    last: Sequence[str],
    taken: Container[str],
) -> tuple[str, ...] | AllocationFailure:
    """One free address of each of the node's ranges."""
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
    others = [
        other
        for other in cluster.config.networking.ipam.pools
        if other is not pool and other.serves(node.name)
    ]
    found: list[str] = []
    for cidr, latest in zip(
        node.spec.pod_cidrs, (*last, *[""] * len(node.spec.pod_cidrs)), strict=False
    ):
        subnet = ip.network(cidr)
        first, end = (
            (pool.first, pool.last + 1)
            if pool is not None
            else (FIRST_POD_NUMBER, subnet.num_addresses - 1)
        )
        end = min(end, subnet.num_addresses - 1)
        candidates = (
            address
            for address in pod_addresses_after(subnet, latest, first, end)
            if pool is not None or not _is_kept(address, subnet, others)
        )
        address = next(
            (text for candidate in candidates if (text := str(candidate)) not in taken), None
        )
        if address is None:
            return AllocationFailure(
                f"failed to allocate for range 0: no IP addresses available in range set: {subnet[max(1, first - 1)] if pool is None else subnet[first]}-{subnet[end - 1]}"
            )
        found.append(address)
    return tuple(found)


def _is_kept(address: object, subnet: Network, pools: Sequence[Pool]) -> bool:
    """True for an address that belongs to a pool."""
    number = int(address) - int(subnet.network_address)  # type: ignore[call-overload]
    return any(pool.first <= number <= pool.last for pool in pools)


def _asked_for(pod: Pod, node: Node, taken: dict[str, str]) -> tuple[str, ...] | AllocationFailure:
    """The addresses that the pod's annotation names, in the order of the node's families."""
    wanted = [ip_address(address) for address in pod.wanted_addresses]
    found: list[str] = []
    for cidr in node.spec.pod_cidrs:
        subnet = ip.network(cidr)
        address = next((address for address in wanted if address.version == subnet.version), None)
        if address is None:
            return AllocationFailure(
                f"the pod asks for {', '.join(pod.wanted_addresses)}, and for no IPv{subnet.version} address"
            )
        if address not in subnet or address in (subnet[0], subnet[1], subnet[-1]):
            return AllocationFailure(
                f"requested address {address} is not one of {subnet[FIRST_POD_NUMBER]}-{subnet[-2]}, the pods' on node {node.name}"
            )
        if str(address) in taken:
            return AllocationFailure(
                f"requested address {address} is in use by {taken[str(address)]}"
            )
        found.append(str(address))
    return tuple(found)


def _refused(
    cluster: Cluster, pod: Pod, node: Node, plugin: str, why: AllocationFailure, now: float
) -> Iterator[Change]:
    message = f'Failed to create pod sandbox: plugin type="{plugin}" failed (add): {why.message}'
    if not is_recorded(cluster, pod, "FailedCreatePodSandBox", message):
        yield event(
            cluster, pod, "Warning", "FailedCreatePodSandBox", message, f"kubelet, {node.name}", now
        )
