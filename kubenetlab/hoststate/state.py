"""HostState: what exists, or should exist, in all namespaces of a lab."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from kubenetlab.hoststate.object import Key, Object, Origin

Contents = Mapping[Key, Object]
"""The objects of one namespace."""


class HostState:
    """The objects of all namespaces, and who wants each; a namespace that did not change is the very same mapping."""

    __slots__ = ("namespaces", "origins")

    def __init__(
        self,
        namespaces: Mapping[str, Contents] | None = None,
        origins: Mapping[str, Mapping[Key, Origin]] | None = None,
    ) -> None:
        self.namespaces: Final = dict(namespaces or {})
        self.origins: Final = origins or {}

    def __getitem__(self, netns: str) -> Contents:
        return self.namespaces.get(netns, {})

    def __len__(self) -> int:
        return sum(len(contents) for contents in self.namespaces.values())

    def objects(self) -> Iterable[Object]:
        return (obj for contents in self.namespaces.values() for obj in contents.values())

    def origin(self, obj: Object) -> Origin | None:
        return self.origins.get(obj.netns, {}).get(obj.key)

    def with_namespaces(self, changed: Mapping[str, Contents | None]) -> HostState:
        """The state with some namespaces replaced; None takes one away."""
        merged = {**self.namespaces, **changed}
        return HostState(
            {netns: contents for netns, contents in merged.items() if contents is not None},
            self.origins,
        )


def peer_ends(state: HostState, namespaces: Iterable[str]) -> set[str]:
    """The namespaces at the other ends of some namespaces' links, beside themselves."""
    near = set(namespaces)
    return {
        peer_end[0]
        for netns in near
        for obj in state[netns].values()
        if (peer_end := obj.peer_end) is not None
    } - near


def contents_of(objects: Iterable[Object]) -> dict[Key, Object]:
    """Objects of one namespace by key, in creation order: by rank, then as they came."""
    return {obj.key: obj for obj in sorted(objects, key=lambda obj: obj.rank)}
