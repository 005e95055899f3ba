"""Memo: what layers have computed, so that only what depends on a change is computed again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from kubenetlab.versioned import News, VersionedMap

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")


class PlanCache:
    """What was computed from which inputs: equal inputs get the very same value back. `calls` counts what had to be computed."""

    def __init__(self) -> None:
        self._known: dict[Any, tuple[Any, Any]] = {}
        self._followed: dict[Any, tuple[Any, tuple[VersionedMap[Any, Any], ...], Any]] = {}
        self.calls = 0

    def __call__(self, key: Any, function: Callable[..., T], *inputs: Any) -> T:
        """`function(*inputs)`, or what it gave for `key` when the inputs were equal the last time."""
        known = self._known.get(key)
        if known is not None and known[0] == inputs:
            value: T = known[1]
            return value
        self.calls += 1
        value = function(*inputs)
        self._known[key] = (inputs, value)
        return value

    def each(
        self, key: Any, function: Callable[..., T], items: VersionedMap[K, V], *inputs: Any
    ) -> VersionedMap[K, T]:
        """`function(item, *inputs)` for each of many items; as long as the inputs are equal, for those that are others than the last time."""

        def build(former: VersionedMap[K, T] | None, news: News[K, V]) -> VersionedMap[K, T]:
            self.calls += len(news) - 1  # and one that `follow` counts
            changes = {
                name: function(item, *inputs) if item is not None else None
                for name, (_, item) in news.items()
            }
            return (VersionedMap() if former is None else former).with_changes(changes)

        return self.follow(key, build, items, given=inputs)

    def follow(
        self, key: Any, build: Callable[..., T], *maps: VersionedMap[Any, Any], given: Any = ()
    ) -> T:
        """`build(former, *news)`: what it gave for `key` the last time, and what has changed in each map since.

        The first time, and when `given` is not equal any more, there is nothing former and everything is new.
        """
        former, before = None, tuple(VersionedMap[Any, Any]() for _ in maps)
        known = self._followed.get(key)
        if known is not None and known[0] == given:
            _, before, former = known
            if all(now is then for now, then in zip(maps, before, strict=True)):
                found: T = former
                return found
        self.calls += 1
        found = build(former, *(now.news(then) for now, then in zip(maps, before, strict=True)))
        self._followed[key] = (given, maps, found)
        return found

    def forget(self, gone: Callable[[Any], bool]) -> None:
        """Drops what was kept for keys that will not come again."""
        self._known = {key: value for key, value in self._known.items() if not gone(key)}
        self._followed = {key: value for key, value in self._followed.items() if not gone(key)}
