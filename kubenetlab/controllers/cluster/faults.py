"""fault controller: removes what a fault has brought once the fault is gone.

It reads faults, the proxy snapshots that faults hold, nodes and pods. It deletes faults of nodes
and pods that no longer exist and snapshots of faults that no longer exist, and marks snapshots
overdue when their time comes. Kubernetes has no counterpart.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from msgspec import structs

from kubenetlab.api.core import Node
from kubenetlab.api.faults import Fault
from kubenetlab.api.lab import ProxySnapshot
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Change, Cluster, Kind, deletion
from kubenetlab.controllers.support.wake import Wake

WATCHES: Final[tuple[Kind, ...]] = (Fault, ProxySnapshot, Node, Pod)


def reconcile(cluster: Cluster, now: float) -> Iterator[Change | Wake]:
    for fault in cluster.all(Fault):
        is_without_node = fault.spec.node and cluster.node(fault.spec.node) is None
        if is_without_node or _is_without_pod(cluster, fault):
            yield deletion(fault)
    for snapshot in cluster.all(ProxySnapshot):
        if cluster.get(Fault, "", snapshot.fault) is None:
            yield deletion(snapshot)
        elif not snapshot.is_overdue and now >= snapshot.overdue_at:
            yield structs.replace(snapshot, is_overdue=True)
        elif not snapshot.is_overdue:
            yield Wake(snapshot.overdue_at)


def _is_without_pod(cluster: Cluster, fault: Fault) -> bool:
    """Return True if one of the pods that share addresses has ended or does not exist."""
    names = (name for shared in fault.spec.shares for name in (shared.owner, shared.pod))
    pods = (cluster.get(Pod, *name.split("/")) for name in names)
    return any(pod is None or pod.is_terminating or pod.is_finished for pod in pods)


def stopping_fault(cluster: Cluster, pod: Pod) -> Fault | None:
    """Return the fault that stops a pod's processes; None when none does."""
    for fault in cluster.all(Fault):
        for stopped in fault.spec.stops:
            is_selected = (stopped.node, stopped.namespace) == (pod.spec.node_name, pod.namespace)
            if is_selected and stopped.labels.items() <= pod.labels.items():
                return fault
    return None
