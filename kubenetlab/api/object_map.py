"""ObjectMap: the objects of one kind. Cursor: the position of a reader of some kinds.

Both are values. A cursor belongs to the reader that holds it: the store knows no readers, so
reading changes nothing, and two readers cannot influence each other.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, TypeVarTuple, Unpack

from msgspec import Struct

from kubenetlab.api.meta import Resource
from kubenetlab.versioned import VersionedMap

R = TypeVar("R", bound=Resource)
T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")
Kind = type[Resource]
ObjectKey = tuple[str, str]
"""(namespace, name)"""
ObjectChange = tuple[R | None, R | None]
"""An object before and after a change; None stands for a missing object."""


class ObjectMap(VersionedMap[ObjectKey, R]):
    """Objects of one kind by (namespace, name), in order of creation, with their indexes.

    An index is a function of this map alone. It is computed at the first use, and kept as long as
    this version of the map. No other version can see it, so it needs no invalidation.
    """

    __slots__ = ("_indexes",)

    def __init__(self, items: Mapping[ObjectKey, R] | Iterable[tuple[ObjectKey, R]] = ()) -> None:
        super().__init__(items)
        self._indexes: dict[Hashable, Any] = {}
        """(function, arguments) → its result, whose type is that of the function."""

    def index(
        self, build: Callable[[tuple[R, ...], Unpack[Arguments]], T], *arguments: *Arguments
    ) -> T:
        """Return `build(objects, *arguments)`; compute it at the first call.

        build: a pure function, defined at the top level of a module: it is the name of the index.
        """
        key = build, arguments
        if key not in self._indexes:
            self._indexes[key] = build(self.objects, *arguments)
        result: T = self._indexes[key]
        return result

    @property
    def objects(self) -> tuple[R, ...]:
        """The objects in order of creation."""
        if tuple not in self._indexes:
            self._indexes[tuple] = tuple(self.values())
        objects: tuple[R, ...] = self._indexes[tuple]
        return objects


class Cursor(Struct, frozen=True):
    """Position of a reader: the version of each kind's objects that it has seen.

    See `Cluster.cursor` and `Cluster.changes_since`.
    """

    seen: Mapping[Kind, ObjectMap[Any]]


class Changes(Struct, frozen=True):
    """Changed objects of some kinds: the difference between a cursor and a store."""

    by_kind: Mapping[Kind, Sequence[ObjectChange[Any]]]
    """Kind → changes of objects of this kind; `changes[kind]` has its type."""

    def __getitem__(self, kind: type[R]) -> Sequence[ObjectChange[R]]:
        """Return the changes of a kind, in the order in which they happened.

        An object that was changed several times is one change.
        """
        return self.by_kind[kind]

    def objects(self, *kinds: type[R]) -> Iterator[R]:
        """Yield the changed objects of some kinds, each as it was before and as it is now."""
        for kind in kinds:
            for change in self.by_kind[kind]:
                yield from (obj for obj in change if obj is not None)
