"""Scheduler filters: the nodes on which a pod can run, and upstream's reason for each other node.

Source: k8s.io/kubernetes pkg/scheduler/framework/plugins {nodeunschedulable,tainttoleration,
nodeaffinity,nodeports,podtopologyspread,interpodaffinity} (1.33).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Final

from kubenetlab.api.core import Node, Taint
from kubenetlab.api.meta import matches_labels
from kubenetlab.api.pods import Pod, PodSpec, Toleration
from kubenetlab.api.scheduling import PodAffinityTerm, TopologySpreadConstraint
from kubenetlab.api.store import Cluster
from kubenetlab.controllers.nodes import ipam
from kubenetlab.controllers.nodes.ipam.allocator import Allocator
from kubenetlab.controllers.nodes.nodes import NOT_READY_TAINT

Filter = Callable[[Pod, Node, "NodeAssignments"], str | None]
"""Return the reason why a pod cannot run on a node; None when it can."""
AppliesTo = Callable[[Pod, "NodeAssignments"], bool]
"""Return True when a filter may reject a pod on some node."""

_ALL_ADDRESSES = ("", "0.0.0.0", "::")


class NodeAssignments:
    """The nodes and the pods on each; pods are added as they are bound."""

    def __init__(self, cluster: Cluster) -> None:
        self.nodes: Sequence[Node] = cluster.all(Node)
        self.pods: dict[str, list[Pod]] = {
            node.name: [pod for pod in cluster.pods_on(node.name) if not pod.is_finished]
            for node in self.nodes
        }
        self._namespaces = cluster.labels_of_namespaces
        self.has_anti_affinity = any(
            _anti_affinity(pod) for pods in self.pods.values() for pod in pods
        )
        """True when a pod on some node has required pod anti-affinity."""
        self._cluster = cluster
        self._spec_rejections: dict[int, tuple[PodSpec, dict[str, str]]] = {}
        """Spec and its rejections by the id of the spec, which all pods of a template share."""

    def add(self, pod: Pod, node: str) -> None:
        self.pods[node].append(pod)
        self.has_anti_affinity |= bool(_anti_affinity(pod))

    @cached_property
    def _allocator(self) -> Allocator:
        """IPAM of the cluster, for pods that request addresses."""
        return ipam.ALLOCATORS[ipam.network(self._cluster).ipam](self._cluster, ())

    def can_provide_addresses(self, pod: Pod, node: Node) -> bool:
        """Return True if the node may have the addresses that the pod requests."""
        return self._allocator.can_provide(pod, node)

    def spec_rejections(self, pod: Pod) -> dict[str, str]:
        """Return node → reason for the nodes that the pod's spec excludes, whatever runs there."""
        if id(pod.spec) not in self._spec_rejections:
            reasons = (
                (node.name, _first_reason(SPEC_FILTERS, pod, node, self)) for node in self.nodes
            )
            self._spec_rejections[id(pod.spec)] = (
                pod.spec,
                {name: reason for name, reason in reasons if reason is not None},
            )
        return self._spec_rejections[id(pod.spec)][1]

    def matches_term(self, term: PodAffinityTerm, owner: Pod, other: Pod) -> bool:
        """Return True when the affinity term of `owner` selects `other`."""
        if term.label_selector is None or not term.label_selector.matches(other.labels):
            return False
        if other.namespace in term.namespaces:
            return True
        if term.namespace_selector is not None:
            return term.namespace_selector.matches(self._namespaces.get(other.namespace, {}))
        return not term.namespaces and other.namespace == owner.namespace

    def in_domain(self, node: Node, key: str) -> Iterator[Pod]:
        """Yield the pods on all nodes with the same value of the label `key` as the node."""
        value = node.labels.get(key)
        for peer in self.nodes:
            if value is not None and peer.labels.get(key) == value:
                yield from self.pods[peer.name]


def rejections(pod: Pod, assignments: NodeAssignments) -> dict[str, str]:
    """Return node → reason, in the scheduler's words, for the nodes that the pod cannot run on."""
    filters = [filter_ for filter_, applies in POD_FILTERS if applies(pod, assignments)]
    by_spec = assignments.spec_rejections(pod)
    if not filters:
        return by_spec
    reasons = (
        (node.name, by_spec.get(node.name) or _first_reason(filters, pod, node, assignments))
        for node in assignments.nodes
    )
    return {name: reason for name, reason in reasons if reason is not None}


def _first_reason(
    filters: Sequence[Filter], pod: Pod, node: Node, assignments: NodeAssignments
) -> str | None:
    for filter_ in filters:
        reason = filter_(pod, node, assignments)
        if reason is not None:
            return reason
    return None


def tolerates(tolerations: Sequence[Toleration], taint: Taint) -> bool:
    """Return True when one of the tolerations covers the taint."""
    return any(
        (not toleration.key or toleration.key == taint.key)
        and (not toleration.effect or toleration.effect == taint.effect)
        and (toleration.operator == "Exists" or toleration.value == taint.value)
        for toleration in tolerations
    )


def matches_node(spec: PodSpec, node: Node) -> bool:
    """Return True when the node selector and the required node affinity allow the node."""
    required = spec.affinity.node_affinity.required_during_scheduling_ignored_during_execution
    if not matches_labels(spec.node_selector, node.labels):
        return False
    return required is None or any(
        term.matches(node.name, node.labels) for term in required.node_selector_terms
    )


def _unschedulable(pod: Pod, node: Node, assignments: NodeAssignments) -> str | None:
    return "node(s) were unschedulable" if node.spec.unschedulable else None


def _taints(pod: Pod, node: Node, assignments: NodeAssignments) -> str | None:
    for taint in node.spec.taints:
        if taint.effect == "PreferNoSchedule" or tolerates(pod.spec.tolerations, taint):
            continue
        if taint.key == NOT_READY_TAINT and pod.spec.host_network:
            continue  # kube-proxy and CNI agents must run before there is a pod network
        return f"node(s) had untolerated taint {taint}"
    return None


def _node_affinity(pod: Pod, node: Node, assignments: NodeAssignments) -> str | None:
    return (
        None
        if matches_node(pod.spec, node)
        else "node(s) didn't match Pod's node affinity/selector"
    )


def _addresses(pod: Pod, node: Node, assignments: NodeAssignments) -> str | None:
    """Reject nodes on which the pod cannot get the addresses that it requests."""
    is_available = assignments.can_provide_addresses(pod, node)
    return None if is_available else "node(s) didn't have the requested pod address in their range"


def _ports(pod: Pod, node: Node, assignments: NodeAssignments) -> str | None:
    requested = pod.spec.host_ports
    taken = [port for peer in assignments.pods[node.name] for port in peer.spec.host_ports]
    is_free = not any(_is_same_port(port, used) for port in requested for used in taken)
    return None if is_free else "node(s) didn't have free ports for the requested pod ports"


def _is_same_port(a: tuple[str, str, int], b: tuple[str, str, int]) -> bool:
    is_same_address = a[0] == b[0] or a[0] in _ALL_ADDRESSES or b[0] in _ALL_ADDRESSES
    return a[1:] == b[1:] and is_same_address


def _spread(pod: Pod, node: Node, assignments: NodeAssignments) -> str | None:
    for constraint in (constraints := spread_constraints(pod, "DoNotSchedule")):
        if constraint.topology_key not in node.labels:
            return "node(s) didn't match pod topology spread constraints (missing required label)"
        counts = domain_counts(pod, constraint, constraints, assignments)
        minimum = (
            0
            if constraint.min_domains is not None and len(counts) < constraint.min_domains
            else min(counts.values(), default=0)
        )
        matches_itself = (
            constraint.label_selector is not None and constraint.label_selector.matches(pod.labels)
        )
        if (
            counts.get(node.labels[constraint.topology_key], 0) + matches_itself - minimum
            > constraint.max_skew
        ):
            return "node(s) didn't match pod topology spread constraints"
    return None


def spread_constraints(pod: Pod, when_unsatisfiable: str) -> list[TopologySpreadConstraint]:
    """Return the pod's spread constraints with this value of whenUnsatisfiable."""
    return [
        constraint
        for constraint in pod.spec.topology_spread_constraints
        if constraint.when_unsatisfiable == when_unsatisfiable
    ]


def domain_counts(
    pod: Pod,
    constraint: TopologySpreadConstraint,
    constraints: Sequence[TopologySpreadConstraint],
    assignments: NodeAssignments,
) -> dict[str, int]:
    """Return domain → number of pods that the constraint selects.

    Only nodes count on which the pod may run and which have the labels of all `constraints`.
    """
    counts: dict[str, int] = {}
    for node in assignments.nodes:
        if any(other.topology_key not in node.labels for other in constraints) or not matches_node(
            pod.spec, node
        ):
            continue
        domain = node.labels[constraint.topology_key]
        counts.setdefault(domain, 0)
        counts[domain] += sum(
            _counts(pod, constraint, peer) for peer in assignments.pods[node.name]
        )
    return counts


def _counts(pod: Pod, constraint: TopologySpreadConstraint, peer: Pod) -> bool:
    selector = constraint.label_selector
    return (
        selector is not None
        and peer.namespace == pod.namespace
        and not peer.is_terminating
        and selector.matches(peer.labels)
    )


def _pod_affinity(pod: Pod, node: Node, assignments: NodeAssignments) -> str | None:
    terms = _affinity(pod)

    def matches_all(peer: Pod) -> bool:
        return all(assignments.matches_term(term, pod, peer) for term in terms)

    keys = [term.topology_key for term in terms]
    if all(any(matches_all(peer) for peer in assignments.in_domain(node, key)) for key in keys):
        return None
    has_match = any(
        matches_all(peer)
        for other_node in assignments.nodes
        if any(key in other_node.labels for key in keys)
        for peer in assignments.pods[other_node.name]
    )
    if all(key in node.labels for key in keys) and not has_match and matches_all(pod):
        return None  # the first pod of a group with affinity to itself may run anywhere
    return "node(s) didn't match pod affinity rules"


def _pod_anti_affinity(pod: Pod, node: Node, assignments: NodeAssignments) -> str | None:
    for term in _anti_affinity(pod):
        if any(
            assignments.matches_term(term, pod, peer)
            for peer in assignments.in_domain(node, term.topology_key)
        ):
            return "node(s) didn't match pod anti-affinity rules"
    if not assignments.has_anti_affinity:
        return None
    for other_node in assignments.nodes:
        for peer in assignments.pods[other_node.name]:
            for term in _anti_affinity(peer):
                domain = node.labels.get(term.topology_key)
                if (
                    domain is not None
                    and domain == other_node.labels.get(term.topology_key)
                    and assignments.matches_term(term, peer, pod)
                ):
                    return "node(s) didn't satisfy existing pods anti-affinity rules"
    return None


def _affinity(pod: Pod) -> tuple[PodAffinityTerm, ...]:
    return pod.spec.affinity.pod_affinity.required_during_scheduling_ignored_during_execution


def _anti_affinity(pod: Pod) -> tuple[PodAffinityTerm, ...]:
    return pod.spec.affinity.pod_anti_affinity.required_during_scheduling_ignored_during_execution


SPEC_FILTERS: Final[tuple[Filter, ...]] = (_unschedulable, _taints, _node_affinity)
"""Filters whose result depends only on the pod's spec and the node."""
POD_FILTERS: Final[tuple[tuple[Filter, AppliesTo], ...]] = (
    (_addresses, lambda pod, _: bool(pod.requested_addresses)),
    (_ports, lambda pod, _: bool(pod.spec.host_ports)),
    (_spread, lambda pod, _: bool(pod.spec.topology_spread_constraints)),
    (_pod_affinity, lambda pod, _: bool(_affinity(pod))),
    (
        _pod_anti_affinity,
        lambda pod, assignments: assignments.has_anti_affinity or bool(_anti_affinity(pod)),
    ),
)
"""Filters that run after SPEC_FILTERS, in the scheduler's order; the first reason is reported."""
