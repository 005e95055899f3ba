"""Whether the cluster is starting, computed once for each plan."""

from __future__ import annotations

from kubenetlab.api.lab import PodRuntimeStatus
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster
from kubenetlab.controllers.kubelet import startup_order
from kubenetlab.datapath.plan_cache import PlanCache


def is_any_pod_starting(cluster: Cluster, cache: PlanCache) -> bool:
    """Return True while the cluster's DNS starts, or a pod awaits its first probe result.

    Programs that do their work once, and may need the network for it, start afterwards
    (startup_order.py).
    """
    return cache.by_identity(
        "is any pod starting",
        lambda: startup_order.is_any_pod_starting(cluster),
        cluster.by_key(Pod),
        cluster.by_key(PodRuntimeStatus),
    )
