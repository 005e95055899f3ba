"""Validation of `fabric.links` in the Cluster document."""

from __future__ import annotations

from collections.abc import Iterator

from kubenetlab.api.config import ClusterConfig, FabricLink
from kubenetlab.api.links import (
    ALL_NODES,
    MAX_DELAY_S,
    MIN_MTU,
    MIN_RATE_BITS,
    parse_loss_ppm,
    parse_rate_bits,
)
from kubenetlab.api.text.decode import Finding, found
from kubenetlab.api.text.documents import Path
from kubenetlab.api.values.durations import duration_s
from kubenetlab.errors import did_you_mean


def validate_links(config: ClusterConfig) -> Iterator[Finding]:
    """Yield every finding about the settings of links."""
    for index, link in enumerate(config.fabric.links):
        path: Path = ("fabric", "links", index)
        if link.node not in (ALL_NODES, *config.node_names):
            suggestion = did_you_mean(link.node, config.node_names)
            yield Finding(
                (*path, "node"),
                f"there is no node {found(link.node)}{suggestion}",
                hints=(f"nodes: {', '.join(config.node_names)}, or {ALL_NODES}",),
            )
        yield from _validate_values(link, path)


def _validate_values(link: FabricLink, path: Path) -> Iterator[Finding]:
    if link.mtu and link.mtu < MIN_MTU:
        yield Finding((*path, "mtu"), f"expected at least {MIN_MTU}, found {link.mtu}")
    rate = parse_rate_bits(link.rate)
    if rate is None:
        yield Finding(
            (*path, "rate"), f"expected a rate such as 100mbit or 1gbit, found {found(link.rate)}"
        )
    elif link.rate and rate < MIN_RATE_BITS:
        yield Finding(
            (*path, "rate"), f"expected at least {MIN_RATE_BITS // 1000}kbit, found {link.rate}"
        )
    delay = duration_s(link.delay)
    if delay is None:
        yield Finding(
            (*path, "delay"), f"expected a duration such as 10ms, found {found(link.delay)}"
        )
    elif delay > MAX_DELAY_S:
        yield Finding((*path, "delay"), f"expected at most {MAX_DELAY_S:g}s, found {link.delay}")
    if parse_loss_ppm(link.loss) is None:
        yield Finding(
            (*path, "loss"), f"expected a percentage from 0% to 100%, found {found(link.loss)}"
        )
