"""Observed or desired state of all namespaces of a lab."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Final

from kubenetlab.hoststate.object import Key, Object, Origin

Contents = Mapping[Key, Object]
"""Objects of one namespace by key."""


class HostState:
    """Objects of all namespaces, with the origin of each.

    Two states share the mapping of a namespace that is the same in both, so that comparing it
    costs nothing.
    """

    __slots__ = ("guarded", "namespaces", "origins")

    def __init__(
        self,
        namespaces: Mapping[str, Contents] | None = None,
        origins: Mapping[str, Mapping[Key, Origin]] | None = None,
        guarded: AbstractSet[str] = frozenset(),
    ) -> None:
        """Create a state.

        guarded: namespaces of pods that must not send or receive a packet before the rules of
            their node are in force.
        """
        self.namespaces: Final = dict(namespaces or {})
        self.origins: Final = origins or {}
        self.guarded: Final = guarded

    def __getitem__(self, netns: str) -> Contents:
        return self.namespaces.get(netns, {})

    def __len__(self) -> int:
        return sum(len(contents) for contents in self.namespaces.values())

    def objects(self) -> Iterable[Object]:
        return (obj for contents in self.namespaces.values() for obj in contents.values())

    def origin(self, obj: Object) -> Origin | None:
        return self.origins.get(obj.netns, {}).get(obj.key)

    def with_namespaces(self, changed: Mapping[str, Contents | None]) -> HostState:
        """Return a copy with some namespaces replaced; None removes a namespace."""
        merged = {**self.namespaces, **changed}
        return HostState(
            {netns: contents for netns, contents in merged.items() if contents is not None},
            self.origins,
            self.guarded,
        )


def linked_namespaces(state: HostState, namespaces: Iterable[str]) -> set[str]:
    """Return the other namespaces that are linked to `namespaces` by veth pairs."""
    own = set(namespaces)
    return {
        peer_end[0]
        for netns in own
        for obj in state[netns].values()
        if (peer_end := obj.peer_end) is not None
    } - own


def contents_of(objects: Iterable[Object]) -> dict[Key, Object]:
    """Return the objects of one namespace by key, ordered by rank and then by input order."""
    return {obj.key: obj for obj in sorted(objects, key=lambda obj: obj.rank)}
