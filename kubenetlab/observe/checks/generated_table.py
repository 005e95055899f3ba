"""Truth tables of the connections that a lab allows now, generated from a matrix of probes.

Rows are as few as possible without a loss: pods of a workload, and then all pods of a namespace,
share a row if they have the same result. Equal labs have equal tables.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, NamedTuple

from kubenetlab.observe.checks.truth_table import Expected
from kubenetlab.observe.expect import ServiceTarget
from kubenetlab.observe.matrix import Cell
from kubenetlab.observe.pod_ports import HostPort, PodPort, is_served
from kubenetlab.observe.targets.grammar import pod_title
from kubenetlab.observe.targets.locations import Location

if TYPE_CHECKING:
    from kubenetlab.observe.inspection import Inspection

_PODS, _SERVICES, _HOSTS = range(3)
"""Order of the destinations."""
_Pair = tuple[str, str]
"""Titles of source and destination."""


class _Port(NamedTuple):
    """Destination of rows, with the port; sorted as in a table."""

    order: int
    group: str
    number: int
    """0 for a ping."""
    protocol: str


class _Groups:
    """Groups of pods that can share a row."""

    def __init__(self, seen: Inspection, cells: Sequence[Cell]) -> None:
        self._system = seen["system_namespaces"]
        self._group: dict[str, str] = {}
        """Title of a pod → group."""
        self._namespace: dict[str, str] = {}
        """Title of a pod → namespace."""
        for pod in seen["pods"]:
            title = pod_title(pod["namespace"], pod["name"])
            kind, _, name = (pod["workload"] or "").partition("/")
            self._group[title] = f"each:{kind}/{pod['namespace']}/{name}" if name else title
            self._namespace[title] = pod["namespace"]

        self._members: dict[str, dict[str, None]] = {}
        """Group → titles of the sources in it."""
        self._groups_in: dict[str, set[str]] = {}
        """Namespace → groups of the sources in it."""
        titles = dict.fromkeys(cell.source.title for cell in cells if self.is_included(cell.source))
        for title in titles:
            group = self.of(title)
            self._members.setdefault(group, {})[title] = None
            self._groups_in.setdefault(self.namespace_of(title), set()).add(group)

    def are_all(self, namespace: str, groups: Iterable[str]) -> bool:
        """Return True if groups are all those of a namespace."""
        return self._groups_in.get(namespace, set()) <= set(groups)

    def have_all(self, source: str, destination: str, pairs: AbstractSet[_Pair]) -> bool:
        """Return True if all connections between two groups are among some pairs."""
        return all(
            (first, second) in pairs
            for first in self._members.get(source, (source,))
            for second in self._members.get(destination, (destination,))
            if first != second
        )

    def is_included(self, place: Location) -> bool:
        """Return True for the pods of users and for external hosts."""
        if place.kind == "pod":
            return not place.is_host_network and place.namespace not in self._system
        return place.kind == "ext"

    def of(self, title: str) -> str:
        return self._group.get(title, title)

    def namespace_of(self, title: str) -> str:
        """Return the namespace of a pod; empty for a host."""
        return self._namespace.get(title, "")


def generated_table(cells: Sequence[Cell], seen: Inspection, name: str) -> str:
    """Return the text of a table that holds now.

    cells: cells of a matrix with the ports of pods. name: name of the table.
    """
    groups = _Groups(seen, cells)
    used = [cell for cell in cells if groups.is_included(cell.source)]
    connectable = {
        pod_title(cell.destination.namespace, cell.destination.name)
        for cell in used
        if isinstance(cell.destination, PodPort) and cell.destination.is_served
    }
    results: dict[_Port, dict[str, dict[_Pair, Expected]]] = {}
    varying: dict[str, int] = {}
    for cell in used:
        entry = _destination(cell, groups, connectable)
        if entry is None:
            continue
        port, title, family = entry
        if cell.expected == "any" and isinstance(cell.destination, ServiceTarget):
            varying[title] = varying.get(title, 0) + 1
        elif title != cell.source.title and cell.results[0][1].outcome != "not testable":
            expected = _expected(cell)
            pairs = results.setdefault(port, {}).setdefault(family, {})
            pairs[cell.source.title, title] = expected
    lines = [
        "# Connections as they are now. Remove rows that do not matter, and correct wrong ones.",
        "version: 1",
        f"name: {json.dumps(name)}",
        "probes:",
    ]
    group = ""
    for port in sorted(results):
        if port.group != group:
            group = port.group
            lines.append(f"# to {group}")
        by_family = results[port]
        (first, *others) = by_family.values()
        # Rows without a family are tested by the primary one, which may have no results.
        if others and all(pairs == first for pairs in others):
            by_family = {"": first}
        for family, pairs in sorted(by_family.items()):
            lines += _rows(port, family, pairs, groups)
    if varying:
        lines.append(
            "# left out: connections whose outcome depends on the endpoint, or on the node or the "
            "address by"
        )
        lines.append("# which it is reached:")
        lines += [f"#   {count} to {title}" for title, count in sorted(varying.items())]
    return "\n".join(lines) + "\n"


def _expected(cell: Cell) -> Expected:
    """Return what a row expects so that it holds now.

    It is `reject` only where policies allow connections to a port on which nothing listens: other
    hosts may limit the rate of the ICMP errors by which they refuse.
    """
    outcome, port = cell.results[0][1].outcome, cell.destination
    if outcome == "answer":
        return "allow"
    return "reject" if not is_served(port) and outcome == "refused" else "deny"


def _destination(
    cell: Cell, groups: _Groups, connectable: AbstractSet[str]
) -> tuple[_Port, str, str] | None:
    """Return destination, title and family of a cell; None if it gets no row."""
    destination = cell.destination
    if isinstance(destination, PodPort):
        title = pod_title(destination.namespace, destination.name)
        if groups.namespace_of(title) in groups._system:
            return None
        port = _Port(_PODS, groups.of(title), destination.port, destination.protocol)
        return port, title, destination.family
    if isinstance(destination, HostPort):
        title = f"ext:{destination.name}"
        port = _Port(_HOSTS, title, destination.port, destination.protocol)
        return port, title, destination.family
    if isinstance(destination, ServiceTarget):
        kind = "lb" if destination.is_outside else "svc"
        title = f"{kind}:{destination.namespace}/{destination.name}"
        port = _Port(_SERVICES, title, destination.port, destination.protocol)
        return port, title, destination.family
    if not groups.is_included(destination) or destination.title in connectable:
        return None
    order = _PODS if destination.kind == "pod" else _HOSTS
    return _Port(order, groups.of(destination.title), 0, "ICMP"), destination.title, ""


def _rows(
    port: _Port, family: str, pairs: Mapping[_Pair, Expected], groups: _Groups
) -> Iterator[str]:
    """Yield the rows to one destination, those of whole namespaces first."""
    rows: dict[tuple[str, str], Expected] = {}
    by_group: dict[str, dict[_Pair, Expected]] = {}
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
        fields = {"from": source, "to": destination}
        text = ", ".join(f"{key}: {_scalar(value)}" for key, value in fields.items())
        text += f", port: {port.number}" if port.number else ""
        text += f", protocol: {port.protocol}" if port.protocol != "TCP" else ""
        text += f", family: {family}" if family else ""
        yield f"- {{{text}, expect: {expected}}}"


def _can_share(
    namespace: str,
    sources: Sequence[str],
    values: Iterable[Expected],
    port: _Port,
    groups: _Groups,
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


def _split(source: str, destination: str, pairs: Mapping[_Pair, Expected]) -> dict[_Pair, Expected]:
    """Return the fewest rows between two groups: of the groups, of one pod and a group, or pods."""
    if len(set(pairs.values())) == 1:
        return {(source, destination): next(iter(pairs.values()))}
    rows: dict[_Pair, Expected] = {}
    for title in dict.fromkeys(pair[0] for pair in pairs):
        own = {pair: value for pair, value in pairs.items() if pair[0] == title}
        if len(set(own.values())) == 1:
            rows[title, destination] = next(iter(own.values()))
        else:
            rows |= own
    return rows


def _row_order(row: tuple[_Pair, Expected]) -> tuple[bool, _Pair]:
    (source, destination), _ = row
    return not source.startswith("each:Namespace/"), (source, destination)


def _scalar(text: str) -> str:
    """Return a target as a YAML scalar, in quotes if it has a colon."""
    return json.dumps(text) if ":" in text else text
