"""Which nodes a pod fits on: the scheduler's filters, in their order and with their words.

Source: k8s.io/kubernetes pkg/scheduler/framework/plugins {nodeunschedulable,tainttoleration,nodeaffinity,nodeports,podtopologyspread,
interpodaffinity} (1.33).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from ipaddress import ip_address
from typing import Final

from kubenetlab.api import ip
from kubenetlab.api.core import Namespace, Node, Taint
from kubenetlab.api.meta import matches_labels
from kubenetlab.api.pods import Pod, PodSpec, Toleration
from kubenetlab.api.scheduling import PodAffinityTerm, TopologySpreadConstraint
from kubenetlab.api.store import Cluster
from kubenetlab.controllers.nodes import NOT_READY_TAINT

Filter = Callable[[Pod, Node, "NodeAssignments"], str | None]
AppliesTo = Callable[[Pod, "NodeAssignments"], bool]
"""Whether a filter has anything to say of a pod, on whichever node."""

_ALL_ADDRESSES = ("", "0.0.0.0", "::")


class NodeAssignments:
    """The nodes, and who is on each; grows as pods are bound."""

    def __init__(self, cluster: Cluster) -> None:
        self.nodes: Sequence[Node] = cluster.all(Node)
        self.pods: dict[str, list[Pod]] = {
            node.name: [pod for pod in cluster.pods_on(node.name) if not pod.is_finished]
            for node in self.nodes
        }
        self._namespaces = {
            namespace.name: namespace.labels for namespace in cluster.all(Namespace)
        }
        self.has_repulsion = any(_anti_affinity(pod) for pods in self.pods.values() for pod in pods)
        """True when some pod keeps others away."""
        self._of_specs: dict[int, tuple[PodSpec, dict[str, str]]] = {}
        """A spec, and what keeps it from which nodes, by its identity: a template's pods share theirs."""

    def add(self, pod: Pod, node: str) -> None:
        self.pods[node].append(pod)
        self.has_repulsion |= bool(_anti_affinity(pod))

    def misfits_of_spec(self, pod: Pod) -> dict[str, str]:
        """The nodes from which all pods of this spec are kept, whoever else is there, and why."""
        if id(pod.spec) not in self._of_specs:
            reasons = (
                (node.name, _first_reason(SPEC_FILTERS, pod, node, self)) for node in self.nodes
            )
            self._of_specs[id(pod.spec)] = (
                pod.spec,
                {name: reason for name, reason in reasons if reason is not None},
            )
        return self._of_specs[id(pod.spec)][1]

    def is_meant(self, term: PodAffinityTerm, owner: Pod, other: Pod) -> bool:
        """True when the term of `owner` is about `other`."""
        if term.label_selector is None or not term.label_selector.matches(other.labels):
            return False
        if other.namespace in term.namespaces:
            return True
        if term.namespace_selector is not None:
            return term.namespace_selector.matches(self._namespaces.get(other.namespace, {}))
        return not term.namespaces and other.namespace == owner.namespace

    def in_domain(self, node: Node, key: str) -> Iterator[Pod]:
        """The pods on all nodes that have the node's value of a label."""
        value = node.labels.get(key)
        for other in self.nodes:
            if value is not None and other.labels.get(key) == value:
                yield from self.pods[other.name]


def rejections(pod: Pod, placed: NodeAssignments) -> dict[str, str]:
    """The nodes that the pod cannot run on, and why, in the scheduler's words."""
    concerned = [filter_ for filter_, is_concerned in POD_FILTERS if is_concerned(pod, placed)]
    of_spec = placed.misfits_of_spec(pod)
    if not concerned:
        return of_spec
    reasons = (
        (node.name, of_spec.get(node.name) or _first_reason(concerned, pod, node, placed))
        for node in placed.nodes
    )
    return {name: reason for name, reason in reasons if reason is not None}


def _first_reason(
    filters: Sequence[Filter], pod: Pod, node: Node, placed: NodeAssignments
) -> str | None:
    for filter_ in filters:
        reason = filter_(pod, node, placed)
        if reason is not None:
            return reason
    return None


def tolerates(tolerations: Sequence[Toleration], taint: Taint) -> bool:
    """True when one of the tolerations covers the taint."""
    return any(
        (not toleration.key or toleration.key == taint.key)
        and (not toleration.effect or toleration.effect == taint.effect)
        and (toleration.operator == "Exists" or toleration.value == taint.value)
        for toleration in tolerations
    )


def matches_node(spec: PodSpec, node: Node) -> bool:
    """True when node selector and required node affinity allow the node."""
    required = spec.affinity.node_affinity.required_during_scheduling_ignored_during_execution
    if not matches_labels(spec.node_selector, node.labels):
        return False
    return required is None or any(
        term.matches(node.name, node.labels) for term in required.node_selector_terms
    )


def _unschedulable(pod: Pod, node: Node, placed: NodeAssignments) -> str | None:
    return "node(s) were unschedulable" if node.spec.unschedulable else None


def _taints(pod: Pod, node: Node, placed: NodeAssignments) -> str | None:
    for taint in node.spec.taints:
        if taint.effect == "PreferNoSchedule" or tolerates(pod.spec.tolerations, taint):
            continue
        if taint.key == NOT_READY_TAINT and pod.spec.host_network:
            continue  # what needs no pod network, kube-proxy and the CNI agents themselves, runs before there is one
        return f"node(s) had untolerated taint {taint}"
    return None


def _node_affinity(pod: Pod, node: Node, placed: NodeAssignments) -> str | None:
    return (
        None
        if matches_node(pod.spec, node)
        else "node(s) didn't match Pod's node affinity/selector"
    )


def _addresses(pod: Pod, node: Node, placed: NodeAssignments) -> str | None:
    """A pod that asks for its address can only be where that is routed to."""
    wanted = [ip_address(address) for address in pod.wanted_addresses]
    ranges = [ip.network(cidr) for cidr in node.spec.pod_cidrs]
    is_here = all(
        any(address in cidr for cidr in ranges if cidr.version == address.version)
        for address in wanted
    )
    return None if is_here else "node(s) didn't have the requested pod address in their range"


def _ports(pod: Pod, node: Node, placed: NodeAssignments) -> str | None:
    wanted = pod.spec.host_ports
    taken = [port for other in placed.pods[node.name] for port in other.spec.host_ports]
    is_free = not any(_is_same_port(one, other) for one in wanted for other in taken)
    return None if is_free else "node(s) didn't have free ports for the requested pod ports"


def _is_same_port(one: tuple[str, str, int], other: tuple[str, str, int]) -> bool:
    is_same_address = one[0] == other[0] or one[0] in _ALL_ADDRESSES or other[0] in _ALL_ADDRESSES
    return one[1:] == other[1:] and is_same_address


def _spread(pod: Pod, node: Node, placed: NodeAssignments) -> str | None:
    for constraint in (hard := spread_constraints(pod, "DoNotSchedule")):
        if constraint.topology_key not in node.labels:
            return "node(s) didn't match pod topology spread constraints (missing required label)"
        counts = domain_counts(pod, constraint, hard, placed)
        least = (
            0
            if constraint.min_domains is not None and len(counts) < constraint.min_domains
            else min(counts.values(), default=0)
        )
        is_own = constraint.label_selector is not None and constraint.label_selector.matches(
            pod.labels
        )
        if (
            counts.get(node.labels[constraint.topology_key], 0) + is_own - least
            > constraint.max_skew
        ):
            return "node(s) didn't match pod topology spread constraints"
    return None


def spread_constraints(pod: Pod, when_unsatisfiable: str) -> list[TopologySpreadConstraint]:
    """Those that must hold (DoNotSchedule), or those that only wish (ScheduleAnyway)."""
    return [
        constraint
        for constraint in pod.spec.topology_spread_constraints
        if constraint.when_unsatisfiable == when_unsatisfiable
    ]


def domain_counts(
    pod: Pod,
    constraint: TopologySpreadConstraint,
    together: Sequence[TopologySpreadConstraint],
    placed: NodeAssignments,
) -> dict[str, int]:
    """Domain → how many pods of the constraint are in it; domains of nodes that the pod may go to and that have the labels of all."""
    counts: dict[str, int] = {}
    for node in placed.nodes:
        if any(one.topology_key not in node.labels for one in together) or not matches_node(
            pod.spec, node
        ):
            continue
        domain = node.labels[constraint.topology_key]
        counts.setdefault(domain, 0)
        counts[domain] += sum(_counts(pod, constraint, other) for other in placed.pods[node.name])
    return counts


def _counts(pod: Pod, constraint: TopologySpreadConstraint, other: Pod) -> bool:
    selector = constraint.label_selector
    return (
        selector is not None
        and other.namespace == pod.namespace
        and not other.is_terminating
        and selector.matches(other.labels)
    )


def _pod_affinity(pod: Pod, node: Node, placed: NodeAssignments) -> str | None:
    terms = _affinity(pod)

    def is_meant_by_all(other: Pod) -> bool:
        return all(placed.is_meant(term, pod, other) for term in terms)

    keys = [term.topology_key for term in terms]
    if all(any(is_meant_by_all(other) for other in placed.in_domain(node, key)) for key in keys):
        return None
    has_group = any(
        is_meant_by_all(other)
        for place in placed.nodes
        if any(key in place.labels for key in keys)
        for other in placed.pods[place.name]
    )
    if all(key in node.labels for key in keys) and not has_group and is_meant_by_all(pod):
        return None  # the first of a group that wants to be together goes anywhere
    return "node(s) didn't match pod affinity rules"


def _pod_anti_affinity(pod: Pod, node: Node, placed: NodeAssignments) -> str | None:
    for term in _anti_affinity(pod):
        if any(
            placed.is_meant(term, pod, other) for other in placed.in_domain(node, term.topology_key)
        ):
            return "node(s) didn't match pod anti-affinity rules"
    if not placed.has_repulsion:
        return None
    for other_node in placed.nodes:
        for other in placed.pods[other_node.name]:
            for term in _anti_affinity(other):
                domain = node.labels.get(term.topology_key)
                if (
                    domain is not None
                    and domain == other_node.labels.get(term.topology_key)
                    and placed.is_meant(term, other, pod)
                ):
                    return "node(s) didn't satisfy existing pods anti-affinity rules"
    return None


def _affinity(pod: Pod) -> tuple[PodAffinityTerm, ...]:
    return pod.spec.affinity.pod_affinity.required_during_scheduling_ignored_during_execution


def _anti_affinity(pod: Pod) -> tuple[PodAffinityTerm, ...]:
    return pod.spec.affinity.pod_anti_affinity.required_during_scheduling_ignored_during_execution


SPEC_FILTERS: Final[tuple[Filter, ...]] = (_unschedulable, _taints, _node_affinity)
POD_FILTERS: Final[tuple[tuple[Filter, AppliesTo], ...]] = (
    (_addresses, lambda pod, _: bool(pod.wanted_addresses)),
    (_ports, lambda pod, _: bool(pod.spec.host_ports)),
    (_spread, lambda pod, _: bool(pod.spec.topology_spread_constraints)),
    (_pod_affinity, lambda pod, _: bool(_affinity(pod))),
    (_pod_anti_affinity, lambda pod, placed: placed.has_repulsion or bool(_anti_affinity(pod))),
)
"""In the scheduler's order, behind the others: the first reason is the one that is told."""
