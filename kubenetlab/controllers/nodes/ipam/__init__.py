"""IPAM: addresses and a host interface for each pod in the pod network.

The controller reads nodes, pods, the Cluster document and the facts about the CNI plugin, and
writes an Attachment for each pod, as CNI ADD would return it. The plugin determines the allocator:
one module of this package for each, with a state of its own in the store.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from msgspec import structs

from kubenetlab import names
from kubenetlab.api.config import ClusterConfig
from kubenetlab.api.core import Node
from kubenetlab.api.faults import Fault
from kubenetlab.api.lab import AllocationState, Attachment, NetworkFacts
from kubenetlab.api.meta import ObjectMeta
from kubenetlab.api.object_map import Changes
from kubenetlab.api.plugins.cni_agents import StoppedAgent
from kubenetlab.api.plugins.host_local import host_local_options
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Change, Cluster, Kind, deletion
from kubenetlab.api.values import ip
from kubenetlab.controllers.nodes.ipam import duplicates
from kubenetlab.controllers.nodes.ipam.allocator import AllocationFailure, Allocator
from kubenetlab.controllers.nodes.ipam.blocks import Blocks
from kubenetlab.controllers.nodes.ipam.cluster_pool import ClusterPool
from kubenetlab.controllers.nodes.ipam.external import External
from kubenetlab.controllers.nodes.ipam.host_local import HostLocal
from kubenetlab.controllers.nodes.ipam.ring import Ring
from kubenetlab.controllers.support.events import event, is_recorded

ALLOCATORS: Final[Mapping[str, type[Allocator]]] = {
    "external": External,
    "host-local": HostLocal,
    "cluster-pool": ClusterPool,
    "calico": Blocks,
    "weave": Ring,
}
"""Name of an allocator, as in `NetworkFacts.ipam` → its type."""

REQUEST_KINDS: Final[tuple[Kind, ...]] = tuple(
    dict.fromkeys(kind for type_ in ALLOCATORS.values() for kind in type_.request_kinds)
)
"""Kinds on which it depends, beside nodes and facts, which node has an address that a pod requests.
"""

WATCHES: Final[tuple[Kind, ...]] = (
    ClusterConfig,
    NetworkFacts,
    Node,
    Pod,
    Attachment,
    Fault,
    StoppedAgent,
    *dict.fromkeys(kind for type_ in ALLOCATORS.values() for kind in type_.watches),
)
INCREMENTAL: Final = True


def reconcile(cluster: Cluster, now: float, *, changes: Changes | None = None) -> Iterator[Change]:
    facts = network(cluster)
    if not facts.has_network or not _is_concerned(cluster, changes):
        return
    owners = duplicates.owners(cluster)
    yield from duplicates.corrections(cluster, owners)
    waiting = [
        (node, [pod for pod in cluster.pods_on(node.name) if needs_attachment(cluster, pod)])
        for node in cluster.all(Node)
        if has_network(cluster, node.name)
    ]
    allocator = ALLOCATORS[facts.ipam](
        cluster, frozenset(node.name for node, pods in waiting if pods)
    )
    numbers = _LinkNumbers(cluster)
    for node, pods in waiting:
        failure = _missing_agent(cluster, facts, node)
        for pod in pods:
            owner = owners.get(pod.full_name, "")
            addresses: tuple[str, ...] | AllocationFailure = duplicates.addresses(cluster, owner)
            duplicate_of = owner if addresses and failure is None else ""
            addresses = failure or addresses or allocator.allocate(pod, node)
            if isinstance(addresses, AllocationFailure):
                yield from _failure_event(cluster, pod, node, facts.plugin, addresses, now)
                continue
            ifname = names.host_link(
                facts.host_ifname, numbers.next(node.name), pod.uid, pod.namespace, pod.name
            )
            meta = ObjectMeta(name=pod.name, namespace=pod.namespace)
            yield Attachment(meta, pod.uid, node.name, ifname, addresses, duplicate_of=duplicate_of)
    yield from numbers.changes()
    yield from allocator.changes()


def _is_concerned(cluster: Cluster, changes: Changes | None) -> bool:
    """Return False if only pods have changed, and none of them waits or has waited for addresses.

    Most changes are of this kind: a label, or a status.
    """
    return (
        changes is None
        or any(changes[kind] for kind in WATCHES if kind is not Pod)
        or any(needs_attachment(cluster, pod) for pod in changes.objects(Pod))
    )


def network(cluster: Cluster) -> NetworkFacts:
    """Return the facts about the cluster's CNI plugin."""
    return cluster.get(NetworkFacts, "", "network") or NetworkFacts()


def pod_cidrs(facts: NetworkFacts, node: Node, ranges: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Return the range of each IP family in which a node's gateway has an address.

    It is the range that the IPAM assigns to the node, or else its podCIDR. It is empty if the IPAM
    has assigned none to the node yet.

    ranges: ranges of each family from which the IPAM assigns addresses on the node.
    """
    if not ALLOCATORS[facts.ipam].has_node_ranges:
        return node.spec.pod_cidrs
    return tuple(own[0] if own else "" for own in ranges)


def node_ranges(cluster: Cluster, node: Node) -> list[str]:
    """Return the ranges that contain the gateways of pods, those that a node has."""
    facts = network(cluster)
    ranges = ALLOCATORS[facts.ipam].ranges(cluster, node)
    return [cidr for cidr in pod_cidrs(facts, node, [own.cidrs for own in ranges]) if cidr]


def pod_ranges(cluster: Cluster, node: Node) -> list[str]:
    """Return the ranges that contain the addresses of a node's pods, such as blocks of pools."""
    facts = network(cluster)
    if ALLOCATORS[facts.ipam].has_node_ranges:
        return node_ranges(cluster, node)
    ranges = ALLOCATORS[facts.ipam].ranges(cluster, node)
    return [cidr for own in ranges for cidr in own.cidrs] or node_ranges(cluster, node)


def gateways(cluster: Cluster, node: Node) -> list[str]:
    """Return the gateways of a node's pods, in its ranges; empty if its plugin has others."""
    options = host_local_options(cluster.config.networking)
    cidrs = node_ranges(cluster, node) if network(cluster).has_gateway else ()
    return [str(subnet[options.gateway_number]) for subnet in map(ip.network, cidrs)]


def pod_addresses(cluster: Cluster, node: Node) -> list[str]:
    """Return the first and the last address for pods in a node's ranges, as `first-last`.

    Pools have other addresses of the ranges. The list is empty if the IPAM has no range for a node,
    and without a CNI plugin.
    """
    facts = network(cluster)
    if not facts.has_network or not ALLOCATORS[facts.ipam].has_node_ranges:
        return []
    options = host_local_options(cluster.config.networking)
    subnets = map(ip.network, node_ranges(cluster, node))
    ends = ((subnet, options.ends(subnet)) for subnet in subnets)
    return [f"{subnet[first]}-{subnet[last]}" for subnet, (first, last) in ends]


def without_duplicates(cluster: Cluster) -> Cluster:
    """Return the store as the IPAM makes it without the faults that assign addresses twice."""
    changed = [
        attachment
        for attachment in cluster.all(Attachment)
        if attachment.duplicate_of or attachment.superseded_by
    ]
    if not changed:
        return cluster
    duplicated = [attachment for attachment in changed if attachment.duplicate_of]
    cluster = cluster.with_changes(
        deletion(attachment)
        if attachment.duplicate_of
        else structs.replace(attachment, superseded_by="")
        for attachment in changed
    )
    cluster = cluster.with_changes(reconcile(cluster, 0.0))
    return cluster.with_changes(
        structs.replace(assigned, host_ifname=former.host_ifname)
        for former in duplicated
        if (assigned := cluster.get(Attachment, *former.key)) is not None
    )


def has_network(cluster: Cluster, node: str) -> bool:
    """Return True if a CNI plugin is installed on a node: its agent, if it has one, has run."""
    stopped = cluster.get(StoppedAgent, "", node)
    return network(cluster).has_network and (stopped is None or stopped.has_run)


def _missing_agent(cluster: Cluster, facts: NetworkFacts, node: Node) -> AllocationFailure | None:
    """Return why the CNI plugin attaches no pod to a node: the agent that it needs is stopped."""
    if facts.agent is None or not facts.agent.attach_error:
        return None
    stopped = cluster.get(StoppedAgent, "", node.name)
    return AllocationFailure(facts.agent.attach_error) if stopped is not None else None


def attachment_of(cluster: Cluster, pod: Pod) -> Attachment | None:
    """Return the pod's attachment.

    Return None when there is none yet, or only that of an older pod with the same name.
    """
    attachment = cluster.get(Attachment, pod.namespace, pod.name)
    return attachment if attachment is not None and attachment.pod_uid == pod.uid else None


def is_attached(cluster: Cluster, pod: Pod) -> bool:
    """Return True when nothing has to be done for the network of the pod's sandbox any more."""
    if pod.spec.host_network:
        return True
    attachment = attachment_of(cluster, pod)
    return attachment is not None and bool(attachment.addresses) and not attachment.is_stale


def needs_attachment(cluster: Cluster, pod: Pod) -> bool:
    return (
        attachment_of(cluster, pod) is None
        and not pod.spec.host_network
        and not pod.is_terminating
        and not pod.is_finished
    )


class _LinkNumbers:
    """Numbers of the nodes' ends of pods' links, counted on each node."""

    def __init__(self, cluster: Cluster) -> None:
        self._state = cluster.get(AllocationState, "", "ledger") or AllocationState()
        self._numbers = dict(self._state.next_veth)

    def next(self, node: str) -> int:
        """Return the number of the next link on a node."""
        number = self._numbers.get(node, 0)
        self._numbers[node] = number + 1
        return number

    def changes(self) -> Iterator[Change]:
        if self._numbers != self._state.next_veth:
            yield structs.replace(self._state, next_veth=self._numbers)


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
