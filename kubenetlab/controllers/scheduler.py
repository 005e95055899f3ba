"""scheduler: binds each pod to the fitting node with the fewest pods.

A pod with scheduling gates is left alone. nodeName goes past it, as in Kubernetes. What fits, fitting.py says; among the nodes that fit, the one with the fewest pods of the
same owner, then with the fewest pods at all, then the first, is taken: an even spread.
Source: k8s.io/kubernetes pkg/scheduler/framework/plugins (filters and their texts); k8s.io/component-helpers scheduling/corev1.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import structs

from kubenetlab.api.core import Namespace, Node
from kubenetlab.api.meta import Condition, timestamp
from kubenetlab.api.pods import Pod
from kubenetlab.api.scheduling import TopologySpreadConstraint
from kubenetlab.api.store import Change, Cluster, Kind
from kubenetlab.controllers.events import event
from kubenetlab.controllers.scheduler_filters import (
    NodeAssignments,
    domain_counts,
    rejections,
    spread_constraints,
)

WATCHES: Final[tuple[Kind, ...]] = (Pod, Node, Namespace)

SCHEDULED = "PodScheduled"
SCHEDULING_GATED = "SchedulingGated"
"""Reason of the condition PodScheduled."""


def reconcile(cluster: Cluster, now: float) -> Iterator[Change]:
    waiting = [pod for pod in cluster.all(Pod) if not pod.spec.node_name and not pod.is_terminating]
    for pod in waiting:
        if pod.spec.scheduling_gates:
            yield from _gated(pod, now)
    waiting = [pod for pod in waiting if not pod.spec.scheduling_gates]
    if not waiting:
        return
    placed = NodeAssignments(cluster)
    siblings: Counter[tuple[str, str]] = Counter(
        (_family(pod), node) for node, pods in placed.pods.items() for pod in pods
    )
    for pod in waiting:
        reasons = rejections(pod, placed)
        fitting = [node for node in placed.nodes if node.name not in reasons]
        if not fitting:
            yield from _unschedulable(cluster, pod, list(reasons.values()), now)
            continue
        wishes, family = spread_constraints(pod, "ScheduleAnyway"), _family(pod)
        skews = {node.name: _skew(pod, node, placed, wishes) for node in fitting} if wishes else {}
        chosen = min(
            (node.name for node in fitting),
            key=lambda name: (skews.get(name, 0), siblings[family, name], len(placed.pods[name])),
        )
        siblings[family, chosen] += 1
        bound = structs.replace(pod, spec=structs.replace(pod.spec, node_name=chosen))
        placed.add(bound, chosen)
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
    pod: Pod, node: Node, placed: NodeAssignments, wishes: Sequence[TopologySpreadConstraint]
) -> int:
    """How many pods lie in the node's domains already, by the constraints that only wish. A node outside all domains comes last."""
    if any(wish.topology_key not in node.labels for wish in wishes):
        return sys.maxsize
    return sum(
        domain_counts(pod, wish, wishes, placed)[node.labels[wish.topology_key]] for wish in wishes
    )


def _family(pod: Pod) -> str:
    owners = pod.metadata.owner_references
    return owners[0].uid if owners else pod.uid


def _gated(pod: Pod, now: float) -> Iterator[Change]:
    """Yield a pod with the condition of one that has scheduling gates.

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


def _unschedulable(
    cluster: Cluster, pod: Pod, reasons: Sequence[str], now: float
) -> Iterator[Change]:
    counts = Counter(reasons)
    parts = ", ".join(sorted(f"{count} {reason}" for reason, count in counts.items()))
    total = len(cluster.all(Node))
    message = f"0/{total} nodes are available: {parts or 'no nodes'}. preemption: 0/{total} nodes are available: {total} Preemption is not helpful for scheduling."
    before = pod.status.condition(SCHEDULED)
    if before is None or before.message != message:
        condition = Condition(SCHEDULED, "False", "Unschedulable", message, timestamp(now))
        yield structs.replace(pod, status=structs.replace(pod.status, conditions=(condition,)))
        yield event(cluster, pod, "Warning", "FailedScheduling", message, "default-scheduler", now)
