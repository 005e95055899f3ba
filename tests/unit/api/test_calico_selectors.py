"""Calico's label selectors: each operator, precedence, and errors."""

from __future__ import annotations

import pytest

from kubenetlab.api.calico.selectors import parse_selector

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
    ],
)
def test_a_selector_matches_labels(selector: str, expected: bool) -> None:
    assert parse_selector(selector)(LABELS) is expected


@pytest.mark.parametrize(
    ("selector", "culprit"),
    [
        ("zone ==", "the end"),
        ("zone = 'a'", "= 'a'"),
        ("has(zone", "the end"),
        ("zone == a", '"a"'),
        ("all() all()", '"all"'),
        ("zone in {}", '"}"'),
        ("&&", '"&&"'),
        ("zone ~ 'a'", "~"),
    ],
)
def test_an_error_names_the_wrong_part_and_shows_examples(selector: str, culprit: str) -> None:
    with pytest.raises(ValueError, match="examples: all") as error:
        parse_selector(selector)
    assert culprit in str(error.value)
