"""scheduler: binds each pod to a node.

It reads pods, nodes and namespaces, and writes the node name of pods that have none. Pods with
scheduling gates are not scheduled, and pods with a nodeName bypass it, as in Kubernetes.
scheduler_filters.py selects the feasible nodes. Among them the scheduler picks the node with the
fewest pods of the same owner, then with the fewest pods, then the first: an even spread.
Source: k8s.io/kubernetes pkg/scheduler/framework/plugins (filters and their texts);
k8s.io/component-helpers scheduling/corev1.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import structs

from kubenetlab.api.core import Namespace, Node
from kubenetlab.api.lab import NetworkFacts
from kubenetlab.api.meta import Condition, timestamp
from kubenetlab.api.pods import Pod
from kubenetlab.api.scheduling import TopologySpreadConstraint
from kubenetlab.api.store import Change, Cluster, Kind
from kubenetlab.controllers.nodes import ipam
from kubenetlab.controllers.scheduling.scheduler_filters import (
    NodeAssignments,
    domain_counts,
    rejections,
    spread_constraints,
)
from kubenetlab.controllers.support.events import event

WATCHES: Final[tuple[Kind, ...]] = (Pod, Node, Namespace, NetworkFacts, *ipam.REQUEST_KINDS)

SCHEDULED = "PodScheduled"
"""Type of the condition."""
SCHEDULING_GATED = "SchedulingGated"
"""Reason of the condition PodScheduled."""


def reconcile(cluster: Cluster, now: float) -> Iterator[Change]:
    unbound = [pod for pod in cluster.all(Pod) if not pod.spec.node_name and not pod.is_terminating]
    for pod in unbound:
        if pod.spec.scheduling_gates:
            yield from _mark_gated(pod, now)
    unbound = [pod for pod in unbound if not pod.spec.scheduling_gates]
    if not unbound:
        return
    assignments = NodeAssignments(cluster)
    siblings: Counter[tuple[str, str]] = Counter(
        (_owner_uid(pod), node) for node, pods in assignments.pods.items() for pod in pods
    )
    for pod in unbound:
        reasons = rejections(pod, assignments)
        feasible = [node for node in assignments.nodes if node.name not in reasons]
        if not feasible:
            yield from _mark_unschedulable(cluster, pod, list(reasons.values()), now)
            continue
        preferences, owner = spread_constraints(pod, "ScheduleAnyway"), _owner_uid(pod)
        skews = (
            {node.name: _skew(pod, node, assignments, preferences) for node in feasible}
            if preferences
            else {}
        )
        chosen = min(
            (node.name for node in feasible),
            key=lambda name: (
                skews.get(name, 0),
                siblings[owner, name],
                len(assignments.pods[name]),
            ),
        )
        siblings[owner, chosen] += 1
        bound = structs.replace(pod, spec=structs.replace(pod.spec, node_name=chosen))
        assignments.add(bound, chosen)
        yield bound
        yield event(
            cluster,
            pod,
            "Normal",
            "Scheduled",
            f"Successfully assigned {pod.full_name} to {chosen}",
            "default-scheduler",
            now,
        )


def _skew(
    pod: Pod,
    node: Node,
    assignments: NodeAssignments,
    preferences: Sequence[TopologySpreadConstraint],
) -> int:
    """Return the number of matching pods in the node's topology domains.

    preferences: the pod's ScheduleAnyway constraints. A node that lacks one of their labels comes
    last.
    """
    if any(constraint.topology_key not in node.labels for constraint in preferences):
        return sys.maxsize
    return sum(
        domain_counts(pod, constraint, preferences, assignments)[
            node.labels[constraint.topology_key]
        ]
        for constraint in preferences
    )


def _owner_uid(pod: Pod) -> str:
    """Return the uid of the pod's first owner, or of the pod itself when it has none."""
    owners = pod.metadata.owner_references
    return owners[0].uid if owners else pod.uid


def _mark_gated(pod: Pod, now: float) -> Iterator[Change]:
    """Yield the pod with the condition SchedulingGated, unless it has it already.

    Source: k8s.io/kubernetes pkg/registry/core/pod/strategy.go (applySchedulingGatedCondition).
    """
    before = pod.status.condition(SCHEDULED)
    if before is None or before.reason != SCHEDULING_GATED:
        condition = Condition(
            SCHEDULED,
            "False",
            SCHEDULING_GATED,
            "Scheduling is blocked due to non-empty scheduling gates",
            timestamp(now),
        )
        yield structs.replace(pod, status=structs.replace(pod.status, conditions=(condition,)))


def _mark_unschedulable(
    cluster: Cluster, pod: Pod, reasons: Sequence[str], now: float
) -> Iterator[Change]:
    """Yield the pod with the condition Unschedulable and its event, if its message is new."""
    counts = Counter(reasons)
    parts = ", ".join(sorted(f"{count} {reason}" for reason, count in counts.items()))
    total = len(cluster.all(Node))
    message = (
        f"0/{total} nodes are available: {parts or 'no nodes'}. preemption: 0/{total} nodes are"
        f" available: {total} Preemption is not helpful for scheduling."
    )
    before = pod.status.condition(SCHEDULED)
    if before is None or before.message != message:
        condition = Condition(SCHEDULED, "False", "Unschedulable", message, timestamp(now))
        yield structs.replace(pod, status=structs.replace(pod.status, conditions=(condition,)))
        yield event(cluster, pod, "Warning", "FailedScheduling", message, "default-scheduler", now)
