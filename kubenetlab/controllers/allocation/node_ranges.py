"""Pod ranges that nodes request, and their conflicts with the ranges in use."""

from __future__ import annotations

from collections.abc import Iterator

from kubenetlab.api.lab import NodeSettings
from kubenetlab.api.store import Cluster
from kubenetlab.api.validate.node_ranges import RangeFault, range_faults


def requested_ranges(cluster: Cluster) -> dict[str, tuple[str, ...]]:
    """Return node → requested pod ranges, from its own document or else from the Cluster document.

    The ranges are empty for nodes that take the next free ones.
    """
    requested = {}
    for node, name in zip(cluster.config.nodes, cluster.config.node_names, strict=True):
        settings = cluster.get(NodeSettings, "", name)
        requested[name] = (settings.pod_cidrs if settings else ()) or node.pod_cidrs
    return requested


def rejected_ranges(cluster: Cluster) -> Iterator[RangeFault]:
    """Yield the problems of the requested ranges; an existing node keeps its own."""
    requested = requested_ranges(cluster)
    current = {name: node.spec.pod_cidrs for name in requested if (node := cluster.node(name))}
    for name, ranges in current.items():
        if requested[name] and requested[name] != ranges:
            yield RangeFault(name, f"cannot change while the lab is up; it is {', '.join(ranges)}")
    yield from range_faults(
        cluster.config,
        {**current, **{name: ranges for name, ranges in requested.items() if name not in current}},
    )
