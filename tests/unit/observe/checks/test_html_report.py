"""Page of a check: well-formed, without references, and readable without colours or sight."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest

from kubenetlab.observe.checks.html_report import PageNote, render_page
from kubenetlab.observe.checks.verdicts import RowVerdict, State


def verdict(
    source: str = "default/client",
    target: str = "svc:shop/web:80/TCP",
    expected: str = "allow",
    found: str = "answer",
    state: State = "holds",
    place: str = "",
) -> RowVerdict:
    return RowVerdict("t", source, target, expected, found, state, place)


def page(
    verdicts: Sequence[RowVerdict],
    notes: Sequence[PageNote] = (),
    remarks: Mapping[int, Sequence[str]] | None = None,
) -> Element:
    """Return the parsed page, which must refer to nothing and run nothing."""
    text = render_page("demo", verdicts, notes, remarks or {}, 1)
    assert not re.search(r"<script|url\(|@import|src=|href=", text)
    return ElementTree.fromstring(text.partition("\n")[2])


def headline(root: Element) -> str:
    return root.findtext("body/header/h1") or ""


def differences(root: Element) -> list[list[str]]:
    """Return the texts of the cells of the list of differences."""
    table = root.find("body/main/table")
    assert table is not None
    return [
        [text_of(cell) for cell in row.iter("td")]
        for row in table.iter("tr")
        if row.find("td") is not None
    ]


def text_of(cell: Element) -> str:
    """Return the lines of a cell, separated by `|`; names may be divided anywhere."""
    whole = ElementTree.tostring(cell, encoding="unicode").replace("<wbr />", "")
    return "|".join(filter(None, re.split(r"<[^>]+>", whole)))


def matrix(root: Element) -> Element | None:
    return next((each for each in root.iter("table") if each.get("class") == "matrix"), None)


@pytest.mark.parametrize(
    ("verdicts", "notes", "expected"),
    [
        ([verdict()], [], "✓ The check holds"),
        ([verdict()] * 3, [], "✓ All 3 checks hold"),
        ([verdict(state="fails")], [], "✗ 1 of 1 check fails"),
        ([verdict(), *[verdict(state="fails")] * 2], [], "✗ 2 of 3 checks fail"),
        (
            [verdict()] * 2,
            [PageNote("error", "Service a", "m", "f:1"), PageNote("advice", "x", "m", "")],
            "✗ All 2 checks hold, 1 diagnostic",
        ),
        ([verdict(state="untested")], [], "✗ 1 of 1 check not testable"),
        (
            [verdict(state="untested"), verdict(state="fails"), verdict()],
            [],
            "✗ 1 of 3 checks fails, 1 not testable",
        ),
        (
            [verdict(), verdict(expected="any", found="silence")],
            [],
            "✓ All 2 checks hold, 1 of them whatever the outcome",
        ),
        ([verdict()] * 2, [PageNote("accepted", "a", "m", "")], "✓ All 2 checks hold"),
    ],
)
def test_the_headline_says_the_result(
    verdicts: list[RowVerdict], notes: list[PageNote], expected: str
) -> None:
    root = page(verdicts, notes)
    assert headline(root) == expected
    assert root.findtext("head/title") == f"{expected[0]} kubenetlab check: demo"


def test_differences_with_the_same_cause_are_one_row() -> None:
    """A broken node is one row, not one for each pair; rows of a table keep their places."""
    pairs = [
        verdict(source, target, "answer", found, "fails")
        for source in ("a/x", "a/y")
        for target, found in (("svc:a/b:80/TCP", "silence"), ("svc:a/c:80/TCP", "unreachable"))
    ]
    rows = [verdict(found="silence", state="fails", place=f"expect.yaml:{n}") for n in (3, 4)]
    root = page([*pairs, *rows], remarks={4: ["NetworkPolicy shop/web isolates shop/web-0"]})
    assert differences(root) == [
        [
            "a/x|a/y",
            "svc:a/b:80/TCP|svc:a/c:80/TCP",
            "answer",
            "silence (2), unreachable (2)",
            "",
        ],
        [
            "default/client",
            "svc:shop/web:80/TCP",
            "allow",
            "silence|NetworkPolicy shop/web isolates shop/web-0",
            "expect.yaml:3",
        ],
        ["default/client", "svc:shop/web:80/TCP", "allow", "silence", "expect.yaml:4"],
    ]


def test_many_names_of_a_difference_are_folded_and_not_left_out() -> None:
    failing = [verdict(target=f"a/b:{port}/TCP", state="fails") for port in range(1, 13)]
    ((_, targets, *_),) = differences(page(failing))
    assert "and 8 more" in targets
    assert "a/b:12/TCP" in targets


def test_the_matrix_has_words_for_readers_of_screens_and_groups_of_namespaces() -> None:
    """Marks are drawn by the style sheet; the text of a cell says the result."""
    root = page(
        [
            verdict("default/client", "node:worker"),
            verdict("default/client", "kube-system/dns:53/UDP", "deny", "silence"),
            verdict("default/client", "svc:shop/web:80/TCP", "deny", "answer", "fails"),
            verdict("default/client", "shop/web-0", "allow", "silence", "fails"),
            verdict("ext:client", "http://web/x"),
            verdict("ext:client", "10.0.0.1:80/TCP", "any", "refused"),
            verdict("ext:client", "shop/web-0", "drop", "refused", "fails"),
            verdict("ext:client", "node:worker", "allow, from 10.0.0.9", "answer, saw x", "fails"),
            verdict("ext:client", "nodeport:worker/shop/web", "deny", "not testable", "untested"),
        ]
    )
    table = matrix(root)
    assert table is not None
    groups = [each for each in table.iter("th") if each.get("class") == "group"]
    assert [(each.findtext("span"), each.get("scope")) for each in groups] == [
        ("shop", "colgroup"),
        ("kube-system", "colgroup"),
        ("node ports", "colgroup"),
        ("nodes", "colgroup"),
        ("others", "colgroup"),
        ("default", "rowgroup"),
        ("outside", "rowgroup"),
    ]
    columns = [each.findtext("span") for each in table.iter("th") if each.get("class") == "column"]
    assert columns == [
        "svc:web:80/TCP",
        "web-0",
        "dns:53/UDP",
        "worker/shop/web",
        "worker",
        "http://web/x",
        "10.0.0.1:80/TCP",
    ]
    rows = [
        (head.text, [cell.text for cell in row.findall("td")])
        for row in table.iter("tr")
        if (head := row.find("th")) is not None and head.get("class") == "row"
    ]
    lost, opened = "does not connect, but should", "connects, but should not"
    other, untested = "another answer than expected", "not testable"
    anything = "holds whatever the outcome"
    assert rows == [
        ("client", [opened, lost, "does not connect", None, "connects", None, None]),
        ("client", [None, other, None, untested, other, "connects", anything]),
    ]


def test_a_matrix_with_very_many_targets_has_those_that_differ() -> None:
    """Without a difference there is none."""
    verdicts = [verdict("a/x", f"a/b:{port}/TCP") for port in range(1, 500)]
    assert matrix(page(verdicts)) is None
    table = matrix(page([*verdicts, verdict("a/x", "a/c:1/TCP", "deny", "answer", "fails")]))
    assert table is not None
    assert [cell.get("class") for cell in table.iter("td")] == [None, "open"]


def test_the_list_of_all_checks_says_what_it_leaves_out() -> None:
    root = page([verdict(target=f"a/b:{port}/TCP") for port in range(1, 5003)])
    titles = [each.text for each in root.iter("summary")]
    assert titles[-1] == "All checks (5000 of 5002)"


def test_diagnostics_come_before_the_matrix_and_advice_after_it() -> None:
    notes = [PageNote("advice", "NetworkPolicy a/b", "selects no pod", "p.yaml:3")]
    notes.append(PageNote("error", "Service a/b", "no port", "s.yaml:1"))
    root = page([verdict("a/x", "a/y"), verdict("a/x", "a/z")], notes)
    titles = [
        each.text for each in root.iter() if each.tag == "h2" or each.get("class") == "section"
    ]
    assert titles == ["Diagnostics (1)", "Matrix", "Advice (1)", "All checks (2)"]


def test_checks_that_hold_whatever_the_outcome_have_a_mark_of_their_own() -> None:
    """Their tick would say that they are as expected."""
    root = page([verdict(), verdict(expected="any", found="silence")])
    (table,) = [each for each in root.iter("table") if each.get("class") == "list all"]
    marks = [mark.text for mark in table.iter("span")]
    assert marks == ["✓", "○"]
