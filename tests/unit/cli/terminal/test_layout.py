"""Folding of texts, and columns of tables on terminals of any width."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenetlab.cli.terminal.layout import DETAIL_INDENT, TableLayout, arrange, cell_width, fold


def _folded(text: str, width: int, indent: int = 0) -> list[str]:
    return [text[start:end] for start, end in fold(text, width, indent)]


@pytest.mark.parametrize(
    ("text", "width", "expected"),
    [
        ("", 5, [""]),
        ("a\n\nb", 5, ["a", "", "b"]),
        ("assigned default/client to worker", 20, ["assigned", "default/client to", "worker"]),
        ("app=web,tier=backend,zone=a", 20, ["app=web,", "tier=backend,zone=a"]),
        ("frontend-5f4b6bbbb5-pdcp5", 16, ["frontend-", "5f4b6bbbb5-pdcp5"]),
        ("x" * 12, 5, ["xxxxx", "xxxxx", "xx"]),
        ("世界世界 a", 4, ["世界", "世界", "a"]),
        ("    ip daddr 10.96.0.1 drop", 16, ["    ip daddr", "10.96.0.1 drop"]),
    ],
)
def test_a_text_is_folded_between_words(text: str, width: int, expected: list[str]) -> None:
    """Else after commas, else after other punctuation, else anywhere."""
    assert _folded(text, width) == expected


@given(
    st.text(
        st.characters(codec="utf-8", exclude_categories=["C", "Zl", "Zp", "M"]) | st.just("\n")
    ),
    st.integers(2, 60),
    st.integers(0, 10),
)
def test_a_folded_text_is_whole_and_fits(text: str, width: int, indent: int) -> None:
    """Only blanks are left out; lines that follow another leave room for the indent."""
    lines = _folded(text, width, indent)
    assert "".join("".join(lines).split()) == "".join(text.split())
    for line in lines:
        assert cell_width(line) <= width
    if "\n" not in text:
        assert all(cell_width(line) <= max(2, width - indent) for line in lines[1:])


WIDE = TableLayout(("NAMESPACE", "NAME", "STATUS", "READINESS GATES", "NODE", "LABELS"))
NATURAL = (11, 25, 7, 6, 13, 60)


@pytest.mark.parametrize(
    ("width", "blank", "expected"),
    [
        (152, (), [[11, 25, 7, 15, 13, 60]]),
        (146, (), [[11, 25, 7, 15, 13, 60]]),
        (140, (), [[11, 25, 7, 9, 13, 60]]),
        (140, (3,), [[11, 25, 7, 13, 60]]),
        (110, (3,), [[11, 25, 7, 13, 46]]),
        (90, (), [[11, 25, 7, 9, 13], [88]]),
        (70, (3,), [[11, 25, 7, 13], [68]]),
        (60, (3,), [[11, 23, 7, 13], [58]]),
        (30, (3,), [[11, 17], [7, 13], [28]]),
    ],
)
def test_a_table_is_arranged_for_the_width(
    width: int, blank: tuple[int, ...], expected: list[list[int]]
) -> None:
    """Gaps and headings first, then free text, then the last columns; names are folded last."""
    lines = arrange(WIDE, NATURAL, width, frozenset(blank)).lines
    assert [[column for _, column in line] for line in lines] == expected


@pytest.mark.parametrize(
    ("natural", "width", "expected"),
    [
        ((33, 29, 7, 7, 14, 0), 80, [[21, 22, 8, 7, 14]]),
        ((33, 29, 7, 7, 14, 0), 72, [[33, 29], [8, 7, 14]]),
        ((17, 22, 7, 50, 14, 0), 80, [[17, 22, 8, 14], [78]]),
        ((11, 18, 9, 12, 21, 3), 80, [[11, 16, 9, 12, 16, 6]]),
        ((11, 18, 9, 12, 19, 3), 78, [[11, 18, 9, 12, 19], [6]]),
    ],
)
def test_long_names_are_folded_if_no_column_has_to_move(
    natural: tuple[int, ...], width: int, expected: list[list[int]]
) -> None:
    """A long result is free text, which gets a line of its own; a short one stays in its column."""
    table = TableLayout(("SOURCE", "TARGET", "EXPECTED", "FOUND", "PLACE", "REMARK"))
    lines = arrange(table, natural, width).lines
    assert [[column for _, column in line] for line in lines] == expected


@given(
    st.lists(st.tuples(st.sampled_from(WIDE.header), st.integers(0, 90)), min_size=1, max_size=9),
    st.integers(16, 200),
    st.integers(0, 4),
)
def test_no_line_of_a_table_is_too_wide(
    columns: list[tuple[str, int]], width: int, indent: int
) -> None:
    """And every column with a value is shown once."""
    layout = TableLayout([name for name, _ in columns], indent=indent)
    arrangement = arrange(layout, [natural for _, natural in columns], width)
    shown = [index for line in arrangement.lines for index, _ in line]
    with_value = [index for index, (_, natural) in enumerate(columns) if natural]
    assert sorted(shown) == (with_value or list(range(len(columns))))
    for number, line in enumerate(arrangement.lines):
        total = sum(column + arrangement.gap for _, column in line) - arrangement.gap
        least = 4 * len(line) + arrangement.gap * (len(line) - 1)
        assert total + indent + (DETAIL_INDENT if number else 0) <= max(width, least + indent + 2)


@pytest.mark.parametrize(
    ("width", "columns"), [(80, 4), (37, 4), (36, 3), (29, 3), (28, 2), (20, 2)]
)
def test_optional_columns_are_left_out_first(width: int, columns: int) -> None:
    """In their order, and only as many as needed."""
    layout = TableLayout(
        ("LAB", "OWNER", "PODS", "MEMORY"), optional=("OWNER", "MEMORY"), numbers=("MEMORY",)
    )
    (line, *_) = arrange(layout, (10, 5, 7, 6), width).lines
    kept = {4: [0, 1, 2, 3], 3: [0, 2, 3], 2: [0, 2]}[columns]
    assert [index for index, _ in line] == kept
