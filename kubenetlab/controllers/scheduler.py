"""scheduler: binds each pod to the fitting node with the fewest pods.

nodeName goes past it, as in Kubernetes. Taints, tolerations and nodeSelector decide what fits; among the nodes that fit, the one
with the fewest pods of the same owner, then with the fewest pods at all, then the first, is taken: an even spread.
Source: k8s.io/kubernetes pkg/scheduler/framework/plugins (filters and their texts); k8s.io/component-helpers scheduling/corev1.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import structs

from kubenetlab.api.core import Node, Taint
from kubenetlab.api.meta import Condition, matches_labels, timestamp
from kubenetlab.api.pods import Pod, Toleration
from kubenetlab.api.store import Change, Cluster, Kind
from kubenetlab.controllers.events import event
from kubenetlab.controllers.nodes import NOT_READY_TAINT

WATCHES: Final[tuple[Kind, ...]] = (Pod, Node)

SCHEDULED = "PodScheduled"


def reconcile(cluster: Cluster, now: float) -> Iterator[Change]:
    waiting = [pod for pod in cluster.all(Pod) if not pod.spec.node_name and not pod.is_terminating]
    if not waiting:
        return
    nodes = cluster.all(Node)
    totals: Counter[str] = Counter()
    siblings: Counter[tuple[str, str]] = Counter()
    for pod in cluster.all(Pod):
        if pod.spec.node_name and not pod.is_finished:
            totals[pod.spec.node_name] += 1
            siblings[_family(pod), pod.spec.node_name] += 1
    for pod in waiting:
        reasons = {node.name: reason for node in nodes if (reason := _misfit(pod, node))}
        fitting = [node.name for node in nodes if node.name not in reasons]
        if not fitting:
            yield from _unschedulable(cluster, pod, list(reasons.values()), now)
            continue
        chosen = min(fitting, key=lambda name: (siblings[_family(pod), name], totals[name]))
        totals[chosen] += 1
        siblings[_family(pod), chosen] += 1
        yield structs.replace(pod, spec=structs.replace(pod.spec, node_name=chosen))
        yield event(cluster, pod, "Normal", "Scheduled", f"Successfully assigned {pod.full_name} to {chosen}", "default-scheduler", now)


def tolerates(tolerations: Sequence[Toleration], taint: Taint) -> bool:
    """True when one of the tolerations covers the taint."""
    return any(
        (not toleration.key or toleration.key == taint.key)
        and (not toleration.effect or toleration.effect == taint.effect)
        and (toleration.operator == "Exists" or toleration.value == taint.value)
        for toleration in tolerations
    )


def _family(pod: Pod) -> str:
    owners = pod.metadata.owner_references
    return owners[0].uid if owners else pod.uid


def _misfit(pod: Pod, node: Node) -> str | None:
    """Why the pod cannot run on the node, in the scheduler's words; None when it can."""
    if node.spec.unschedulable:
        return "node(s) were unschedulable"
    for taint in node.spec.taints:
        if taint.effect == "PreferNoSchedule" or tolerates(pod.spec.tolerations, taint):
            continue
        if taint.key == NOT_READY_TAINT and pod.spec.host_network:
            continue  # what needs no pod network, kube-proxy and the CNI agents themselves, runs before there is one
        return f"node(s) had untolerated taint {taint}"
    if not matches_labels(pod.spec.node_selector, node.labels):
        return "node(s) didn't match Pod's node affinity/selector"
    return None


def _unschedulable(cluster: Cluster, pod: Pod, reasons: Sequence[str], now: float) -> Iterator[Change]:
    counts = Counter(reasons)
    parts = ", ".join(sorted(f"{count} {reason}" for reason, count in counts.items()))
    total = len(cluster.all(Node))
    message = f"0/{total} nodes are available: {parts or 'no nodes'}. preemption: 0/{total} nodes are available: {total} Preemption is not helpful for scheduling."
    before = pod.status.condition(SCHEDULED)
    if before is None or before.message != message:
        condition = Condition(SCHEDULED, "False", "Unschedulable", message, timestamp(now))
        yield structs.replace(pod, status=structs.replace(pod.status, conditions=(condition,)))
        yield event(cluster, pod, "Warning", "FailedScheduling", message, "default-scheduler", now)
