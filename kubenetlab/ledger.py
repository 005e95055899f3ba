"""Ledger: a mapping that is a value, and knows how it came from others: what has changed since one of them is found without looking at the rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import count
from typing import Final, TypeVar

K = TypeVar("K")
V = TypeVar("V")

MAX_STEPS, MAX_TOUCHED = 64, 64
"""So many steps back are remembered, unless one of them changed more entries than that: from a ledger behind it everything is compared."""
_SERIALS: Final = count()

News = Mapping[K, tuple[V | None, V | None]]
"""Key → its value before and now, None for what was not or is not there."""


class Ledger(dict[K, V]):
    """Nothing in it is changed once it is made. No value is None: that stands for what is not there."""

    __slots__ = ("_serial", "_steps")

    def __init__(self, items: Mapping[K, V] | Iterable[tuple[K, V]] = ()) -> None:
        super().__init__(items)
        self._serial = next(_SERIALS)
        self._steps: tuple[tuple[int, Mapping[K, V | None]], ...] = ()
        """Of each ledger on the way to this one its serial, and what it had where the next one differs."""

    def with_changes(self, changes: Mapping[K, V | None]) -> Ledger[K, V]:
        """The ledger with some entries others; None takes one away. Itself when each is the very same value already."""
        touched = {key: self.get(key) for key, value in changes.items() if self.get(key) is not value}
        if not touched:
            return self
        after = Ledger(self)
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
        """Where it differs from another: values are the same when they are the same object."""
        if before is self:
            return {}
        touched: dict[K, V | None] = {}
        for serial, step in reversed(self._steps):
            touched.update(step)  # the oldest counts
            if isinstance(before, Ledger) and serial == before._serial:
                return {key: (old, self.get(key)) for key, old in touched.items() if self.get(key) is not old}
        found: dict[K, tuple[V | None, V | None]] = {key: (before.get(key), now) for key, now in self.items() if before.get(key) is not now}
        return found | {key: (old, None) for key, old in before.items() if key not in self}
