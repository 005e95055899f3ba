"""Tables: drawn by rich on a terminal, plain columns in a pipe or a file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from kubenetlab.cli.terminal import printing

if TYPE_CHECKING:
    from rich.table import Table

_UNLIMITED_WIDTH = 10_000
"""Width at which a table is measured, in columns: wide enough for any table."""

_PADDING: Final = 3
"""Columns between the cells of a drawn table."""


def print_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[str] = ()
) -> None:
    """Print a table; cells are never wrapped or cut.

    numbers: headings of the columns that are aligned to the right.
    """
    if not sys.stdout.isatty():
        printing.print_table(header, rows)
        return
    from rich.console import Console

    drawn = rich_table(header, rows, numbers=numbers)
    width = Console(width=_UNLIMITED_WIDTH).measure(drawn).maximum
    Console(width=max(width, Console().width), no_color=not printing.has_colours()).print(drawn)


def rich_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[str] = ()
) -> Table:
    """Return a table for rich; cells may contain ANSI colour codes."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for name in header:
        drawn.add_column(
            name, justify="right" if name in numbers else "left", no_wrap=True, overflow="crop"
        )
    for row in rows:
        drawn.add_row(*(Text.from_ansi(cell) for cell in row))
    return drawn


def fit_columns(
    header: Sequence[str], rows: Sequence[Sequence[str]], width: int, optional: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """Drop optional columns until the drawn table fits; return the remaining headings and rows.

    width: width of the terminal, in columns.
    optional: headings of the columns to drop, in this order.
    """
    kept = list(range(len(header)))
    for name in optional:
        widths = printing.column_widths([list(header), *(list(row) for row in rows)])
        if sum(widths[index] + _PADDING for index in kept) <= width:
            break
        kept.remove(header.index(name))
    return [header[index] for index in kept], [[row[index] for index in kept] for row in rows]
