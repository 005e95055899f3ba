"""Rows of generated tables about ports that policies deny and that no policy names.

They fail when policies are opened. The ports are those of `policy_probes.closed_ports`, and pings.
Few rows cover them: all pods of a namespace or of a workload share a row, as sources
and as destinations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

from kubenetlab.observe.checks.row_groups import Groups, Pair, row_text
from kubenetlab.observe.drop_logs import logging_nodes
from kubenetlab.observe.expect import Destination
from kubenetlab.observe.matrix import Cell
from kubenetlab.observe.pod_ports import HostPort, PodPort
from kubenetlab.observe.policy_probes import MAX_PROBES, closed_ports
from kubenetlab.observe.prober import ProbeRequest, run
from kubenetlab.observe.targets.grammar import pod_title
from kubenetlab.observe.targets.locations import Location

if TYPE_CHECKING:
    from kubenetlab.observe.inspection import Inspection
    from kubenetlab.observe.policies.verdicts import PolicyVerdicts


class ClosedCell(NamedTuple):
    """Result of a probe that policies deny."""

    cell: Cell
    is_telling: bool
    """True if some row must be about it."""


class ClosedPorts(NamedTuple):
    """Results of the probes of ports that policies deny and that no policy names."""

    cells: Sequence[ClosedCell] = ()
    are_left_out: bool = False
    """True if there are more than `MAX_PROBES` of them, so that none is tested."""

    @property
    def silent(self) -> list[ClosedCell]:
        """Cells without an answer, as the policies say."""
        return [each for each in self.cells if each.cell.result.outcome == "silence"]

    @property
    def others(self) -> list[Cell]:
        """Cells with another result."""
        return [each.cell for each in self.cells if each.cell.result.outcome != "silence"]


def probe_closed_ports(
    sources: Iterable[Location], seen: Inspection, policies: PolicyVerdicts, deadline_s: float
) -> ClosedPorts:
    """Probe ports that no policy names from the pods of users; policies must deny all of them."""
    pods = [
        source
        for source in sources
        if source.kind == "pod"
        and not source.is_host_network
        and source.namespace not in seen["system_namespaces"]
    ]
    closed = closed_ports(pods, seen, policies)
    if len(closed) > MAX_PROBES:
        return ClosedPorts(are_left_out=True)
    requests = [
        ProbeRequest(source, port.protocol, port.address, port.port, expects_answer=False)
        for source, port, _ in closed
    ]
    results = run(requests, deadline_s=deadline_s, nodes=logging_nodes(seen))
    return ClosedPorts(
        [
            ClosedCell(Cell(source, port, "nothing", ((port.address, result),)), is_telling)
            for (source, port, is_telling), result in zip(closed, results, strict=True)
        ]
    )


def closed_rows(cells: Iterable[ClosedCell], groups: Groups) -> Iterator[str]:
    """Yield few rows that expect silence, for all cells that must have a row."""
    by_port: dict[tuple[int, str], dict[str, dict[Pair, bool]]] = {}
    for cell, is_telling in cells:
        title, port, family = _destination(cell.destination)
        pairs = by_port.setdefault(port, {}).setdefault(family, {})
        pairs[cell.source.title, title] = is_telling
    for port, by_family in sorted(by_port.items()):
        (first, *others) = by_family.values()
        if others and all(pairs == first for pairs in others):
            by_family = {"": first}
        for family, pairs in sorted(by_family.items()):
            for pair in sorted(_covering(pairs, groups)):
                yield row_text(pair, *port, family, "drop")


def _destination(destination: Destination) -> tuple[str, tuple[int, str], str]:
    """Return title, number and protocol, and family of a destination; the number 0 for a ping."""
    if isinstance(destination, PodPort | HostPort):
        is_pod = isinstance(destination, PodPort)
        name = destination.name
        title = pod_title(destination.namespace, name) if is_pod else f"ext:{name}"
        return title, (destination.port, destination.protocol), destination.family
    return destination.title, (0, "ICMP"), ""


def _covering(pairs: Mapping[Pair, bool], groups: Groups) -> list[Pair]:
    """Return few pairs of namespaces, workloads or single places that consist of some pairs.

    pairs: pair → True if the result must cover it.
    """
    sources = _levels({source for source, _ in pairs}, groups)
    destinations = _levels({destination for _, destination in pairs}, groups)
    order = sorted(product(range(3), range(3)), key=lambda levels: (sum(levels), levels))
    rows = []
    left = {pair for pair, is_telling in pairs.items() if is_telling}
    for source_level, destination_level in order:
        for (source, froms), (destination, tos) in product(
            sources[source_level].items(), destinations[destination_level].items()
        ):
            is_each = destination.startswith("each:")
            own = {(one, other) for one in froms for other in tos if one != other or not is_each}
            if own <= pairs.keys() and own & left:
                rows.append((source, destination))
                left -= own
    return rows


def _levels(titles: set[str], groups: Groups) -> Sequence[Mapping[str, Sequence[str]]]:
    """Return the namespaces, the workloads and the single places: name → titles in it."""
    ordered = sorted(titles)
    return (
        groups.namespaces_with(ordered),
        groups.groups_with(ordered),
        {title: (title,) for title in ordered},
    )
