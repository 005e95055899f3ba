"""fault controller: removes what a fault has brought once the fault is gone.

It reads faults, the proxy snapshots that faults hold, and nodes. It deletes faults of nodes that
no longer exist and snapshots of faults that no longer exist, and marks snapshots overdue when
their time comes. Kubernetes has no counterpart.
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

WATCHES: Final[tuple[Kind, ...]] = (Fault, ProxySnapshot, Node)


def reconcile(cluster: Cluster, now: float) -> Iterator[Change | Wake]:
    for fault in cluster.all(Fault):
        if fault.spec.node and cluster.node(fault.spec.node) is None:
            yield deletion(fault)
    for snapshot in cluster.all(ProxySnapshot):
        if cluster.get(Fault, "", snapshot.fault) is None:
            yield deletion(snapshot)
        elif not snapshot.is_overdue and now >= snapshot.overdue_at:
            yield structs.replace(snapshot, is_overdue=True)
        elif not snapshot.is_overdue:
            yield Wake(snapshot.overdue_at)


def stopping_fault(cluster: Cluster, pod: Pod) -> Fault | None:
    """Return the fault that stops a pod's processes; None when none does."""
    for fault in cluster.all(Fault):
        for stopped in fault.spec.stops:
            is_selected = (stopped.node, stopped.namespace) == (pod.spec.node_name, pod.namespace)
            if is_selected and stopped.labels.items() <= pod.labels.items():
                return fault
    return None
