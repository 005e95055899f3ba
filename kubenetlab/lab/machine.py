"""What this machine makes of a store: the choices that depend on its kernel and its programs."""

from __future__ import annotations

from kubenetlab.api.lab import Decisions
from kubenetlab.api.store import Cluster
from kubenetlab.datapath.decisions import decide
from kubenetlab.kernel.features import has_br_netfilter, has_command


def decisions(cluster: Cluster) -> Decisions:
    """The choices for a store, on this machine."""
    return decide(cluster, has_br_netfilter=has_br_netfilter(), has_command=has_command)
