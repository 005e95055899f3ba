"""Groups of pods that share rows of a generated table: workloads, and namespaces."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

from kubenetlab.observe.matrix import Cell
from kubenetlab.observe.targets.grammar import pod_title
from kubenetlab.observe.targets.locations import Location

if TYPE_CHECKING:
    from kubenetlab.observe.inspection import Inspection

Pair = tuple[str, str]
"""Titles of source and destination."""


class Groups:
    """Groups of pods that can share a row."""

    def __init__(self, seen: Inspection, cells: Sequence[Cell]) -> None:
        self.system = seen["system_namespaces"]
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

    def have_all(self, source: str, destination: str, pairs: AbstractSet[Pair]) -> bool:
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
            return not place.is_host_network and place.namespace not in self.system
        return place.kind == "ext"

    def namespaces_with(self, titles: Iterable[str]) -> Mapping[str, Sequence[str]]:
        """Return the namespaces of some pods, if they have several groups: name → their pods."""
        return {
            f"each:Namespace/{namespace}": [
                title for group in sorted(own) for title in self._members[group]
            ]
            for namespace in dict.fromkeys(map(self.namespace_of, titles))
            if namespace and len(own := self._groups_in.get(namespace, set())) > 1
        }

    def groups_with(self, titles: Iterable[str]) -> Mapping[str, Sequence[str]]:
        """Return the groups of some pods or hosts: name → those in it."""
        groups = dict.fromkeys(map(self.of, titles))
        return {group: list(self._members.get(group, (group,))) for group in groups}

    def of(self, title: str) -> str:
        return self._group.get(title, title)

    def namespace_of(self, title: str) -> str:
        """Return the namespace of a pod; empty for a host."""
        return self._namespace.get(title, "")


def row_text(pair: Pair, number: int, protocol: str, family: str, expected: str) -> str:
    """Return a row of a table. number: 0 for a ping."""
    text = ", ".join(
        f"{key}: {_scalar(value)}" for key, value in zip(("from", "to"), pair, strict=True)
    )
    text += f", port: {number}" if number else ""
    text += f", protocol: {protocol}" if protocol != "TCP" else ""
    text += f", family: {family}" if family else ""
    return f"- {{{text}, expect: {expected}}}"


def _scalar(text: str) -> str:
    """Return a target as a YAML scalar, in quotes if it has a colon."""
    return json.dumps(text) if ":" in text else text
