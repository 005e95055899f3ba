"""node controllers: Node objects for the nodes of the Cluster document.

They read the Cluster document, the settings of nodes and the reports of nodes. They write each
Node's addresses, pod ranges, labels, taints and its condition Ready, and delete Nodes that the
document no longer has.
Source: k8s.io/kubernetes pkg/controller/nodeipam (ranges), pkg/kubelet/nodestatus/setters.go
(condition texts).
"""

from collections.abc import Container, Iterator, Mapping, Sequence
from itertools import count
from typing import Final

from msgspec import structs

from kubenetlab.api.apps import DaemonSet
from kubenetlab.api.config import ClusterConfig, Network, NodeConfig
from kubenetlab.api.core import Node, NodeAddress, NodeSpec, NodeStatus, Taint
from kubenetlab.api.lab import NetworkFacts, NodeReport, NodeSettings
from kubenetlab.api.meta import Condition, ObjectMeta, timestamp
from kubenetlab.api.plugins.cni_agents import StoppedAgent
from kubenetlab.api.segments import segment_networks, segment_of
from kubenetlab.api.store import Change, Cluster, Kind, deletion
from kubenetlab.api.validate.node_ranges import free_ranges
from kubenetlab.api.values import ip
from kubenetlab.controllers.admission.admission import make_uid
from kubenetlab.controllers.allocation.node_ranges import requested_ranges
from kubenetlab.controllers.nodes.ipam import has_network, network

WATCHES: Final[tuple[Kind, ...]] = (
    ClusterConfig,
    NetworkFacts,
    Node,
    NodeReport,
    NodeSettings,
    StoppedAgent,
)

CONTROL_PLANE_LABEL = "node-role.kubernetes.io/control-plane"
NOT_READY_TAINT = "node.kubernetes.io/not-ready"
UNSCHEDULABLE_TAINT = "node.kubernetes.io/unschedulable"
NOT_INITIALIZED = "cni plugin not initialized"

FIRST_NODE_ADDRESS = 2
"""Index into the nodes' subnet of the first node's address; the router has the one before."""


def reconcile(cluster: Cluster, now: float) -> Iterator[Change]:
    config = cluster.config
    names = config.node_names
    for kind in (Node, NodeSettings):
        yield from (deletion(obj) for obj in cluster.all(kind) if obj.name not in names)
    known = [node for name in names if (node := cluster.node(name))]
    taken = {address for node in known for address in node.addresses}
    requested = requested_ranges(cluster)
    requested_cidrs = [cidr for cidrs in requested.values() for cidr in cidrs]
    taken_ranges = [
        ip.network(cidr)
        for cidr in (*requested_cidrs, *(cidr for node in known for cidr in node.spec.pod_cidrs))
    ]
    free_addresses = _free_addresses_by_node(config, known, taken)
    free_pod_ranges = [
        free_ranges(
            subnet,
            config.networking.node_mask_size(subnet.version),
            [range_ for range_ in taken_ranges if range_.version == subnet.version],
        )
        for subnet in config.networking.pod_networks
    ]
    has_workers = any(node.role == "worker" for node in config.nodes)
    for node_config, name in zip(config.nodes, names, strict=True):
        old = cluster.node(name)
        addresses = old.addresses if old else tuple(next(free) for free in free_addresses[name])
        pod_cidrs = (
            old.spec.pod_cidrs
            if old
            else requested[name] or tuple(str(next(free)) for free in free_pod_ranges)
        )
        yield _node(cluster, node_config, name, old, addresses, pod_cidrs, has_workers, now)


def _free_addresses_by_node(
    config: ClusterConfig, known: Sequence[Node], taken: Container[str]
) -> Mapping[str, Sequence[Iterator[str]]]:
    """Return the free addresses of each node's segment, one iterator per IP family.

    A new segment gets the smallest number that no node has.
    """
    segment_by_node = dict(zip(config.node_names, config.segments, strict=True))
    numbers = {segment_by_node[node.name]: segment_of(config, node.addresses[0]) for node in known}
    used = frozenset(numbers.values())
    first = 0 if config.fabric.topology == "switched" else 1
    unused = (number for number in count(first) if number not in used)
    for segment in config.segments:
        if segment not in numbers:
            numbers[segment] = next(unused)
    addresses = {
        segment: [
            _free_addresses(subnet, number, taken) for subnet in segment_networks(config, number)
        ]
        for segment, number in numbers.items()
    }
    return {name: addresses[segment] for name, segment in segment_by_node.items()}


def _free_addresses(subnet: Network, segment: int, taken: Container[str]) -> Iterator[str]:
    """Yield the free addresses of a segment's subnet in order.

    MAC addresses follow from the last four bytes of an address. They contain the number of the
    segment, so that no two nodes have equal ones: fd00:172:18:3::3:2.
    """
    first = FIRST_NODE_ADDRESS + (segment << 16 if subnet.version == 6 else 0)
    numbers = range(first, subnet.num_addresses - 1)
    return (address for number in numbers if (address := str(subnet[number])) not in taken)


def _node(
    cluster: Cluster,
    config: NodeConfig,
    name: str,
    old: Node | None,
    addresses: tuple[str, ...],
    pod_cidrs: tuple[str, ...],
    has_workers: bool,
    now: float,
) -> Node:
    is_control_plane = config.role == "control-plane"
    network_error = network_error_of(cluster, name)
    if not network_error and old is None and not _has_agents(cluster):
        network_error = _not_ready(NOT_INITIALIZED)
    settings = cluster.get(NodeSettings, "", name) or NodeSettings(ObjectMeta(name=name))
    taints = (
        [Taint(key=CONTROL_PLANE_LABEL, effect="NoSchedule")]
        if is_control_plane and has_workers
        else []
    )
    if settings.taints is not None:
        taints = list(settings.taints)
    if settings.unschedulable:
        taints += [Taint(key=UNSCHEDULABLE_TAINT, effect="NoSchedule")]
    if network_error:
        taints += [
            Taint(key=NOT_READY_TAINT, effect="NoSchedule"),
            Taint(key=NOT_READY_TAINT, effect="NoExecute"),
        ]
    labels = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        **({CONTROL_PLANE_LABEL: ""} if is_control_plane else {}),
        **config.labels,
        **settings.labels,
    }
    created = ObjectMeta(
        name=name, uid=make_uid("Node", name), creation_timestamp=timestamp(now), generation=1
    )
    report = cluster.get(NodeReport, "", name)
    condition = _ready_condition(network_error, report, now)
    if old and (before := old.status.conditions[0]).status == condition.status:
        condition = structs.replace(condition, last_transition_time=before.last_transition_time)
    return Node(
        metadata=structs.replace(
            old.metadata if old else created,
            labels=labels,
            annotations=settings.metadata.annotations,
        ),
        spec=NodeSpec(
            pod_cidr=pod_cidrs[0],
            pod_cidrs=pod_cidrs,
            taints=tuple(_with_time_added(taint, old, now) for taint in taints),
            unschedulable=settings.unschedulable,
        ),
        status=NodeStatus(
            addresses=(
                *(NodeAddress("InternalIP", address) for address in addresses),
                NodeAddress("Hostname", name),
            ),
            conditions=(condition,),
        ),
    )


def _has_agents(cluster: Cluster) -> bool:
    """Return True if the CNI plugin needs no agents, or their DaemonSet will create one."""
    agent = network(cluster).agent
    return agent is None or cluster.get(DaemonSet, agent.namespace, agent.daemon_set) is not None


def _with_time_added(taint: Taint, old: Node | None, now: float) -> Taint:
    """Return the taint with the time since which pods have to leave."""
    if taint.effect != "NoExecute" or taint.time_added is not None:
        return taint
    old_taint = (
        next(
            (
                candidate
                for candidate in old.spec.taints
                if (candidate.key, candidate.effect) == (taint.key, taint.effect)
            ),
            None,
        )
        if old
        else None
    )
    return structs.replace(
        taint, time_added=old_taint.time_added if old_taint is not None else timestamp(now)
    )


def network_error_of(cluster: Cluster, node: str) -> str:
    """Return why the network of a node is not ready, as the kubelet says it; empty if it is."""
    if not has_network(cluster, node):
        return _not_ready(NOT_INITIALIZED)
    report = cluster.get(NodeReport, "", node)
    return _not_ready(report.network_error) if report is not None and report.network_error else ""


def _not_ready(error: str) -> str:
    return (
        "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady"
        f" message:Network plugin returns error: {error}"
    )


def _ready_condition(network_error: str, report: NodeReport | None, now: float) -> Condition:
    stamp = timestamp(now)
    if report is None or not report.sandbox_pid:
        return Condition(
            "Ready", "Unknown", "NodeStatusNeverUpdated", "Kubelet never posted node status.", stamp
        )
    if network_error:
        return Condition("Ready", "False", "KubeletNotReady", network_error, stamp)
    return Condition("Ready", "True", "KubeletReady", "kubelet is posting ready status", stamp)
