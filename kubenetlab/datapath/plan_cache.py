"""Cache of the results of layers: only results that depend on a change are computed again."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

from kubenetlab.versioned import ChangedEntries, VersionedMap

K = TypeVar("K")
P = TypeVar("P")
V = TypeVar("V")
T = TypeVar("T")
_Maps = tuple[VersionedMap[Any, Any], ...]
"""Maps of any types: the cache only compares their versions."""


class PlanCache:
    """Cache of results by key and inputs, held by the loop that plans one store after the other.

    Equal inputs return the identical value. `calls` is the number of results that were computed.

    The stores need not follow each other: a result is only reused, or updated, by what its inputs
    are, so a plan for another branch is correct, too. It merely replaces the results it differs in.
    """

    def __init__(self) -> None:
        # The functions of the callers determine the types of the results.
        self._known: dict[Hashable, tuple[tuple[object, ...], Any]] = {}
        self._followed: dict[Hashable, tuple[object, _Maps, Any]] = {}
        self.calls = 0

    def __call__(self, key: Hashable, function: Callable[..., T], *inputs: object) -> T:
        """Return `function(*inputs)`, or the last result for `key` if the inputs are equal."""
        known = self._known.get(key)
        if known is not None and known[0] == inputs:
            value: T = known[1]
            return value
        self.calls += 1
        value = function(*inputs)
        self._known[key] = (inputs, value)
        return value

    def same(self, key: Hashable, subject: str, value: T) -> T:
        """Return the last equal value for `key` and `subject`, or else `value`."""
        known = self._known.get((key, subject))
        if known is not None and known[1] == value:
            last: T = known[1]
            return last
        self._known[key, subject] = ((), value)
        return value

    def from_former(self, key: Hashable, build: Callable[[tuple[K, T] | None], T], inputs: K) -> T:
        """Return `build((former inputs, former result))`, or the last result for equal inputs.

        In the first call `build` gets None.
        """
        known: tuple[tuple[K], T] | None = self._known.get(key)  # type: ignore[assignment]
        if known is not None and known[0] == (inputs,):
            return known[1]
        self.calls += 1
        value = build((known[0][0], known[1]) if known is not None else None)
        self._known[key] = ((inputs,), value)
        return value

    def by_identity(self, key: Hashable, build: Callable[[], T], *inputs: object) -> T:
        """Return `build()`, or the last result for `key` if every input is the identical object.

        It is for inputs that are expensive to compare, such as all objects of a kind.
        """
        known = self._known.get(key)
        if known is not None and all(
            now is then for now, then in zip(inputs, known[0], strict=True)
        ):
            value: T = known[1]
            return value
        self.calls += 1
        value = build()
        self._known[key] = (inputs, value)
        return value

    def each(
        self, key: Hashable, function: Callable[..., T], items: VersionedMap[K, V], *inputs: object
    ) -> VersionedMap[K, T]:
        """Return `function(item, *inputs)` for each item.

        When the inputs equal those of the last call, only changed items are computed.
        """

        def build(
            former: VersionedMap[K, T] | None, news: ChangedEntries[K, V]
        ) -> VersionedMap[K, T]:
            self.calls += len(news) - 1  # `follow` counts one
            changes = {
                name: function(item, *inputs) if item is not None else None
                for name, (_, item) in news.items()
            }
            return (VersionedMap() if former is None else former).with_changes(changes)

        return self.follow(key, build, items, given=inputs)

    def each_key(
        self,
        key: Hashable,
        function: Callable[[K], T | None],
        *maps: VersionedMap[K, Any],
        given: object = (),
    ) -> VersionedMap[K, T]:
        """Return `function(name)` for each key that one of the maps has, without None.

        When `given` equals that of the last call, only changed keys are computed. Equal results
        are the identical value.
        """

        def build(
            former: VersionedMap[K, T] | None, *news: ChangedEntries[K, object]
        ) -> VersionedMap[K, T]:
            known = VersionedMap[K, T]() if former is None else former
            changes: dict[K, T | None] = {}
            for name in dict.fromkeys(name for of_map in news for name in of_map):
                before, now = known.get(name), function(name)
                changes[name] = before if before == now else now
            return known.with_changes(changes)

        return self.follow(key, build, *maps, given=given)

    def split(
        self, key: Hashable, part_of: Callable[[V], tuple[P, T]], items: VersionedMap[K, V]
    ) -> Mapping[P, VersionedMap[K, T]]:
        """Return the items in several maps; only those that changed are moved.

        part_of: returns the key of the map to which an item belongs, and its value there.
        """

        def build(
            former: Mapping[P, VersionedMap[K, T]] | None, news: ChangedEntries[K, V]
        ) -> Mapping[P, VersionedMap[K, T]]:
            changes: dict[P, dict[K, T | None]] = {}
            for name, (before, now) in news.items():
                if before is not None:
                    changes.setdefault(part_of(before)[0], {})[name] = None
                if now is not None:
                    part, value = part_of(now)
                    changes.setdefault(part, {})[name] = value
            result = dict(former or {})
            for part, changed in changes.items():
                result[part] = result.get(part, VersionedMap[K, T]()).with_changes(changed)
            return result

        return self.follow(key, build, items)

    def follow(
        self,
        key: Hashable,
        build: Callable[..., T],
        *maps: VersionedMap[Any, Any],
        given: object = (),
    ) -> T:
        """Return `build(former, *changes)`.

        former: previous result for `key`. changes: what changed in each map since then. In the
        first call, and when `given` differs from the previous call's, `former` is None and every
        item is new.
        """
        known = self._followed.get(key)
        if known is not None and known[0] == given:
            _, before, former = known
            if all(now is then for now, then in zip(maps, before, strict=True)):
                result: T = former
                return result
        else:
            former, before = None, (VersionedMap[Any, Any](),) * len(maps)
        self.calls += 1
        result = build(
            former, *(now.changes_since(then) for now, then in zip(maps, before, strict=True))
        )
        self._followed[key] = (given, maps, result)
        return result

    def forget(self, gone: Callable[[Hashable], bool]) -> None:
        """Drop the results of keys that will not be used again."""
        self._known = {key: value for key, value in self._known.items() if not gone(key)}
        self._followed = {key: value for key, value in self._followed.items() if not gone(key)}
