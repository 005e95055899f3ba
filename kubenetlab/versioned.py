"""Immutable mapping that remembers recent changes.

Differences from an earlier version are found without comparing all entries.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import count
from typing import Final, TypeVar

K = TypeVar("K")
V = TypeVar("V")

MAX_STEPS, MAX_TOUCHED = 64, 64
"""Number of remembered steps, and maximum number of entries that a remembered step changed.

A difference from a version before these steps is found by comparing all entries.
"""
_SERIALS: Final = count()

ChangedEntries = Mapping[K, tuple[V | None, V | None]]
"""Value before and value now by key; None for a key that was missing or is missing now."""


class VersionedMap(dict[K, V]):
    """Immutable mapping with remembered changes; None is not a value, but means a missing key."""

    __slots__ = ("_serial", "_steps")

    def __init__(self, items: Mapping[K, V] | Iterable[tuple[K, V]] = ()) -> None:
        super().__init__(items)
        self._serial = next(_SERIALS)
        self._steps: tuple[tuple[int, Mapping[K, V | None]], ...] = ()
        """Serial of each earlier version, and its values of the keys that the next one changed."""

    def with_changes(self, changes: Mapping[K, V | None]) -> VersionedMap[K, V]:
        """Return a copy with changed entries; None removes an entry.

        Return the map itself if every value is the same object already.
        """
        old_values = {
            key: self.get(key) for key, value in changes.items() if self.get(key) is not value
        }
        if not old_values:
            return self
        result = VersionedMap(self)
        for key in old_values:
            value = changes[key]
            if value is None:
                del result[key]
            else:
                result[key] = value
        if len(old_values) <= MAX_TOUCHED:
            result._steps = (*self._steps[1 - MAX_STEPS :], (self._serial, old_values))
        return result

    def changes_since(self, before: Mapping[K, V]) -> ChangedEntries[K, V]:
        """Return the entries that differ from `before`, in the order in which they changed.

        Values are compared by identity.
        """
        if before is self:
            return {}
        serials = [serial for serial, _ in self._steps]
        if isinstance(before, VersionedMap) and before._serial in serials:
            old_values: dict[K, V | None] = {}
            for _, step in self._steps[serials.index(before._serial) :]:
                for key, old in step.items():
                    old_values.setdefault(key, old)
            return {
                key: (old, self.get(key))
                for key, old in old_values.items()
                if self.get(key) is not old
            }
        differences: dict[K, tuple[V | None, V | None]] = {
            key: (before.get(key), now) for key, now in self.items() if before.get(key) is not now
        }
        return differences | {key: (old, None) for key, old in before.items() if key not in self}
