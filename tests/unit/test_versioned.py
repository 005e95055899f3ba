"""VersionedMap: what it says has changed is what has."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kubenetlab.hoststate.rules.nftables import Element
from kubenetlab.hoststate.rules.rulesets import Rules, RuleSet
from kubenetlab.versioned import MAX_STEPS, MAX_TOUCHED, VersionedMap

CHANGES = st.dictionaries(
    st.sampled_from("abcd"), st.one_of(st.none(), st.sampled_from(("x", "y"))), max_size=3
)


@given(st.lists(CHANGES, max_size=12), st.integers(0, 12), st.integers(0, 12), st.integers(0, 12))
def test_news_are_where_two_differ(
    steps: list[dict[str, str | None]], fork: int, one: int, other: int
) -> None:
    """Whichever came first, and also where they part."""
    maps = [VersionedMap[str, str]()]
    for changes in steps:
        maps.append(
            maps[min(fork, len(maps) - 1)].with_changes(changes)
            if fork % 2
            else maps[-1].with_changes(changes)
        )
    before, after = (maps[min(place, len(maps) - 1)] for place in (one, other))
    keys = before.keys() | after.keys()
    assert dict(after.news(before)) == {
        key: (before.get(key), after.get(key))
        for key in keys
        if before.get(key) is not after.get(key)
    }
    assert dict(after.news(dict(before))) == dict(after.news(before))


@given(CHANGES, CHANGES)
def test_what_changes_nothing_is_the_very_same(
    first: dict[str, str | None], second: dict[str, str | None]
) -> None:
    made = VersionedMap[str, str]().with_changes(first)
    assert made == {key: value for key, value in first.items() if value is not None}
    after = made.with_changes(second)
    assert (after is made) == all(made.get(key) == value for key, value in second.items())
    assert after.with_changes(second) is after


def test_news_come_in_the_order_in_which_they_came_about() -> None:
    """However many steps they took: who writes them down, or tells them on, keeps that order."""
    first = VersionedMap({"z": "x"})
    last = (
        first.with_changes({"c": "x"}).with_changes({"b": "x"}).with_changes({"a": "x", "c": "y"})
    )
    assert list(last.news(first)) == ["c", "b", "a"] == list(last)[1:]


def test_of_what_lies_far_back_everything_is_compared() -> None:
    """What is remembered has an end, and the answer is the same."""
    first = VersionedMap({"a": "x", "b": "x"})
    last = first
    for number in range(MAX_STEPS + 2):
        last = last.with_changes({"a": str(number)})
    assert len(last._steps) == MAX_STEPS
    assert dict(last.news(first)) == {"a": ("x", str(MAX_STEPS + 1))}
    after = last.with_changes({str(number): "many" for number in range(MAX_TOUCHED + 1)})
    assert after._steps == ()
    assert len(after.news(last)) == MAX_TOUCHED + 1


def rules(name: str, *shared: str) -> Rules:
    objects = tuple(Element("", "ip", "t", "set", item) for item in shared)
    return Rules("nftables", "ip", name, (), objects)


SUBJECTS = st.dictionaries(
    st.sampled_from("abc"),
    st.one_of(st.none(), st.lists(st.sampled_from("xyz"), max_size=3, unique=True)),
    max_size=3,
)


@given(st.lists(SUBJECTS, max_size=6))
def test_a_set_of_rules_counts_on(steps: list[dict[str, list[str] | None]]) -> None:
    """What it says of itself after many changes is what one says that was made at once; the order of the changes is not part of it."""
    found = RuleSet("nftables", VersionedMap())
    for step in steps:
        assert found.total >= 0
        assert all(found.shared.values())
        found = found.with_changes(
            {
                ("ip", name): None if items is None else rules(name, *items)
                for name, items in step.items()
            }
        )
    afresh = RuleSet("nftables", VersionedMap(sorted(found.by_subject.items())))
    assert (found.digest, dict(found.shared), found) == (afresh.digest, dict(afresh.shared), afresh)
