"""A second implementation of the scheduler's filters, for comparison.

It is written simply and slowly, from the documentation and the plugins' sources: labels that a node
must have, pods that must run beside it, and even spreading.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from kubenetlab.api.core import Node, Taint
from kubenetlab.api.meta import LabelSelector, LabelSelectorRequirement
from kubenetlab.api.pods import Pod, Toleration
from kubenetlab.api.scheduling import NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm
from tests.unit.controllers.scheduling.random_pods import SPACES


class ReferenceCluster:
    """Nodes and the pods bound to them so far."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = nodes
        self.places: list[tuple[Pod, Node]] = []

    def fits(self, pod: Pod, node: Node) -> bool:
        rules = (
            self.is_open,
            self.is_tolerated,
            self.is_selected,
            self.has_ports,
            self.is_even,
            self.is_near,
            self.is_apart,
        )
        return all(rule(pod, node) for rule in rules)

    def is_open(self, pod: Pod, node: Node) -> bool:
        return not node.spec.unschedulable

    def is_tolerated(self, pod: Pod, node: Node) -> bool:
        hard = [taint for taint in node.spec.taints if taint.effect != "PreferNoSchedule"]
        return all(
            any(covers(toleration, taint) for toleration in pod.spec.tolerations) for taint in hard
        )

    def is_selected(self, pod: Pod, node: Node) -> bool:
        required = (
            pod.spec.affinity.node_affinity.required_during_scheduling_ignored_during_execution
        )
        is_by_labels = all(
            node.labels.get(key) == value for key, value in pod.spec.node_selector.items()
        )
        return is_by_labels and (
            required is None
            or any(is_term_met(term, node) for term in required.node_selector_terms)
        )

    def has_ports(self, pod: Pod, node: Node) -> bool:
        taken = [port for peer, place in self.places if place is node for port in ports_of(peer)]
        for ip, protocol, number in ports_of(pod):
            for other_ip, other_protocol, other_number in taken:
                is_everywhere = "0.0.0.0" in (ip, other_ip)
                if (protocol, number) == (other_protocol, other_number) and (
                    is_everywhere or ip == other_ip
                ):
                    return False
        return True

    def is_even(self, pod: Pod, node: Node) -> bool:
        hard = [
            constraint
            for constraint in pod.spec.topology_spread_constraints
            if constraint.when_unsatisfiable == "DoNotSchedule"
        ]
        eligible = [
            peer
            for peer in self.nodes
            if all(constraint_.topology_key in peer.labels for constraint_ in hard)
            and self.is_selected(pod, peer)
        ]
        for constraint in hard:
            key = constraint.topology_key
            if key not in node.labels:
                return False
            counts = Counter({peer.labels[key]: 0 for peer in eligible})
            for peer, place in self.places:
                is_counted = peer.namespace == pod.namespace and not peer.is_terminating
                if (
                    place in eligible
                    and is_counted
                    and selects(constraint.label_selector, peer.labels)
                ):
                    counts[place.labels[key]] += 1
            least = (
                min(counts.values(), default=0)
                if len(counts) >= (constraint.min_domains or 1)
                else 0
            )
            if (
                counts[node.labels[key]] + selects(constraint.label_selector, pod.labels) - least
                > constraint.max_skew
            ):
                return False
        return True

    def is_near(self, pod: Pod, node: Node) -> bool:
        terms = pod.spec.affinity.pod_affinity.required_during_scheduling_ignored_during_execution
        if any(term.topology_key not in node.labels for term in terms):
            return False
        # One pod must match all terms; then it counts in the domain of each.
        matches = [
            (peer, place)
            for peer, place in self.places
            if terms and all(is_about(term, pod, peer) for term in terms)
        ]
        if all(
            any(is_same_domain(term.topology_key, node, place) for _, place in matches)
            for term in terms
        ):
            return True
        is_anywhere = any(
            term.topology_key in place.labels for _, place in matches for term in terms
        )
        return not is_anywhere and all(is_about(term, pod, pod) for term in terms)

    def is_apart(self, pod: Pod, node: Node) -> bool:
        for peer, place in self.places:
            for owner, subject in ((pod, peer), (peer, pod)):
                affinity = owner.spec.affinity.pod_anti_affinity
                for term in affinity.required_during_scheduling_ignored_during_execution:
                    if is_same_domain(term.topology_key, node, place) and is_about(
                        term, owner, subject
                    ):
                        return False
        return True


def covers(toleration: Toleration, taint: Taint) -> bool:
    if toleration.effect not in ("", taint.effect):
        return False
    if toleration.operator == "Exists":
        return toleration.key in ("", taint.key)
    return (toleration.key, toleration.value) == (taint.key, taint.value)


def is_term_met(term: NodeSelectorTerm, node: Node) -> bool:
    results = [is_met(part, node.labels) for part in term.match_expressions]
    results += [is_met(part, {"metadata.name": node.name}) for part in term.match_fields]
    return results != [] and all(results)


def is_met(
    part: LabelSelectorRequirement | NodeSelectorRequirement, labels: Mapping[str, str]
) -> bool:
    if part.operator in ("In", "NotIn"):
        return (part.key in labels and labels[part.key] in part.values) == (part.operator == "In")
    if part.operator in ("Exists", "DoesNotExist"):
        return (part.key in labels) == (part.operator == "Exists")
    if not labels.get(part.key, "").isdigit():
        return False
    difference = int(labels[part.key]) - int(part.values[0])
    return difference > 0 if part.operator == "Gt" else difference < 0


def selects(selector: LabelSelector | None, labels: Mapping[str, str]) -> bool:
    if selector is None:
        return False
    return set(selector.match_labels.items()) <= set(labels.items()) and all(
        is_met(part, labels) for part in selector.match_expressions
    )


def is_about(term: PodAffinityTerm, owner: Pod, subject: Pod) -> bool:
    spaces = set(term.namespaces)
    if term.namespace_selector is not None:
        spaces |= {
            name for name, labels in SPACES.items() if selects(term.namespace_selector, labels)
        }
    elif not term.namespaces:
        spaces = {owner.namespace}
    return subject.namespace in spaces and selects(term.label_selector, subject.labels)


def is_same_domain(key: str, a: Node, b: Node) -> bool:
    return key in a.labels and a.labels[key] == b.labels.get(key)


def ports_of(pod: Pod) -> Iterable[tuple[str, str, int]]:
    for port in pod.spec.containers[0].ports:
        number = port.container_port if pod.spec.host_network else port.host_port
        if number:
            yield port.host_ip or "0.0.0.0", port.protocol, number
