"""Scheduling constraints of a pod: affinity to nodes and pods, and topology spread.

Source: k8s.io/api core/v1/types.go (1.33).
"""

from typing import Annotated, Literal

from msgspec import Meta

from kubenetlab.api.meta import Labels, LabelSelector, Record, Unmodelled

TopologyKey = Annotated[
    str, Meta(min_length=1, title="a label of nodes such as kubernetes.io/hostname")
]


class NodeSelectorRequirement(Record, frozen=True):
    """Condition on a label, or on the name, of a node."""

    key: str
    """Key of the label, or `metadata.name` in `matchFields`."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]
    """Relation of the label to `values`. Gt and Lt compare whole numbers."""
    values: tuple[str, ...] = ()
    """Values to compare with: one or more for In and NotIn, one for Gt and Lt."""

    def holds(self, labels: Labels) -> bool:
        """Return True if the labels meet the condition.

        A missing label meets NotIn and DoesNotExist.
        """
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
    """Conditions that a node must meet, all of them. A term without conditions matches no node."""

    match_expressions: tuple[NodeSelectorRequirement, ...] = ()
    """Conditions on labels."""
    match_fields: tuple[NodeSelectorRequirement, ...] = ()
    """Conditions on fields. Only `metadata.name` is supported."""

    def matches(self, name: str, labels: Labels) -> bool:
        fields = {"metadata.name": name}
        parts = [
            *(part.holds(labels) for part in self.match_expressions),
            *(part.holds(fields) for part in self.match_fields),
        ]
        return bool(parts) and all(parts)


class NodeSelector(Record, frozen=True):
    """Selector of nodes: the union of its terms."""

    node_selector_terms: tuple[NodeSelectorTerm, ...]
    """Terms of the selector. A node must match one of them."""


class NodeAffinity(Record, frozen=True):
    """Scheduling constraints by nodes."""

    required_during_scheduling_ignored_during_execution: NodeSelector | None = None
    """Nodes that the pod can be scheduled to. All nodes if it is not set."""
    preferred_during_scheduling_ignored_during_execution: Unmodelled = None


class PodAffinityTerm(Record, kw_only=True, frozen=True):
    """Pods to be close to, or away from, and the topology domain in which they count."""

    topology_key: TopologyKey
    """Label of nodes. Nodes with the same value form one domain."""
    label_selector: LabelSelector | None = None
    """Labels of the pods. Matches no pods if it is not set, and all pods if it is empty."""
    namespaces: tuple[str, ...] = ()
    """Namespaces of the pods, in addition to those of `namespaceSelector`.

    If both fields are not set, the namespace of the pod that has the constraint.
    """
    namespace_selector: LabelSelector | None = None
    """Labels of the namespaces of the pods."""
    match_label_keys: Unmodelled = None
    mismatch_label_keys: Unmodelled = None


class PodAffinity(Record, frozen=True):
    """Scheduling constraints by pods on the same node, or in the same topology domain."""

    required_during_scheduling_ignored_during_execution: tuple[PodAffinityTerm, ...] = ()
    """Terms that a node must satisfy, all of them."""
    preferred_during_scheduling_ignored_during_execution: Unmodelled = None


class Affinity(Record, frozen=True):
    """Scheduling constraints by nodes and by other pods."""

    node_affinity: NodeAffinity = NodeAffinity()
    """Nodes that the pod can be scheduled to."""
    pod_affinity: PodAffinity = PodAffinity()
    """Pods that the pod must be close to."""
    pod_anti_affinity: PodAffinity = PodAffinity()
    """Pods that the pod must be away from."""


class TopologySpreadConstraint(Record, frozen=True):
    """Constraint on the distribution of pods over topology domains."""

    max_skew: Annotated[int, Meta(ge=1, title="a number of pods")]
    """Maximum difference between the numbers of pods in any two domains."""
    topology_key: TopologyKey
    """Label of nodes. Nodes with the same value form one domain."""
    when_unsatisfiable: Literal["DoNotSchedule", "ScheduleAnyway"]
    """DoNotSchedule leaves a pod pending. ScheduleAnyway prefers nodes that reduce the skew."""
    label_selector: LabelSelector | None = None
    """Labels of the pods to count. Matches no pods if it is not set."""
    min_domains: Annotated[int, Meta(ge=1, title="a number of domains")] | None = None
    """Minimum number of domains. With fewer, the skew is measured against a domain without pods.
    """
    match_label_keys: Unmodelled = None
    node_affinity_policy: Unmodelled = None
    node_taints_policy: Unmodelled = None
