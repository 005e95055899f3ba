"""Where a pod may go: affinity to nodes and to other pods, and spreading.

Source: k8s.io/api core/v1/types.go (1.33).
"""

from typing import Annotated, Literal

from msgspec import Meta

from kubenetlab.api.meta import Labels, LabelSelector, Record, Unmodelled

TopologyKey = Annotated[
    str, Meta(min_length=1, title="a label of nodes such as kubernetes.io/hostname")
]


class NodeSelectorRequirement(Record, frozen=True):
    """One condition on a node's label (or name): Gt and Lt compare whole numbers."""

    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]
    values: tuple[str, ...] = ()

    def holds(self, labels: Labels) -> bool:
        """NotIn and DoesNotExist hold for a missing label."""
        value = labels.get(self.key)
        match self.operator:
            case "In":
                return value in self.values
            case "NotIn":
                return value not in self.values
            case "Exists":
                return value is not None
            case "DoesNotExist":
                return value is None
        if (
            value is None
            or not value.lstrip("-").isdigit()
            or len(self.values) != 1
            or not self.values[0].lstrip("-").isdigit()
        ):
            return False
        return (
            int(value) > int(self.values[0])
            if self.operator == "Gt"
            else int(value) < int(self.values[0])
        )


class NodeSelectorTerm(Record, frozen=True):
    """All conditions must hold; a term without any holds for no node."""

    match_expressions: tuple[NodeSelectorRequirement, ...] = ()
    match_fields: tuple[NodeSelectorRequirement, ...] = ()

    def matches(self, name: str, labels: Labels) -> bool:
        fields = {"metadata.name": name}
        parts = [
            *(part.holds(labels) for part in self.match_expressions),
            *(part.holds(fields) for part in self.match_fields),
        ]
        return bool(parts) and all(parts)


class NodeSelector(Record, frozen=True):
    """One of the terms must hold."""

    node_selector_terms: tuple[NodeSelectorTerm, ...]


class NodeAffinity(Record, frozen=True):
    """Which nodes a pod may go to."""

    required_during_scheduling_ignored_during_execution: NodeSelector | None = None
    preferred_during_scheduling_ignored_during_execution: Unmodelled = None


class PodAffinityTerm(Record, kw_only=True, frozen=True):
    """Pods, and the domain of nodes in which they count."""

    topology_key: TopologyKey
    label_selector: LabelSelector | None = None
    """None matches no pod, an empty one all."""
    namespaces: tuple[str, ...] = ()
    namespace_selector: LabelSelector | None = None
    """With neither of the two it is about pods of the pod's own namespace."""
    match_label_keys: Unmodelled = None
    mismatch_label_keys: Unmodelled = None


class PodAffinity(Record, frozen=True):
    """Near (or, as anti-affinity, away from) which pods."""

    required_during_scheduling_ignored_during_execution: tuple[PodAffinityTerm, ...] = ()
    preferred_during_scheduling_ignored_during_execution: Unmodelled = None


class Affinity(Record, frozen=True):
    """Where a pod may go, by nodes and by other pods."""

    node_affinity: NodeAffinity = NodeAffinity()
    pod_affinity: PodAffinity = PodAffinity()
    pod_anti_affinity: PodAffinity = PodAffinity()


class TopologySpreadConstraint(Record, frozen=True):
    """How unevenly pods may lie over the domains of a label."""

    max_skew: Annotated[int, Meta(ge=1, title="a number of pods")]
    topology_key: TopologyKey
    when_unsatisfiable: Literal["DoNotSchedule", "ScheduleAnyway"]
    label_selector: LabelSelector | None = None
    min_domains: Annotated[int, Meta(ge=1, title="a number of domains")] | None = None
    match_label_keys: Unmodelled = None
    node_affinity_policy: Unmodelled = None
    node_taints_policy: Unmodelled = None
