"""Tables for people: drawn by rich on a terminal, plain columns in a pipe or a file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from kubenetlab.cli.terminal import printing

if TYPE_CHECKING:
    from rich.table import Table

_WIDEST = 10_000
"""Columns of a terminal that is wide enough for any table; narrower ones wrap the lines themselves."""


_PADDING: Final = 3
"""Columns between the cells of a drawn table."""


def print_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[str] = ()
) -> None:
    """Print a table; `numbers` are the headings of columns aligned to the right. Cells are never wrapped or cut."""
    if not sys.stdout.isatty():
        printing.print_table(header, rows)
        return
    from rich.console import Console

    found = rich_table(header, rows, numbers=numbers)
    width = Console(width=_WIDEST).measure(found).maximum
    Console(width=max(width, Console().width), no_color=not printing.has_colours()).print(found)


def rich_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[str] = ()
) -> Table:
    """Return the table for rich; colours in cells are ANSI codes."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    found = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for name in header:
        found.add_column(
            name, justify="right" if name in numbers else "left", no_wrap=True, overflow="crop"
        )
    for row in rows:
        found.add_row(*(Text.from_ansi(cell) for cell in row))
    return found


def fit_columns(
    header: Sequence[str], rows: Sequence[Sequence[str]], width: int, expendable: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows without as many of the `expendable` columns, in their order, as a drawn table needs to fit in `width`."""
    left = list(range(len(header)))
    for name in expendable:
        widths = printing.column_widths([list(header), *(list(row) for row in rows)])
        if sum(widths[index] + _PADDING for index in left) <= width:
            break
        left.remove(header.index(name))
    return [header[index] for index in left], [[row[index] for index in left] for row in rows]
