"""Which pod ranges nodes ask for, and whether they can have them beside those that are there."""

from __future__ import annotations

from collections.abc import Iterator

from kubenetlab.api.lab import NodeSettings
from kubenetlab.api.store import Cluster
from kubenetlab.api.validate.node_ranges import RangeFault, range_faults


def requested_ranges(cluster: Cluster) -> dict[str, tuple[str, ...]]:
    """The ranges that nodes bring with them, by their own documents or by the Cluster's; none for those that take the next free ones."""
    asked = {}
    for node, name in zip(cluster.config.nodes, cluster.config.node_names, strict=True):
        settings = cluster.get(NodeSettings, "", name)
        asked[name] = (settings.pod_cidrs if settings else ()) or node.pod_cidrs
    return asked


def rejected_ranges(cluster: Cluster) -> Iterator[RangeFault]:
    """What speaks against the ranges asked for: a node that is there keeps its own."""
    asked = requested_ranges(cluster)
    there = {name: node.spec.pod_cidrs for name in asked if (node := cluster.node(name))}
    for name, ranges in there.items():
        if asked[name] and asked[name] != ranges:
            yield RangeFault(name, f"cannot change while the lab is up; it is {', '.join(ranges)}")
    yield from range_faults(
        cluster.config,
        {**there, **{name: ranges for name, ranges in asked.items() if name not in there}},
    )
