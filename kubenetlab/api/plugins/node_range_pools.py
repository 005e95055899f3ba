"""Pools from which a CNI plugin assigns ranges of pod addresses to nodes."""

from __future__ import annotations

from kubenetlab.api.config import Network, Networking
from kubenetlab.api.meta import Record
from kubenetlab.api.values import ip


class NodeRangePools(Record, frozen=True):
    """Pools of one IP family from which a CNI plugin assigns ranges to nodes."""

    version: int
    """IP version."""
    cidrs: tuple[str, ...] = ()
    """Pools, in the order in which they are used; the pod range of the cluster if empty."""
    length: int = 0
    """Prefix length of the ranges; that of the cluster's nodeCIDRMaskSize if 0."""

    def networks(self, networking: Networking) -> tuple[Network, ...]:
        """Return the pools in a cluster with these settings."""
        if self.cidrs:
            return tuple(map(ip.network, self.cidrs))
        return tuple(
            network for network in networking.pod_networks if network.version == self.version
        )

    def range_length(self, networking: Networking) -> int:
        """Return the prefix length of the ranges in a cluster with these settings."""
        return self.length or networking.node_mask_size(self.version)
