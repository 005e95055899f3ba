"""Ledger: what it says has changed is what has."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kubenetlab.hoststate.nftables import Element
from kubenetlab.hoststate.rules import Rules, RuleSet
from kubenetlab.ledger import MAX_STEPS, MAX_TOUCHED, Ledger

CHANGES = st.dictionaries(st.sampled_from("abcd"), st.one_of(st.none(), st.sampled_from(("x", "y"))), max_size=3)


@given(st.lists(CHANGES, max_size=12), st.integers(0, 12), st.integers(0, 12), st.integers(0, 12))
def test_news_are_where_two_ledgers_differ(steps: list[dict[str, str | None]], fork: int, one: int, other: int) -> None:
    """Whichever came first, and also where they part."""
    ledgers = [Ledger[str, str]()]
    for changes in steps:
        ledgers.append(ledgers[min(fork, len(ledgers) - 1)].with_changes(changes) if fork % 2 else ledgers[-1].with_changes(changes))
    before, after = (ledgers[min(place, len(ledgers) - 1)] for place in (one, other))
    keys = before.keys() | after.keys()
    assert dict(after.news(before)) == {key: (before.get(key), after.get(key)) for key in keys if before.get(key) is not after.get(key)}
    assert dict(after.news(dict(before))) == dict(after.news(before))


@given(CHANGES, CHANGES)
def test_what_changes_nothing_is_the_very_same(first: dict[str, str | None], second: dict[str, str | None]) -> None:
    made = Ledger[str, str]().with_changes(first)
    assert made == {key: value for key, value in first.items() if value is not None}
    after = made.with_changes(second)
    assert (after is made) == all(made.get(key) == value for key, value in second.items())
    assert after.with_changes(second) is after


def test_of_what_lies_far_back_everything_is_compared() -> None:
    """What is remembered has an end, and the answer is the same."""
    first = Ledger({"a": "x", "b": "x"})
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
    st.sampled_from("abc"), st.one_of(st.none(), st.lists(st.sampled_from("xyz"), max_size=3, unique=True)), max_size=3
)


@given(st.lists(SUBJECTS, max_size=6))
def test_a_set_of_rules_counts_on(steps: list[dict[str, list[str] | None]]) -> None:
    """What it says of itself after many changes is what one says that was made at once; the order of the changes is not part of it."""
    found = RuleSet("nftables", Ledger())
    for step in steps:
        assert found.total >= 0
        assert all(found.shared.values())
        found = found.with_changes({("ip", name): None if items is None else rules(name, *items) for name, items in step.items()})
    afresh = RuleSet("nftables", Ledger(sorted(found.by_subject.items())))
    assert (found.digest, dict(found.shared), found) == (afresh.digest, dict(afresh.shared), afresh)
