"""Lines of the ping matrix: one mark per cell, laid out for the width of the terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from kubenetlab.cli.terminal.printing import echo, print_table
from kubenetlab.cli.terminal.theme import BAD, GOOD, MUTED, WARNING, paint
from kubenetlab.observe.expect import Destination
from kubenetlab.observe.matrix import Cell, Matrix
from kubenetlab.observe.targets.locations import Location

_MARKS: Final = {"answer": "●", "refused": "×", "unreachable": "·", "silence": "·"}
"""Mark per outcome. Silence and "unreachable" share a mark, because routers limit the rate of ICMP
errors (Linux: five, then one a second)."""
_MAX_SPACED: Final = 50
"""Maximum number of destinations for which marks are separated by spaces."""
_MIN_COLUMNS: Final = 8
"""Minimum number of marks per line of a block, even if the terminal is too narrow for them."""

_Block = list[tuple[Destination, str]]
"""Destinations, each with the gap that follows it."""


def matrix_lines(matrix: Matrix, width: int | None = None) -> Iterator[str]:
    """Yield the lines of a matrix that is at most `width` columns wide; None sets no limit.

    Destinations are numbered: those that are also sources by their rows, the others in the list of
    `print_other_destinations`. If the matrix is too wide, first the spaces between marks are
    dropped, then it is split into blocks of columns, one below the other.
    """
    numbers = {column.title: str(index + 1) for index, column in enumerate(matrix.destinations)}
    depth = max((len(number) for number in numbers.values()), default=0)
    titles = max((len(row.title) for row in matrix.sources), default=0)
    margin = depth + titles + 2
    cells = {(cell.source.sandbox, cell.destination.title): cell for cell in matrix.cells}
    cells_of: dict[str, list[Cell]] = {}
    for cell in matrix.cells:
        cells_of.setdefault(cell.source.sandbox, []).append(cell)
    for block in _blocks(matrix.destinations, None if width is None else width - margin):
        for level in range(depth):
            heading = "".join(
                numbers[column.title].rjust(depth)[level] + gap for column, gap in block
            )
            yield " " * margin + paint(heading.rstrip(), MUTED)
        for row in matrix.sources:
            number = paint(numbers.get(row.title, "").rjust(depth), MUTED)
            marks = "".join(
                _mark(cells.get((row.sandbox, column.title))) + gap for column, gap in block
            )
            is_fine = all(cell.is_as_promised for cell in cells_of.get(row.sandbox, ()))
            title = _paint_title(row.title, None if is_fine else BAD)
            yield f"{number} {title}{' ' * (titles - len(row.title))} {marks.rstrip()}"
        yield ""


def print_other_destinations(matrix: Matrix) -> None:
    """Print the numbers of the destinations that are no sources, with their addresses."""
    rows = {row.title for row in matrix.sources}
    depth = len(str(len(matrix.destinations)))
    others = [
        (
            f"{paint(str(index + 1).rjust(depth), MUTED)} {_paint_title(column.title)}",
            paint(_addresses(column), MUTED),
            "" if isinstance(column, Location) or column.endpoints else "no ready endpoint",
        )
        for index, column in enumerate(matrix.destinations)
        if column.title not in rows
    ]
    if not others:
        return
    print_table(
        ("DESTINATION", "ADDRESS", "REMARK"),
        others,
        has_header=False,
        plain=lambda row: "  ".join(filter(None, row)),
    )
    echo()


def legend_lines(width: int | None = None, *, has_untested: bool = False) -> Iterator[str]:
    """Yield the legend of the marks, wrapped at `width` columns; None sets no limit.

    has_untested: also explain the mark of probes whose protocol the kernel does not have.
    """
    entries: tuple[tuple[str, str, str], ...] = (
        ("●", GOOD, "answers"),
        ("×", WARNING, "refuses"),
        ("·", MUTED, "no answer"),
        ("!", BAD, "answers, against the promise"),
        ("✗", BAD, "does not, against the promise"),
    )
    if has_untested:
        entries = (*entries, ("?", WARNING, "not testable: this kernel has no SCTP"))
    line, line_width = "", 0
    for mark, colour, meaning in entries:
        entry_width = len(mark) + 1 + len(meaning)
        if line and width is not None and line_width + 2 + entry_width > width:
            yield line
            line, line_width = "", 0
        line += ("  " if line else "") + f"{paint(mark, colour)} {meaning}"
        line_width += (2 if line_width else 0) + entry_width
    yield line


def _blocks(columns: Sequence[Destination], max_width: int | None) -> list[_Block]:
    """Split destinations into blocks of at most `max_width` terminal columns; None sets no limit.

    Each destination has the gap that follows it.
    """
    layouts = [_with_gaps(columns, is_spaced=is_spaced) for is_spaced in (True, False)]
    if len(columns) > _MAX_SPACED:
        layouts = layouts[1:]
    for layout in layouts:
        if max_width is None or _width(layout) <= max_width:
            return [layout] if layout else []
    blocks: list[_Block] = [[]]
    for entry in layouts[-1]:
        if _width([*blocks[-1], entry]) > max(max_width or 0, _MIN_COLUMNS):
            blocks.append([])
        blocks[-1].append(entry)
    return blocks


def _with_gaps(columns: Sequence[Destination], *, is_spaced: bool) -> _Block:
    """Return each destination with its gap, which is wider between kinds of destinations."""
    narrow, wide = (" ", "  ") if is_spaced else ("", " ")
    kinds = [column.kind if isinstance(column, Location) else "svc" for column in columns]
    following = [*kinds[1:], kinds[-1]] if kinds else []
    return [
        (column, narrow if kind == next_kind else wide)
        for column, kind, next_kind in zip(columns, kinds, following, strict=True)
    ]


def _width(block: _Block) -> int:
    """Return the width of a block in terminal columns; the last gap is not drawn."""
    return sum(1 + len(gap) for _, gap in block) - (len(block[-1][1]) if block else 0)


def _mark(cell: Cell | None) -> str:
    if cell is None:
        return paint("-", MUTED)
    outcome = cell.result.outcome
    if outcome == "not testable":
        return paint("?", WARNING)
    if not cell.is_as_promised:
        return paint("✗" if outcome != "answer" else "!", BAD)
    return paint(
        _MARKS[outcome], GOOD if outcome == "answer" else WARNING if outcome == "refused" else MUTED
    )


def _paint_title(title: str, style: str | None = None) -> str:
    """Return a title whose kind and namespace are secondary to its name, which has a style."""
    scope = re.match(r"(?:[a-z]+:)?(?:[^/:]+/)?", title)
    end = scope.end() if scope is not None else 0
    return paint(title[:end], MUTED) + paint(title[end:], style)


def _addresses(column: Destination) -> str:
    return ", ".join(column.addresses) if isinstance(column, Location) else str(column.address)
