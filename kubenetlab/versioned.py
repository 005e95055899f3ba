"""VersionedMap: a mapping that is a value, and knows how it came from others: what has changed since one of them is found without looking at the rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import count
from typing import Final, TypeVar

K = TypeVar("K")
V = TypeVar("V")

MAX_STEPS, MAX_TOUCHED = 64, 64
"""So many steps back are remembered, unless one of them changed more entries than that: from one behind it everything is compared."""
_SERIALS: Final = count()

News = Mapping[K, tuple[V | None, V | None]]
"""Key → its value before and now, None for what was not or is not there."""


class VersionedMap(dict[K, V]):
    """Nothing in it is changed once it is made. No value is None: that stands for what is not there."""

    __slots__ = ("_serial", "_steps")

    def __init__(self, items: Mapping[K, V] | Iterable[tuple[K, V]] = ()) -> None:
        super().__init__(items)
        self._serial = next(_SERIALS)
        self._steps: tuple[tuple[int, Mapping[K, V | None]], ...] = ()
        """Of each map on the way to this one its serial, and what it had where the next one differs."""

    def with_changes(self, changes: Mapping[K, V | None]) -> VersionedMap[K, V]:
        """The map with some entries others; None takes one away. Itself when each is the very same value already."""
        touched = {
            key: self.get(key) for key, value in changes.items() if self.get(key) is not value
        }
        if not touched:
            return self
        after = VersionedMap(self)
        for key in touched:
            value = changes[key]
            if value is None:
                del after[key]
            else:
                after[key] = value
        if len(touched) <= MAX_TOUCHED:
            after._steps = (*self._steps[1 - MAX_STEPS :], (self._serial, touched))
        return after

    def news(self, before: Mapping[K, V]) -> News[K, V]:
        """Where it differs from another, in the order in which that came about; values are the same when they are the same object."""
        if before is self:
            return {}
        serials = [serial for serial, _ in self._steps]
        if isinstance(before, VersionedMap) and before._serial in serials:
            touched: dict[K, V | None] = {}
            for _, step in self._steps[serials.index(before._serial) :]:
                for key, old in step.items():
                    touched.setdefault(key, old)
            return {
                key: (old, self.get(key))
                for key, old in touched.items()
                if self.get(key) is not old
            }
        found: dict[K, tuple[V | None, V | None]] = {
            key: (before.get(key), now) for key, now in self.items() if before.get(key) is not now
        }
        return found | {key: (old, None) for key, old in before.items() if key not in self}
