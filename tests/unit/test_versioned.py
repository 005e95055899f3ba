"""A VersionedMap reports exactly the entries that differ from another map."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kubenetlab.hoststate.rules.nftables import Element, SetType
from kubenetlab.hoststate.rules.rulesets import RuleSet, SubjectRules
from kubenetlab.versioned import MAX_STEPS, MAX_TOUCHED, VersionedMap

CHANGES = st.dictionaries(
    st.sampled_from("abcd"), st.one_of(st.none(), st.sampled_from(("x", "y"))), max_size=3
)


@given(st.lists(CHANGES, max_size=12), st.integers(0, 12), st.integers(0, 12), st.integers(0, 12))
def test_news_contain_the_entries_that_differ(
    steps: list[dict[str, str | None]], fork: int, one: int, other: int
) -> None:
    """Either version can be the older one, and neither has to derive from the other."""
    maps = [VersionedMap[str, str]()]
    for changes in steps:
        maps.append(
            maps[min(fork, len(maps) - 1)].with_changes(changes)
            if fork % 2
            else maps[-1].with_changes(changes)
        )
    before, after = (maps[min(position, len(maps) - 1)] for position in (one, other))
    keys = before.keys() | after.keys()
    assert dict(after.changes_since(before)) == {
        key: (before.get(key), after.get(key))
        for key in keys
        if before.get(key) is not after.get(key)
    }
    assert dict(after.changes_since(dict(before))) == dict(after.changes_since(before))


@given(CHANGES, CHANGES)
def test_changes_without_effect_return_the_map_itself(
    first: dict[str, str | None], second: dict[str, str | None]
) -> None:
    """A change to equal values, or the removal of a missing key, makes no new version."""
    before = VersionedMap[str, str]().with_changes(first)
    assert before == {key: value for key, value in first.items() if value is not None}
    after = before.with_changes(second)
    assert (after is before) == all(before.get(key) == value for key, value in second.items())
    assert after.with_changes(second) is after


@given(CHANGES, CHANGES)
def test_equal_values_stay_when_all_entries_are_replaced(
    first: dict[str, str | None], second: dict[str, str | None]
) -> None:
    """The map has the new entries, and those with equal values are the former objects."""
    before, entries = (
        {key: [value] for key, value in changes.items() if value is not None}
        for changes in (first, second)
    )
    known = VersionedMap(before)
    after = known.replaced_by(entries)
    assert after == entries
    assert all(after[key] is value for key, value in before.items() if entries.get(key) == value)
    assert (after is known) == (before == entries)


def test_news_are_in_the_order_of_the_changes() -> None:
    """Consumers store and forward changes in the order in which they happened."""
    first = VersionedMap({"z": "x"})
    last = (
        first.with_changes({"c": "x"}).with_changes({"b": "x"}).with_changes({"a": "x", "c": "y"})
    )
    assert list(last.changes_since(first)) == ["c", "b", "a"] == list(last)[1:]


def test_an_old_version_is_compared_entry_by_entry() -> None:
    """The number of remembered steps is limited; the result does not depend on it."""
    first = VersionedMap({"a": "x", "b": "x"})
    last = first
    for number in range(MAX_STEPS + 2):
        last = last.with_changes({"a": str(number)})
    assert len(last._steps) == MAX_STEPS
    assert dict(last.changes_since(first)) == {"a": ("x", str(MAX_STEPS + 1))}
    after = last.with_changes({str(number): "many" for number in range(MAX_TOUCHED + 1)})
    assert after._steps == ()
    assert len(after.changes_since(last)) == MAX_TOUCHED + 1


def rules(name: str, *shared: str) -> SubjectRules[Element]:
    objects = tuple(
        Element("", "ip", "t", "set", SetType(("ipv4_addr",)), (item,)) for item in shared
    )
    return SubjectRules("nftables", "ip", name, (), objects)


SUBJECTS = st.dictionaries(
    st.sampled_from("abc"),
    st.one_of(st.none(), st.lists(st.sampled_from("xyz"), max_size=3, unique=True)),
    max_size=3,
)


@given(st.lists(SUBJECTS, max_size=6))
def test_a_rule_set_updates_its_totals(steps: list[dict[str, list[str] | None]]) -> None:
    """Totals after many changes equal those of a set built at once, in any order of changes."""
    rule_set: RuleSet[Element] = RuleSet("nftables", VersionedMap())
    for step in steps:
        assert rule_set.total >= 0
        assert all(rule_set.shared.values())
        rule_set = rule_set.with_changes(
            {
                ("ip", name): None if items is None else rules(name, *items)
                for name, items in step.items()
            }
        )
    rebuilt = RuleSet("nftables", VersionedMap(sorted(rule_set.by_subject.items())))
    assert (rule_set.digest, dict(rule_set.shared), rule_set) == (
        rebuilt.digest,
        dict(rebuilt.shared),
        rebuilt,
    )
