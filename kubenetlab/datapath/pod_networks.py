"""Pod network of a cluster as the plan sees it, for code outside of a plan."""

from __future__ import annotations

from collections.abc import Sequence

from kubenetlab.api.lab import Decisions
from kubenetlab.api.store import Cluster
from kubenetlab.datapath.cluster_modes import decided_cni
from kubenetlab.datapath.modes import CNI
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.datapath.view import NodeView, node_views


def pod_network(cluster: Cluster) -> tuple[CNI, Sequence[NodeView]]:
    """Return the CNI mode as the Cluster document selects it, and the views of all nodes."""
    undecided = Decisions(cni_mode="", cni_options={}, neighbors="dynamic")
    cni = decided_cni(cluster.config, undecided)
    return cni, node_views(cluster, undecided, PlanCache())
