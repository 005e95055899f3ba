"""faults: what lasts as long as a fault does, and goes with it. A fault goes with its node."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from msgspec import structs

from kubenetlab.api.core import Node
from kubenetlab.api.faults import Fault
from kubenetlab.api.lab import ProxySnapshot
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Change, Cluster, Kind, deletion
from kubenetlab.controllers.wake import Wake

WATCHES: Final[tuple[Kind, ...]] = (Fault, ProxySnapshot, Node)


def reconcile(cluster: Cluster, now: float) -> Iterator[Change | Wake]:
    for fault in cluster.all(Fault):
        if fault.spec.node and cluster.node(fault.spec.node) is None:
            yield deletion(fault)
    for view in cluster.all(ProxySnapshot):
        if cluster.get(Fault, "", view.fault) is None:
            yield deletion(view)
        elif not view.is_overdue and now >= view.overdue_at:
            yield structs.replace(view, is_overdue=True)
        elif not view.is_overdue:
            yield Wake(view.overdue_at)


def what_stops(cluster: Cluster, pod: Pod) -> Fault | None:
    """The fault for which a pod's processes do not run."""
    for fault in cluster.all(Fault):
        for stopped in fault.spec.stops:
            is_there = (stopped.node, stopped.namespace) == (pod.spec.node_name, pod.namespace)
            if is_there and stopped.labels.items() <= pod.labels.items():
                return fault
    return None
