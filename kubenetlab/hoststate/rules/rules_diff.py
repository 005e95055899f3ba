"""Differences between two lists of rule objects of one backend."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Generic, NamedTuple

from kubenetlab.hoststate.object import Key
from kubenetlab.hoststate.rules.rulesets import (
    ChangedSubjects,
    DiffCache,
    NodeRules,
    RuleSet,
    RuleSets,
    RuleSetsDiff,
    RuleT,
    SubjectRules,
)


class RulesDiff(NamedTuple, Generic[RuleT]):
    """Difference of two lists of objects of one backend."""

    before: dict[Key, RuleT]
    """All single objects of the old list, by key."""
    after: dict[Key, RuleT]
    """All single objects of the new list, by key."""
    removed: list[SubjectRules[RuleT]]
    added: list[SubjectRules[RuleT]]
    changed: list[tuple[SubjectRules[RuleT], SubjectRules[RuleT]]]
    is_kept: Callable[[Key], bool]
    """Return True for a shared object that unchanged rules need."""
    sets: RuleSetsDiff[RuleT]
    """Difference of the rule sets."""

    def render_cached(self, render: Callable[[], str | None]) -> str | None:
        """Return the result of `render`; nodes with the same rule sets share it.

        It is not shared if single objects differ, too.
        """
        return self.sets.render(render) if self.before == self.after else render()


def rules_diff(
    old: Iterable[RuleT | NodeRules[RuleT]],
    new: Iterable[RuleT | NodeRules[RuleT]],
    cache: DiffCache | None = None,
) -> RulesDiff[RuleT]:
    """Return the difference of two lists, with all single objects and the changed rules."""
    (before, old_rules), (after, new_rules) = _split(old), _split(new)
    sets = (cache or DiffCache()).diff(old_rules, new_rules)
    is_kept = _SharedByKeptRules(new_rules, sets.changes)
    return RulesDiff(before, after, *sets.changes, is_kept, sets)


class _SharedByKeptRules(Generic[RuleT]):
    """Predicate: True for a shared object that unchanged rules need."""

    def __init__(self, sets: RuleSets[RuleT], changes: ChangedSubjects[RuleT]) -> None:
        self._sets = sets
        self._changes = changes

    def __call__(self, key: Key) -> bool:
        needed = sum(rules.shared.get(key, 0) for rules in self._sets.values())
        return needed > self._counts_of_changed[key]

    @cached_property
    def _counts_of_changed(self) -> Counter[Key]:
        new_rules = (*self._changes.added, *(pair[1] for pair in self._changes.changed))
        return Counter(key for rules in new_rules for key in rules.shared_keys)


def changed_members(
    old: Iterable[RuleT | NodeRules[RuleT]],
    new: Iterable[RuleT | NodeRules[RuleT]],
    cache: DiffCache | None = None,
) -> tuple[dict[Key, RuleT], dict[Key, RuleT]]:
    """Return the old and the new members by key, without those of unchanged rules."""
    return members_by_key(rules_diff(old, new, cache))


def members_by_key(diff: RulesDiff[RuleT]) -> tuple[dict[Key, RuleT], dict[Key, RuleT]]:
    """Return the old and the new members of a difference by key.

    Shared objects that unchanged rules need are in neither.
    """
    removed, added = (
        [*diff.removed, *(pair[0] for pair in diff.changed)],
        [*diff.added, *(pair[1] for pair in diff.changed)],
    )
    before = diff.before | {
        obj.key: obj for rules in removed for obj in (*rules.objects, *rules.shared)
    }
    after = diff.after | {
        obj.key: obj for rules in added for obj in (*rules.objects, *rules.shared)
    }
    old_shared, new_shared = (
        frozenset[Key]().union(*(rules.shared_keys for rules in side)) for side in (removed, added)
    )
    for key in filter(diff.is_kept, old_shared ^ new_shared):
        before.pop(key, None)
        after.pop(key, None)
    return before, after


def _split(
    objects: Iterable[RuleT | NodeRules[RuleT]],
) -> tuple[dict[Key, RuleT], RuleSets[RuleT]]:
    """Return the single objects by key, and the rule sets by owner."""
    single: dict[Key, RuleT] = {}
    sets: dict[str, RuleSet[RuleT]] = {}
    for obj in objects:
        if isinstance(obj, NodeRules):
            sets[obj.owner] = obj.rules
        else:
            single[obj.key] = obj
    return single, sets
