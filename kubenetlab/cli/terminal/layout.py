"""Layout: fold texts and fit the columns of a table into a width. Pure; nothing is printed here.

Widths are counted in the columns of a terminal, where a wide character such as 世 takes two.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

from msgspec import Struct

_MIN_FREE_TEXT: Final = 32
"""Width below which a column with free text is moved to lines of its own."""
_MIN_WIDTH: Final = 4
"""Width below which no column is narrowed."""
_MAX_EXCESS: Final = 10
"""Width, for each column of long names, by which a line may be too wide for these names to be
folded instead of moving columns."""
_MIN_LONG_NAME: Final = 20
"""Width of a long name."""
_MIN_COLUMNS: Final = 2
"""Number of columns that stay side by side on any terminal."""
_GAPS: Final = (3, 2)
"""Columns between the cells of a table: as kubectl has it, and where the table is too wide."""
DETAIL_INDENT: Final = 2
"""Indent of the lines below a row, relative to the row."""
_PIECES: Final = tuple(
    re.compile(pattern) for pattern in (r"\S+\s*", r"[^,;]*[,;]*", r"[^/=@-]*[/=@-]*")
)
"""Pieces that are kept on one line if they fit, in the order in which they are given up."""
FREE_TEXT: Final = frozenset(
    (
        "REMARK",
        "MESSAGE",
        "LABELS",
        "SELECTOR",
        "IMAGES",
        "DESCRIPTION",
        "SUMMARY",
        "ENDPOINTS",
        "FOUND",
        "NETNS",
    )
)
"""Headings of the columns that are narrowed first."""


class TableLayout(Struct, frozen=True):
    """Columns of a table, and the form of its rows in plain text."""

    header: Sequence[str]
    numbers: Sequence[str] = ()
    """Headings of the columns that are aligned to the right."""
    optional: Sequence[str] = ()
    """Headings of the columns that a narrow terminal leaves out, in this order."""
    indent: int = 0
    """Columns to the left of the table."""
    has_header: bool = True
    """False if the headings are not printed."""
    is_apart: bool = False
    """True if a terminal shows an empty line above the table."""
    plain: Callable[[Sequence[str]], str] | None = None
    """Returns a row as plain text, for rows that are sentences there; None: columns of text."""


class Arrangement(Struct, frozen=True):
    """Arrangement of a table's columns in a given width, in one or more lines for each row."""

    lines: Sequence[Sequence[tuple[int, int]]]
    """Index and width of the columns of each line. All lines but the first are indented."""
    gap: int
    """Blanks between two columns."""


def arrange(
    table: TableLayout, natural: Sequence[int], width: int, blank: AbstractSet[int] = frozenset()
) -> Arrangement:
    """Fit a table into a width.

    Columns in which every cell is empty are left out. If that is not enough, first the gaps are
    reduced, headings are folded, and columns without any value are left out.
    Then columns with free text are narrowed, or get a line of their own below the others. Then the
    last columns are moved to a second line, unless it is enough to narrow long names a little, so
    that all columns stay in one line.

    natural: width of the widest cell of each column.
    width: width for the whole table.
    blank: indices of the columns without any value.
    """
    header = table.header if table.has_header else [""] * len(natural)
    width -= table.indent
    whole = [max(cell, cell_width(name)) for cell, name in zip(natural, header, strict=True)]
    columns = [index for index in range(len(header)) if natural[index]]
    columns = columns or list(range(len(header)))
    for name in table.optional:
        if _total(whole, columns, _GAPS[0]) <= width:
            break
        if name in header:
            columns.remove(header.index(name))
    for gap in _GAPS:
        if _total(whole, columns, gap) <= width:
            return Arrangement([[(index, whole[index]) for index in columns]], gap)
    columns = [index for index in columns if index not in blank] or columns
    folded = [
        max(cell, max(map(cell_width, name.split()), default=0))
        for cell, name in zip(natural, header, strict=True)
    ]
    texts = [
        index
        for index in columns[1:]
        if table.header[index] in FREE_TEXT and folded[index] >= _MIN_LONG_NAME
    ]
    widths = _narrowed(folded, texts, _MIN_FREE_TEXT, _total(folded, columns, gap) - width)
    if _total(widths, columns, gap) <= width:
        return Arrangement([[(index, widths[index]) for index in columns]], gap)
    columns = [index for index in columns if index not in texts]
    moved: list[int] = []
    while len(columns) > _MIN_COLUMNS:
        long_names = sum(folded[index] >= _MIN_LONG_NAME for index in columns)
        allowed = 0 if moved else _MAX_EXCESS * long_names
        if _total(folded, columns, gap) - width <= allowed:
            break
        moved.insert(0, columns.pop())
    below = max(1, width - DETAIL_INDENT)
    return Arrangement(
        [
            _line(folded, columns, gap, width),
            *([_line(folded, moved, gap, below)] if moved else []),
            *([(index, below)] for index in texts),
        ],
        gap,
    )


def _line(
    widths: Sequence[int], columns: Sequence[int], gap: int, width: int
) -> list[tuple[int, int]]:
    """Return some columns as a line that is at most `width` wide."""
    widths = _narrowed(widths, columns, _MIN_WIDTH, _total(widths, columns, gap) - width)
    return [(index, widths[index]) for index in columns]


def _total(widths: Sequence[int], columns: Sequence[int], gap: int) -> int:
    """Return the width of some columns side by side."""
    return sum(widths[index] + gap for index in columns) - gap


def cell_width(text: str) -> int:
    """Return the width of a printable text."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def fold(text: str, width: int, indent: int = 0) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of the lines of a text, none of which is wider than `width`.

    Lines end at blanks, else after a comma, else after / = @ or -, else anywhere. Blanks at the end
    of a line are left out. A text of several lines keeps its own line breaks.

    indent: columns that the second and later lines of a folded line leave free.
    """
    offset = 0
    for line in text.split("\n"):
        for start, end in _fold_line(line, width, indent):
            yield offset + start, offset + end
        offset += len(line) + 1


def _fold_line(text: str, width: int, indent: int) -> Iterator[tuple[int, int]]:
    if cell_width(text) <= width:
        yield 0, len(text)
        return
    start, end, left = 0, 0, width
    blanks = len(text) - len(text.lstrip())
    for first, last in _pieces(text, blanks, len(text), max(1, width - max(indent, blanks)), 0):
        if end > start and cell_width(text[first:last].rstrip()) > left:
            yield start, start + len(text[start:end].rstrip())
            start, left = first, width - indent
        left -= cell_width(text[max(start, end) : last])
        end = last
    yield start, start + len(text[start:end].rstrip())


def _pieces(text: str, start: int, end: int, width: int, level: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of the pieces that are kept on one line, each at most `width` wide."""
    if level == len(_PIECES):
        while start < end:
            cut = _cut(text, start, end, width)
            yield start, cut
            start = cut
        return
    for piece in _PIECES[level].finditer(text, start, end):
        if cell_width(piece[0].rstrip()) <= width:
            if piece[0]:
                yield piece.span()
        else:
            yield from _pieces(text, *piece.span(), width, level + 1)


def _cut(text: str, start: int, end: int, width: int) -> int:
    """Return the end of the longest part from `start` that fits; at least one character."""
    used = 0
    for index in range(start, end):
        used += cell_width(text[index])
        if used > width:
            return max(index, start + 1)
    return end


def _narrowed(widths: Sequence[int], columns: Sequence[int], least: int, excess: int) -> list[int]:
    """Take `excess` from the widest of some columns, but make none narrower than `least`."""
    narrowed = list(widths)
    while excess > 0:
        widest = max((narrowed[index] for index in columns), default=0)
        if widest <= least:
            break
        highest = [index for index in columns if narrowed[index] == widest]
        lower = max((narrowed[index] for index in columns if narrowed[index] < widest), default=0)
        step = min(widest - max(lower, least), max(1, excess // len(highest)))
        for index in highest[: max(1, excess // step)]:
            narrowed[index] -= step
            excess -= step
    return narrowed
