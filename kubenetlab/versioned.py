"""Immutable mapping that remembers recent changes.

Differences from an earlier version are found without comparing all entries.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NoReturn, Self, TypeVar

K = TypeVar("K")
V = TypeVar("V")

MAX_STEPS: Final = 64
"""Number of remembered steps."""
MAX_TOUCHED: Final = 64
"""Maximum number of entries that a remembered step changed.

A difference from a version before these steps is found by comparing all entries.
"""

ChangedEntries = Mapping[K, tuple[V | None, V | None]]
"""Value before and value now by key; None for a key that was missing or is missing now."""


class VersionedMap(dict[K, V]):
    """Immutable mapping with remembered changes; None is not a value, but means a missing key.

    Each map is one version. Versions form a tree: two maps may both derive from a third one, and
    each remembers only the steps that lead to itself.
    """

    __slots__ = ("_steps", "_version")

    def __init__(self, items: Mapping[K, V] | Iterable[tuple[K, V]] = ()) -> None:
        super().__init__(items)
        self._version = object()
        """Identity of this version: a map that remembers it derives from this very map."""
        self._steps: tuple[tuple[object, Mapping[K, V | None]], ...] = ()
        """Each earlier version, and its values of the keys that the next one changed."""

    def with_changes(self, changes: Mapping[K, V | None]) -> Self:
        """Return a copy with changed entries; None removes an entry.

        Return the map itself if every value is the same object already.
        """
        old_values = {
            key: self.get(key) for key, value in changes.items() if self.get(key) is not value
        }
        if not old_values:
            return self
        result = type(self)(self)
        for key in old_values:
            value = changes[key]
            if value is None:
                dict.__delitem__(result, key)
            else:
                dict.__setitem__(result, key, value)
        if len(old_values) <= MAX_TOUCHED:
            result._steps = (*self._steps[1 - MAX_STEPS :], (self._version, old_values))
        return result

    def replaced_by(self, entries: Mapping[K, V]) -> Self:
        """Return a map with exactly these entries; equal values stay the identical objects."""
        changes: dict[K, V | None] = dict.fromkeys(key for key in self if key not in entries)
        changes |= {key: value for key, value in entries.items() if self.get(key) != value}
        return self.with_changes(changes)

    def changes_since(self, before: Mapping[K, V]) -> ChangedEntries[K, V]:
        """Return the entries that differ from `before`, in the order in which they changed.

        Values are compared by identity.
        """
        if before is self:
            return {}
        versions = [version for version, _ in self._steps]
        if isinstance(before, VersionedMap) and before._version in versions:
            old_values: dict[K, V | None] = {}
            for _, step in self._steps[versions.index(before._version) :]:
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

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        """Raise TypeError: every reader of this version relies on its entries."""
        raise TypeError(f"{type(self).__name__} is immutable: use with_changes()")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse
