"""Differences between two lists of rule objects of one backend."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

from kubenetlab.hoststate.object import Key
from kubenetlab.hoststate.rules.rulesets import ChangedSubjects, NodeRules, RuleSet, SubjectRules
from kubenetlab.versioned import VersionedMap

T = TypeVar("T")


class RulesDiff(NamedTuple):
    """Difference of two lists of objects of one backend."""

    before: dict[Key, Any]
    """All single objects of the old list, by key."""
    after: dict[Key, Any]
    """All single objects of the new list, by key."""
    removed: list[SubjectRules]
    added: list[SubjectRules]
    changed: list[tuple[SubjectRules, SubjectRules]]
    is_kept: Callable[[Key], bool]
    """Return True for a shared object that unchanged rules need."""
    sets: tuple[RuleSet, RuleSet]
    """Old and new rule set."""

    def render_cached(self, render: Callable[[], T]) -> T:
        """Return the result of `render`; nodes with the same two rule sets share it.

        It is not shared if single objects differ, too.
        """
        old, new = self.sets
        return new.render_diff(old, render) if self.before == self.after else render()


def rules_diff(old: Iterable[Any], new: Iterable[Any]) -> RulesDiff:
    """Return the difference of two lists, with all single objects and the changed rules."""
    (before, old_rules), (after, new_rules) = _split(old), _split(new)
    changed = new_rules.diff_from(old_rules)
    return RulesDiff(
        before, after, *changed, _SharedByKeptRules(new_rules, changed), (old_rules, new_rules)
    )


class _SharedByKeptRules:
    """Predicate: True for a shared object that unchanged rules need."""

    def __init__(self, rules: RuleSet, changes: ChangedSubjects) -> None:
        self._rules = rules
        self._changes = changes

    def __call__(self, key: Key) -> bool:
        return self._rules.shared.get(key, 0) > self._counts_of_changed[key]

    @cached_property
    def _counts_of_changed(self) -> Counter[Key]:
        new_rules = (*self._changes.added, *(pair[1] for pair in self._changes.changed))
        return Counter(key for rules in new_rules for key in rules.shared_keys)


def changed_members(
    old: Iterable[Any], new: Iterable[Any]
) -> tuple[dict[Key, Any], dict[Key, Any]]:
    """Return the old and the new members by key, without those of unchanged rules."""
    return members_by_key(rules_diff(old, new))


def members_by_key(diff: RulesDiff) -> tuple[dict[Key, Any], dict[Key, Any]]:
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


def _split(objects: Iterable[Any]) -> tuple[dict[Key, Any], RuleSet]:
    """Return the single objects by key, and the rule set: a namespace has at most one a backend."""
    single: dict[Key, Any] = {}
    rules = NO_RULES
    for obj in objects:
        if isinstance(obj, NodeRules):
            rules = obj.rules
        else:
            single[obj.key] = obj
    return single, rules


NO_RULES = RuleSet("", VersionedMap())
