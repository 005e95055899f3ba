"""Calico's label selectors: each operator, precedence, and errors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tests.examples  # noqa: F401
from kubenetlab.api.calico.selectors import (
    All,
    And,
    Comparison,
    Expression,
    Has,
    Membership,
    Not,
    Or,
    parse_selector,
    selector_fault,
)

LABELS = {"zone": "a", "disk": "ssd", "example.com/app": "web-1"}


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("", True),
        ("all()", True),
        ("global()", True),
        ('zone == "a"', True),
        ("zone == 'b'", False),
        ('zone != "b"', True),
        ('missing != "b"', True),
        ("has(disk)", True),
        ("!has(disk)", False),
        ('disk in {"hdd", "ssd"}', True),
        ('disk not in {"hdd", "ssd"}', False),
        ('missing not in {"a"}', True),
        ('example.com/app starts with "web"', True),
        ('example.com/app ends with "-1"', True),
        ('example.com/app contains "eb-"', True),
        ('missing contains ""', False),
        ('zone == "b" || zone == "a" && has(disk)', True),
        ('(zone == "b" || zone == "a") && !has(disk)', False),
        ('!(zone == "b") && !!has(zone)', True),
        ("zone notin {'b', 'c',}", True),
        ("zone in {}", False),
        ("zone startswith 'a' && disk endswith 'd'", True),
        ("in == 'a' || has(disk)", True),
    ],
)
def test_a_selector_matches_labels(selector: str, expected: bool) -> None:
    assert parse_selector(selector).matches(LABELS) is expected


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("zone ==", "column 8: expected a value in quotes, found the end of the selector"),
        ("zone = 'a'", 'column 6: expected an operator after the label, found "="'),
        ("has(zone", 'column 9: expected ")" after has(, found the end of the selector'),
        ("has()", 'column 5: expected a label, found ")"'),
        ("zone == a", 'column 9: expected a value in quotes, found "a"'),
        ("all() all()", 'column 7: expected &&, || or the end, found "all()"'),
        ("zone in {'a' 'b'}", 'column 14: expected a value in quotes, "," or "}", found "\'b\'"'),
        ("zone in 'a'", 'column 9: expected a set such as {"a", "b"}, found "\'a\'"'),
        ("&&", 'column 1: expected a label, has(…), all(), ! or (, found "&&"'),
        ("zone ~ 'a'", 'column 6: expected an operator after the label, found "~"'),
        ("zone inside {'a'}", 'column 6: expected an operator after the label, found "inside"'),
        ("has (zone)", 'column 5: expected an operator after the label, found "("'),
        ("(all()", 'column 7: expected &&, || or ")", found the end of the selector'),
        ("zone == 'a", "column 9: expected a closing quote, found the end of the selector"),
        ("$x == 'a'", 'column 1: expected a label, a value in quotes or an operator, found "$"'),
        (f"{'x' * 513} == 'a'", "column 1: expected a label of at most 512 characters"),
        (f"{'(' * 101}all(){')' * 101}", "column 101: expected at most 100 parentheses"),
    ],
)
def test_an_error_names_the_column_and_shows_examples(selector: str, expected: str) -> None:
    with pytest.raises(ValueError, match="examples: all") as error:
        parse_selector(selector)
    assert str(error.value).startswith(expected)


_LABELS = st.from_regex(r"[A-Za-z0-9_./-]{1,8}", fullmatch=True)
_VALUES = st.text("ab c&'(", max_size=4)
_OPERATORS = st.sampled_from(["==", "!=", "contains", "starts with", "ends with"])
_SETS = st.frozensets(_VALUES, max_size=3).map(lambda values: tuple(sorted(values)))
_LEAVES: st.SearchStrategy[Expression] = st.one_of(
    st.just(All()),
    st.builds(Has, _LABELS),
    st.builds(Comparison, _LABELS, _OPERATORS, _VALUES),
    st.builds(Membership, _LABELS, _SETS, st.booleans()),
)
EXPRESSIONS: st.SearchStrategy[Expression] = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        inner.filter(lambda each: not isinstance(each, Not)).map(Not),
        st.lists(inner, min_size=2, max_size=3).map(lambda each: And(tuple(each))),
        st.lists(inner, min_size=2, max_size=3).map(lambda each: Or(tuple(each))),
    ),
    max_leaves=8,
)


@given(expression=EXPRESSIONS)
def test_a_printed_selector_is_parsed_to_the_same_expression(expression: Expression) -> None:
    assert parse_selector(str(expression)) == expression


@given(expression=EXPRESSIONS, labels=st.dictionaries(_LABELS, _VALUES, max_size=3))
def test_negation_inverts_every_match(expression: Expression, labels: dict[str, str]) -> None:
    negated = parse_selector(f"!({expression})")
    assert negated.matches(labels) is not expression.matches(labels)


@given(text=st.text("abz=!&|(){}'\", has().", max_size=20))
def test_any_text_is_parsed_or_refused_with_a_column(text: str) -> None:
    fault = selector_fault(text)
    assert fault == "" or fault.startswith("column ")
