"""Random nodes and pods that use the features of the scheduler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from kubenetlab.api.containers import Container, ContainerPort
from kubenetlab.api.core import Node, NodeSpec, Taint
from kubenetlab.api.meta import LabelSelector, LabelSelectorRequirement, ObjectMeta
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

SPACES = {"default": {}, "far": {"team": "x"}, "near": {"team": "y"}}


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
