"""Truth tables of the connections that a lab allows now, generated from a matrix of probes.

Rows are as few as possible without a loss: pods of a workload, and then all pods of a namespace,
share a row if they have the same result. Equal labs have equal tables.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Final, NamedTuple

from kubenetlab.observe.checks.closed_ports import ClosedCell, closed_rows
from kubenetlab.observe.checks.row_groups import Groups, Pair, row_text
from kubenetlab.observe.checks.truth_table import Expected
from kubenetlab.observe.expect import (
    ClusterFacts,
    Destination,
    ServiceNodePort,
    ServiceTarget,
    facts_of,
)
from kubenetlab.observe.matrix import Cell
from kubenetlab.observe.pod_ports import HostPort, PodPort, is_served
from kubenetlab.observe.targets.grammar import EVERY_NODE, pod_title

if TYPE_CHECKING:
    from kubenetlab.observe.inspection import Inspection

_PODS, _SERVICES, _NODE_PORTS, _HOSTS = range(4)
"""Order of the destinations."""
_LIMITS: Final = (
    "# Not covered: nodes, pods of the system, and node ports from inside the cluster. Of ports on"
    " which",
    "# nothing listens, only those that policies name, the next ones, the same numbers in TCP or"
    " UDP,",
    "# and 22/TCP. Rows without a family are about the primary one.",
)
"""Head of each table: connections that change without a row that fails."""
_LEFT_OUT: Final = (
    "# left out: connections whose outcome depends on the endpoint, or on the node or the address"
    " by",
    "# which it is reached:",
)


class _Port(NamedTuple):
    """Destination of rows, with the port; sorted as in a table."""

    order: int
    group: str
    number: int
    """0 for a ping."""
    protocol: str


_Results = Mapping[_Port, Mapping[str, Mapping[Pair, Expected]]]
"""Port → family → pair → expectation."""


def generated_table(
    cells: Sequence[Cell], seen: Inspection, name: str, closed: Sequence[ClosedCell] = ()
) -> str:
    """Return the text of a table that holds now.

    cells: cells of a matrix with the ports of pods. name: name of the table.
    closed: cells of ports that policies deny and that no policy names, all without an answer.
    """
    groups, facts = Groups(seen, cells), facts_of(seen)
    used = [cell for cell in cells if groups.is_included(cell.source)]
    connectable = {
        pod_title(cell.destination.namespace, cell.destination.name)
        for cell in used
        if isinstance(cell.destination, PodPort) and cell.destination.is_served
    }
    results: dict[_Port, dict[str, dict[Pair, Expected]]] = {}
    varying: dict[str, int] = {}
    for cell in used:
        entry = _destination(cell, groups, connectable)
        if entry is None:
            continue
        port, title, family = entry
        if cell.expected == "any" and isinstance(cell.destination, ServiceTarget):
            varying[title] = varying.get(title, 0) + 1
        elif title != cell.source.title and cell.results[0][1].outcome != "not testable":
            expected = _expected(cell, facts)
            pairs = results.setdefault(port, {}).setdefault(family, {})
            pairs[cell.source.title, title] = expected
    lines = [
        "# Connections as they are now. Remove rows that do not matter, and correct wrong ones.",
        *_LIMITS,
        "version: 1",
        f"name: {json.dumps(name)}",
        "probes:",
    ]
    lines += _rows_by_destination(_at_every_node(results, seen), groups)
    if rows := list(closed_rows([*closed, *_denied_pings(used, connectable, groups)], groups)):
        lines += ["# closed by policies: pings, and some ports that no policy names", *rows]
    if varying:
        lines += _LEFT_OUT
        lines += [f"#   {count} to {title}" for title, count in sorted(varying.items())]
    return "\n".join(lines) + "\n"


def _rows_by_destination(results: _Results, groups: Groups) -> Iterator[str]:
    """Yield the rows to all destinations, with a comment before each of them."""
    group = ""
    for port in sorted(results):
        if port.group != group:
            group = port.group
            yield f"# to {group}"
        by_family = results[port]
        (first, *others) = by_family.values()
        # Rows without a family are tested by the primary one, which may have no results.
        if others and all(pairs == first for pairs in others):
            by_family = {"": first}
        for family, pairs in sorted(by_family.items()):
            yield from _rows(port, family, pairs, groups)


def _denied_pings(
    cells: Iterable[Cell], connectable: AbstractSet[str], groups: Groups
) -> Iterator[ClosedCell]:
    """Yield the pings of pods that listen on ports, if policies deny them."""
    for cell in cells:
        title = cell.destination.title
        if (
            cell.source.kind == "pod"
            and title in connectable
            and groups.namespace_of(title) not in groups.system
            and cell.expected == "nothing"
            and all(result.outcome == "silence" for _, result in cell.results)
        ):
            yield ClosedCell(cell, is_telling=True)


def _expected(cell: Cell, facts: ClusterFacts) -> Expected:
    """Return what a row expects so that it holds now.

    Where nothing listens, a refusal must not hold in place of a denial by policies, nor the other
    way round. Elsewhere, an answer differs from both, and other hosts may limit the rate of the
    ICMP errors by which they refuse.
    """
    outcome, port = cell.results[0][1].outcome, cell.destination
    if outcome == "answer":
        return "allow"
    if not is_served(port) and outcome == "refused":
        return "reject"
    is_denied = cell.source.kind == "pod" and cell.expected == "nothing" and outcome == "silence"
    return "drop" if is_denied and not _is_answered(port, facts) else "deny"


def _is_answered(destination: Destination, facts: ClusterFacts) -> bool:
    """Return True if packets that reach a destination get an answer, or if they have no route."""
    if isinstance(destination, HostPort) or not isinstance(destination, ServiceTarget):
        return is_served(destination)
    return not destination.is_proxied or any(
        (destination.protocol, port) in facts.listening.get(address, ())
        for address, port in destination.endpoints
    )


def _destination(
    cell: Cell, groups: Groups, connectable: AbstractSet[str]
) -> tuple[_Port, str, str] | None:
    """Return destination, title and family of a cell; None if it gets no row."""
    destination = cell.destination
    if isinstance(destination, PodPort):
        title = pod_title(destination.namespace, destination.name)
        if groups.namespace_of(title) in groups.system:
            return None
        port = _Port(_PODS, groups.of(title), destination.port, destination.protocol)
        return port, title, destination.family
    if isinstance(destination, HostPort):
        title = f"ext:{destination.name}"
        port = _Port(_HOSTS, title, destination.port, destination.protocol)
        return port, title, destination.family
    if isinstance(destination, ServiceNodePort):
        if cell.source.kind != "ext":
            return None
        title = destination.target
        port = _Port(_NODE_PORTS, title, destination.service_port, destination.protocol)
        return port, title, destination.family
    if isinstance(destination, ServiceTarget):
        kind = "lb" if destination.is_outside else "svc"
        title = f"{kind}:{destination.namespace}/{destination.name}"
        if destination.is_external_ip:
            title = destination.address
        port = _Port(_SERVICES, title, destination.port, destination.protocol)
        return port, title, destination.family
    if not groups.is_included(destination) or destination.title in connectable:
        return None
    order = _PODS if destination.kind == "pod" else _HOSTS
    return _Port(order, groups.of(destination.title), 0, "ICMP"), destination.title, ""


def _at_every_node(results: _Results, seen: Inspection) -> _Results:
    """Return results with one destination for a node port that has equal results at all nodes."""
    nodes = [node["name"] for node in seen["nodes"]]
    merged = dict(results)
    first, *others = (f"nodeport:{node}/" for node in nodes)
    for port in results if others else ():
        if port.order != _NODE_PORTS or not port.group.startswith(first):
            continue
        service = port.group.removeprefix(first)
        same = [port, *(port._replace(group=prefix + service) for prefix in others)]
        everywhere = f"nodeport:{EVERY_NODE}/{service}"
        renamed = [
            {
                family: {(source, everywhere): value for (source, _), value in pairs.items()}
                for family, pairs in results.get(each, {}).items()
            }
            for each in same
        ]
        if all(each == renamed[0] for each in renamed):
            for each in same:
                del merged[each]
            merged[port._replace(group=everywhere)] = renamed[0]
    return merged


def _rows(
    port: _Port, family: str, pairs: Mapping[Pair, Expected], groups: Groups
) -> Iterator[str]:
    """Yield the rows to one destination, those of whole namespaces first."""
    rows: dict[tuple[str, str], Expected] = {}
    by_group: dict[str, dict[Pair, Expected]] = {}
    for pair, expected in pairs.items():
        by_group.setdefault(groups.of(pair[0]), {})[pair] = expected
    by_namespace: dict[str, list[str]] = {}
    for source, own in by_group.items():
        namespace = groups.namespace_of(next(iter(own))[0])
        by_namespace.setdefault(namespace, []).append(source)
    for namespace, sources in by_namespace.items():
        values = {value for source in sources for value in by_group[source].values()}
        is_complete = {
            source: groups.have_all(source, port.group, by_group[source].keys())
            for source in sources
        }
        if (
            all(is_complete.values())
            and groups.are_all(namespace, sources)
            and _can_share(namespace, sources, values, port, groups)
        ):
            rows[f"each:Namespace/{namespace}", port.group] = values.pop()
            continue
        for source in sources:
            own = by_group[source]
            rows |= _split(source, port.group, own) if is_complete[source] else own
    for (source, destination), expected in sorted(rows.items(), key=_row_order):
        yield row_text((source, destination), port.number, port.protocol, family, expected)


def _can_share(
    namespace: str,
    sources: Sequence[str],
    values: Iterable[Expected],
    port: _Port,
    groups: Groups,
) -> bool:
    """Return True if all pods of a namespace can be the source of one row.

    A row to a single pod of the namespace includes the connection of the pod to itself.
    """
    distinct = set(values)
    if not namespace or len(sources) == 1 or len(distinct) > 1:
        return False
    is_to_itself = (
        port.order == _PODS
        and not port.group.startswith("each:")
        and groups.namespace_of(port.group) == namespace
    )
    return not is_to_itself or distinct == {"allow"}


def _split(source: str, destination: str, pairs: Mapping[Pair, Expected]) -> dict[Pair, Expected]:
    """Return the fewest rows between two groups: of the groups, of one pod and a group, or pods."""
    if len(set(pairs.values())) == 1:
        return {(source, destination): next(iter(pairs.values()))}
    rows: dict[Pair, Expected] = {}
    for title in dict.fromkeys(pair[0] for pair in pairs):
        own = {pair: value for pair, value in pairs.items() if pair[0] == title}
        if len(set(own.values())) == 1:
            rows[title, destination] = next(iter(own.values()))
        else:
            rows |= own
    return rows


def _row_order(row: tuple[Pair, Expected]) -> tuple[bool, Pair]:
    (source, destination), _ = row
    return not source.startswith("each:Namespace/"), (source, destination)
