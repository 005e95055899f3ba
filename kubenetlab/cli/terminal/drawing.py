"""Drawing of tables with rich, for terminals.

Only `printing` imports this module, and only to draw. Of rich it imports segments and styles, which
takes half as long as the console, and the console where lines are redrawn in place. Tables have a
renderable of their own: `rich.table` would take 0.3 s for a thousand pods, and would narrow all
columns alike.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TextIO

from rich.color import ColorSystem
from rich.segment import Segment
from rich.style import Style

from kubenetlab.cli.terminal import layout
from kubenetlab.cli.terminal.layout import TableLayout
from kubenetlab.cli.terminal.theme import HEADER, MUTED, STYLES, spans, unpaint
from kubenetlab.errors import escape_control_characters

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from kubenetlab.cli.terminal.display import Display

UNLIMITED: Final = 10_000
"""Width for which tables are arranged if lines may have any length, in columns."""
_MARK_WIDTH: Final = 2
"""Width of a mark and the blank after it."""
_BLANK: Final = ("", "<none>")
"""Cells without a value."""
_PALETTE: Final[Mapping[str, Style]] = {
    name: Style.parse(definition) for name, definition in STYLES.items()
}

Cell = list[tuple[list[Segment], int]]
"""Lines of a cell, each with its width."""


def draw(grid: Grid, screen: Display) -> None:
    """Draw a table on standard output."""
    colours = ColorSystem.STANDARD if screen.has_colours else None
    sys.stdout.write(
        "".join(
            style.render(text, color_system=colours) if style is not None else text
            for text, style, _ in grid.segments(screen.width or UNLIMITED)
        )
    )
    sys.stdout.flush()


def console(stream: TextIO, screen: Display) -> Console:
    """Return a console that draws on a terminal in the colours of the theme."""
    from rich.console import Console
    from rich.theme import Theme

    return Console(
        file=stream,
        force_terminal=True,
        color_system="standard" if screen.has_colours else None,
        no_color=not screen.has_colours,
        width=screen.width,
        theme=Theme(STYLES, inherit=False),
        highlight=False,
        markup=False,
        emoji=False,
    )


@contextmanager
def redrawn(
    screen: Display, numbers: Sequence[str], optional: Sequence[str]
) -> Iterator[Callable[[Sequence[str], Iterable[Sequence[str]]], None]]:
    """Draw a table in place, again and again; yield the function that draws a header and rows."""
    from rich.live import Live

    with Live(console=console(sys.stdout, screen), auto_refresh=False) as live:

        def redraw(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
            grid = Grid(TableLayout(header, numbers, optional))
            live.update(grid.with_rows(rows), refresh=True)

        yield redraw


class Grid:
    """A table that fits into the width of the console; cells are folded, never cut.

    More rows can follow: columns stay as wide as they are, or become wider.
    """

    def __init__(self, table: TableLayout) -> None:
        self._table = table
        self._rows: list[Sequence[str]] | None = None
        self._draws_header = table.has_header
        self._arrangement: layout.Arrangement | None = None
        self._natural = [0] * len(table.header)
        self._blank = frozenset(range(len(table.header)))

    @property
    def hidden(self) -> list[str]:
        """Headings of the optional columns that do not fit."""
        if self._arrangement is None:
            return []
        shown = {index for line in self._arrangement.lines for index, _ in line}
        header = self._table.header
        return [
            header[index]
            for index in range(len(header))
            if header[index] in self._table.optional and index not in shown
        ]

    def with_rows(self, rows: Iterable[Sequence[str]]) -> Grid:
        """Set the rows to draw next; the header is drawn above the first ones."""
        self._draws_header = self._table.has_header and self._rows is None
        self._rows = list(rows)
        return self

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self.segments(options.max_width)

    def segments(self, width: int) -> Iterator[Segment]:
        """Yield the table as segments, laid out for a width."""
        rows = self._rows or []
        if self._has_grown(rows) or self._arrangement is None:
            self._arrangement = layout.arrange(self._table, self._natural, width, self._blank)
        if self._table.is_apart:
            yield Segment.line()
        if self._draws_header:
            yield from self._row(self._table.header, _PALETTE[HEADER], _PALETTE[HEADER])
        for row in rows:
            yield from self._row(row, None, _PALETTE[MUTED])

    def _has_grown(self, rows: Sequence[Sequence[str]]) -> bool:
        """Measure rows; return True if a cell is wider than those of all rows before."""
        columns = range(len(self._natural))
        natural = [max((_text_width(row[index]) for row in rows), default=0) for index in columns]
        wider = [max(pair) for pair in zip(natural, self._natural, strict=True)]
        has_grown = wider != self._natural
        self._natural = wider
        self._blank = frozenset(
            index for index in self._blank if all(row[index] in _BLANK for row in rows)
        )
        return has_grown

    def _row(self, row: Sequence[str], first: Style | None, others: Style) -> Iterator[Segment]:
        """Yield the segments of one row.

        first, others: styles of its first line and of those below.
        """
        assert self._arrangement is not None
        for number, columns in enumerate(self._arrangement.lines):
            if number and all(row[index] in _BLANK for index, _ in columns):
                continue
            cells = [
                (
                    _cell(row[index], width, others if number else first),
                    width,
                    self._table.header[index] in self._table.numbers,
                )
                for index, width in columns
            ]
            indent = self._table.indent + (layout.DETAIL_INDENT if number else 0)
            yield from self._lines(cells, indent, self._arrangement.gap)

    @staticmethod
    def _lines(cells: Sequence[tuple[Cell, int, bool]], indent: int, gap: int) -> Iterator[Segment]:
        """Yield the segments of cells side by side, which take as many lines as the highest one.

        cells: lines of each cell, its width, and whether it is aligned to the right.
        """
        for level in range(max(len(cell) for cell, _, _ in cells)):
            plain, blanks = "", indent  # unstyled text that is not yielded yet, blanks after it
            for cell, width, is_number in cells:
                segments, used = cell[level] if level < len(cell) else ([], 0)
                if not segments:
                    blanks += width + gap
                    continue
                before, after = (width - used, 0) if is_number else (0, width - used)
                plain += " " * (blanks + before)
                for segment in segments:
                    if segment.style is None:
                        plain += segment.text
                    else:
                        yield Segment(plain)
                        yield segment
                        plain = ""
                blanks = after + gap
            yield Segment(plain + "\n")


def _text_width(text: str) -> int:
    """Return the width of the widest line of a painted text."""
    if text.isascii() and text.isprintable():
        return len(text)
    return max(map(layout.cell_width, escape_control_characters(unpaint(text)).split("\n")))


def _cell(text: str, width: int, base: Style | None) -> Cell:
    """Return a painted text folded to a width."""
    if text.isascii() and text.isprintable() and len(text) <= width:
        return [([Segment(text, base)] if text else [], len(text))]
    parts = [
        (escape_control_characters(part), _PALETTE.get(style, base)) for part, style in spans(text)
    ]
    whole = "".join(part for part, _ in parts)
    folded: Cell = []
    indent = _MARK_WIDTH if _starts_with_mark(whole) else 0
    for start, end in layout.fold(whole, width, indent):
        before = indent if folded else 0
        segments, offset = [Segment(" " * before)] if before else [], 0
        for part, style in parts:
            piece = part[max(0, start - offset) : max(0, end - offset)]
            if piece:
                segments.append(Segment(piece, style))
            offset += len(part)
        folded.append((segments, before + layout.cell_width(whole[start:end])))
    return folded


def _starts_with_mark(text: str) -> bool:
    """Return True if a cell starts with a mark such as ✗, under which no text continues."""
    return text[1:_MARK_WIDTH] == " " and not text[0].isascii()
