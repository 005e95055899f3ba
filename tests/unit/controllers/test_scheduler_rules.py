"""The scheduler against a second implementation of its filters, with random nodes and pods.

The filters are written here a second time, simply and slowly, from the documentation and the
plugins' sources: labels that a node must have, pods that must run beside it, and even spreading.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubenetlab.api.containers import Container, ContainerPort
from kubenetlab.api.core import Event, Namespace, Node, NodeSpec, Taint
from kubenetlab.api.meta import LabelSelector, LabelSelectorRequirement, ObjectMeta, OwnerReference
from kubenetlab.api.pods import Pod, PodSpec, Toleration
from kubenetlab.api.scheduling import (
    Affinity,
    NodeAffinity,
    NodeSelector,
    NodeSelectorRequirement,
    NodeSelectorTerm,
    PodAffinity,
    PodAffinityTerm,
    TopologySpreadConstraint,
)
from kubenetlab.api.store import Cluster
from kubenetlab.controllers import scheduler
from tests.clusters import NOW

EXAMPLES = 300
"""Few of the rules meet in a cluster made by chance, but one is quickly made."""
SPACES = {"default": {}, "far": {"team": "x"}, "near": {"team": "y"}}

# --- random nodes and pods ---

FEATURES = ("nodes", "taints", "ports", "affinity", "anti-affinity", "spread")
EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
KEYS = ("zone", "rack")


class RandomCluster:
    """Random nodes and pods; the pods use scheduling features of the given kinds."""

    def __init__(self, random: Random, features: Sequence[str]) -> None:
        self.pick: Any = random.choice
        self.features = features

    def several(self, feature: str, make: Callable[[], Any]) -> tuple[Any, ...]:
        """Return none, one or two; mostly one."""
        return (
            tuple(make() for _ in range(self.pick([0, 1, 1, 2])))
            if feature in self.features
            else ()
        )

    def nodes(self) -> list[Node]:
        return [self.node(f"n{number}") for number in range(self.pick(range(6)))]

    def node(self, name: str) -> Node:
        labels = {
            "zone": self.pick(["a", "b", ""]),
            "rack": self.pick(["1", "2", "3", ""]),
            "cpus": self.pick(["4", "16", ""]),
        }
        spec = NodeSpec(
            taints=self.several("taints", self.taint),
            unschedulable="taints" in self.features and self.pick([False, False, True]),
        )
        return Node(
            ObjectMeta(name=name, labels={key: value for key, value in labels.items() if value}),
            spec,
        )

    def taint(self) -> Taint:
        return Taint(
            key=self.pick(["k", "l"]), value=self.pick(["", "v"]), effect=self.pick(EFFECTS)
        )

    def pods(self) -> list[Pod]:
        return [self.pod(f"p{number}") for number in range(self.pick(range(1, 9)))]

    def pod(self, name: str) -> Pod:
        meta = ObjectMeta(
            name=name,
            namespace=self.pick(["default", "default", "default", "far", "near"]),
            uid=name,
            labels=self.labels(),
            deletion_timestamp=self.pick([None, None, "2023-11-14T22:13:20Z"]),
        )
        has_nodes = "nodes" in self.features
        required = (
            NodeSelector((self.term(), *self.several("nodes", self.term)))
            if has_nodes and self.pick([True, False])
            else None
        )
        spec = PodSpec(
            containers=(Container("main", "agnhost", ports=self.several("ports", self.port)),),
            node_name=self.pick(
                ["n0", "n1", "n2", ""]
                if meta.deletion_timestamp
                else ["", "", "", "", "n0", "gone"]
            ),
            node_selector=self.pick([{}, {}, {"zone": "a"}]) if has_nodes else {},
            affinity=Affinity(
                NodeAffinity(required),
                PodAffinity(self.several("affinity", self.pod_term)),
                PodAffinity(self.several("anti-affinity", self.pod_term)),
            ),
            topology_spread_constraints=self.several("spread", self.spread),
            tolerations=self.several("taints", self.toleration),
            host_network="ports" in self.features and self.pick([True, False]),
        )
        return Pod(meta, spec)

    def labels(self) -> dict[str, str]:
        labels: dict[str, str] = self.pick([{"app": "web"}, {"app": "web"}, {"app": "db"}, {}])
        return labels

    def toleration(self) -> Toleration:
        effect = self.pick(["", *EFFECTS])
        if self.pick([True, False]):
            return Toleration(key=self.pick(["", "k"]), operator="Exists", effect=effect)
        return Toleration(key=self.pick(["k", "l"]), value=self.pick(["", "v"]), effect=effect)

    def port(self) -> ContainerPort:
        address = self.pick(["", "0.0.0.0", "10.0.0.1", "10.0.0.2"])
        return ContainerPort(
            self.pick([80, 81]),
            protocol=self.pick(["TCP", "UDP"]),
            host_port=self.pick([0, 80, 81]),
            host_ip=address,
        )

    def term(self) -> NodeSelectorTerm:
        names = NodeSelectorRequirement("metadata.name", "In", ("n0", "n1"))
        return NodeSelectorTerm(
            self.several("nodes", self.expression), self.pick([(), (), (names,)])
        )

    def expression(self) -> NodeSelectorRequirement:
        operator = self.pick(["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"])
        if operator in ("Gt", "Lt"):
            return NodeSelectorRequirement(
                self.pick(["cpus", "zone"]), operator, self.pick([("4",), ("8",)])
            )
        values = self.pick([("a",), ("b", "1"), ("2", "3")]) if operator in ("In", "NotIn") else ()
        return NodeSelectorRequirement(self.pick(KEYS), operator, values)

    def pod_term(self) -> PodAffinityTerm:
        return PodAffinityTerm(
            topology_key=self.pick(KEYS),
            label_selector=self.selector(),
            namespaces=self.pick([(), (), ("far",), ("far", "default")]),
            namespace_selector=self.pick(
                [None, None, LabelSelector(), LabelSelector({"team": "x"})]
            ),
        )

    def selector(self) -> LabelSelector | None:
        expression = LabelSelectorRequirement("app", self.pick(["In", "NotIn"]), ("web",))
        presence = LabelSelectorRequirement("app", self.pick(["Exists", "DoesNotExist"]))
        web = LabelSelector({"app": "web"})
        choices = (None, LabelSelector(), web, web, web, LabelSelector({"app": "db"}))
        selector: LabelSelector | None = self.pick(
            [
                *choices,
                LabelSelector(match_expressions=(expression,)),
                LabelSelector({"app": "web"}, (presence,)),
            ]
        )
        return selector

    def spread(self) -> TopologySpreadConstraint:
        hardness = self.pick(["DoNotSchedule", "DoNotSchedule", "ScheduleAnyway"])
        return TopologySpreadConstraint(
            self.pick([1, 2]),
            self.pick(KEYS),
            hardness,
            self.selector(),
            self.pick([None, None, 2, 3]),
        )


# --- the reference implementation ---


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


# --- tests ---


def scheduled(cluster: Cluster) -> Cluster:
    """Return the store when the scheduler has nothing more to do."""
    while (after := cluster.with_changes(scheduler.reconcile(cluster, NOW))) is not cluster:
        cluster = after
    return cluster


@pytest.mark.parametrize(
    "features", [*((feature,) for feature in FEATURES), ("nodes", "spread"), FEATURES], ids="-".join
)
@settings(max_examples=EXAMPLES)
@given(random=st.randoms(use_true_random=True))
def test_pods_are_bound_only_where_the_reference_allows(
    features: tuple[str, ...], random: Random
) -> None:
    """Every pod that fits a node is bound; the others wait as in the reference, with an event."""
    namespaces = [
        Namespace(ObjectMeta(name=name, labels=labels)) for name, labels in SPACES.items()
    ]
    chance = RandomCluster(random, features)
    cluster = Cluster().with_changes([*namespaces, *chance.nodes(), *chance.pods()])
    after = scheduled(cluster)
    world = ReferenceCluster(cluster.all(Node))
    by_name = {node.name: node for node in world.nodes}
    world.places = [
        (pod, by_name[pod.spec.node_name])
        for pod in cluster.all(Pod)
        if pod.spec.node_name in by_name
    ]
    waiting = [pod for pod in cluster.all(Pod) if not pod.spec.node_name and not pod.is_terminating]
    is_progress = True
    while is_progress:
        is_progress = False
        for pod in list(waiting):
            fitting = [node.name for node in world.nodes if world.fits(pod, node)]
            chosen = after.get(Pod, pod.namespace, pod.name).spec.node_name  # type: ignore[union-attr]
            assert bool(fitting) <= (chosen in fitting), (
                f"{pod.name} is on {chosen or 'no node'}, and fits on {fitting}"
            )
            if fitting:
                world.places.append((pod, by_name[chosen]))
                waiting.remove(pod)
                is_progress = True
    unbound = [pod for pod in after.all(Pod) if not pod.spec.node_name and not pod.is_terminating]
    assert [pod.name for pod in unbound] == [pod.name for pod in waiting]
    for pod in unbound:
        condition = pod.status.condition("PodScheduled")
        assert condition is not None
        assert condition.message.startswith(f"0/{len(world.nodes)} nodes are available: ")
        assert any(
            event.involved_object.name == pod.name and event.reason == "FailedScheduling"
            for event in after.all(Event)
        )


@given(st.integers(1, 6), st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_pods_without_constraints_are_spread_evenly(count: int, replicas: list[int]) -> None:
    """Per owner the nodes differ by at most one pod, and no node is left empty."""
    nodes = [Node(ObjectMeta(name=f"n{number}")) for number in range(count)]
    pods = [
        Pod(
            ObjectMeta(
                name=f"{owner}-{number}",
                namespace="default",
                owner_references=(OwnerReference("v1", "X", "x", str(owner), True),),
            ),
            PodSpec((Container("m", "i"),)),
        )
        for owner, size in enumerate(replicas)
        for number in range(size)
    ]
    after = scheduled(Cluster().with_changes([*nodes, *pods]))
    for owner in range(len(replicas)):
        counts = Counter({node.name: 0 for node in nodes})
        counts.update(
            pod.spec.node_name for pod in after.all(Pod) if pod.name.startswith(f"{owner}-")
        )
        assert max(counts.values()) - min(counts.values()) <= 1
    assert len({pod.spec.node_name for pod in after.all(Pod)}) == min(count, len(pods))
