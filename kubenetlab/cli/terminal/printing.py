"""Printing: results to standard output; notes, warnings and hints to standard error.

This is the one place where output meets the terminal. Commands print lines, fields and tables whose
parts are painted with the styles of the theme. In a pipe or a file they appear as plain text, with
columns like kubectl's. On a terminal they are laid out for its width: lines are folded between
words, and rich draws tables and pages. Control characters of manifests are escaped there.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from importlib import import_module
from typing import TYPE_CHECKING, Final

import typer
from msgspec import structs

from kubenetlab.api.json_types import JsonMapping
from kubenetlab.cli.terminal import display, hints, layout
from kubenetlab.cli.terminal.display import Display
from kubenetlab.cli.terminal.layout import TableLayout
from kubenetlab.cli.terminal.theme import (
    BAD,
    BREAK,
    GOOD,
    MUTED,
    WARNING,
    Span,
    paint,
    sgr,
    spans,
    unpaint,
)
from kubenetlab.errors import escape_control_characters

if TYPE_CHECKING:
    from kubenetlab.cli.terminal.drawing import Grid

_MIN_TEXT_WIDTH: Final = 20
"""Minimum width for wrapping a text beside its label, in columns."""
_REDRAW_S: Final = 0.04
"""Minimum time between two drawings of a line, in seconds."""
_BAR_WIDTH: Final = 20
"""Width of a progress bar, in columns."""
_ALTERNATIVE: Final = ", or kubenetlab "
"""Separator of the commands of a hint."""
_RESET: Final = "\x1b[0m"


def echo(text: str = "", indent: int | None = None) -> None:
    """Print a line of the command's result to standard output.

    indent: column at which the second and later lines start if the line is folded on a terminal;
    by default two columns to the right of its beginning.
    """
    _print(text, display.standard_output(), indent)


def note(text: str, indent: int | None = None) -> None:
    """Print a line for people to standard error, which programs do not read.

    indent: as for `echo`.
    """
    _print(text, display.standard_error(), indent, is_error=True)


def rendered(painted: str) -> str:
    """Return a short painted text as it appears in standard output, for use in verbatim lines."""
    screen = display.standard_output()
    return _coloured(_escaped(painted), screen) if screen.is_drawn else unpaint(painted)


def print_verbatim(text: str) -> None:
    """Print data for programs to standard output, which a terminal shows unchanged."""
    typer.echo(text)


def print_manual(text: str) -> None:
    """Print a manual page, reflowed on a terminal that is narrower than the page."""
    screen = display.standard_output()
    if not screen.is_drawn:
        typer.echo(text)
        return
    from kubenetlab.cli.terminal.manual import manual_lines

    for line, indent in manual_lines(text, screen.width):
        echo(line, indent)


def _print(text: str, screen: Display, indent: int | None, *, is_error: bool = False) -> None:
    if not screen.is_drawn:
        typer.echo(unpaint(text), err=is_error)
        return
    if screen.width is None:
        text = text.replace(BREAK, "    ")
    lines = (
        drawn for line in text.expandtabs().split("\n") for drawn in _drawn(line, screen, indent)
    )
    typer.echo("\n".join(lines), err=is_error, color=True)


def _drawn(line: str, screen: Display, indent: int | None) -> Iterator[str]:
    """Yield the lines of a painted line: escaped, folded to the display's width and coloured."""
    parts = _escaped(line) if BREAK not in line else ()
    if parts and _is_short(parts, screen.width):
        yield _coloured(parts, screen)
        return
    first, *others = (part.rstrip(" ") for part in line.split(BREAK))
    if indent is None:
        indent = len(first) - len(first.lstrip(" ")) + 2
    yield from _folded(_escaped(first), screen, indent)
    for text in others:
        yield from _folded([Span(" " * indent, ""), *_escaped(text)], screen, indent)


def _is_short(parts: Sequence[Span], width: int | None) -> bool:
    """Return True if a line fits, however wide its characters are: most lines need no measuring."""
    length = sum(len(text) for text, _ in parts)
    is_ascii = all(text.isascii() for text, _ in parts)
    return width is None or (1 if is_ascii else 2) * length <= width


def _folded(parts: Sequence[Span], screen: Display, indent: int) -> Iterator[str]:
    """Yield the lines of a text that is folded to the display's width."""
    whole = "".join(text for text, _ in parts)
    width = screen.width
    if width is not None and width - indent < _MIN_TEXT_WIDTH:
        indent = 0
    folded: Iterable[tuple[int, int]] = (
        [(0, len(whole))]
        if width is None or width < _MIN_TEXT_WIDTH
        else layout.fold(whole, width, indent)
    )
    for number, (start, end) in enumerate(folded):
        yield " " * (indent if number else 0) + _coloured(_slice(parts, start, end), screen)


def _escaped(text: str) -> list[Span]:
    """Return the parts of a painted line without control characters."""
    return [Span(escape_control_characters(part), style) for part, style in spans(text)]


def _slice(parts: Sequence[Span], start: int, end: int) -> Iterator[Span]:
    """Yield the parts between two characters of a text."""
    offset = 0
    for text, style in parts:
        yield Span(text[max(0, start - offset) : max(0, end - offset)], style)
        offset += len(text)


def _cut(parts: Sequence[Span], width: int) -> Sequence[Span]:
    """Return the parts that fit into a width, with an ellipsis if some do not."""
    whole = "".join(text for text, _ in parts)
    if layout.cell_width(whole) <= width:
        return parts
    end = len(whole)
    while end and layout.cell_width(whole[:end]) >= width:
        end -= 1
    return [*_slice(parts, 0, end), Span("…", "")]


def _coloured(parts: Iterable[Span], screen: Display) -> str:
    """Return painted parts with control sequences for their styles."""
    return "".join(
        f"{sgr(style)}{text}{_RESET}" if text and style and screen.has_colours else text
        for text, style in parts
    )


def print_failures(failures: Mapping[str, str], maximum: int | None = None) -> None:
    """Print the errors of the kernel, per network namespace.

    maximum: number of errors that are printed; the others are counted. None prints all.
    """
    for netns, text in list(failures.items())[:maximum]:
        note(f"{paint('refused:', BAD)} {text if text.startswith(netns) else f'{netns}: {text}'}")
    if maximum is not None and len(failures) > maximum:
        note(f"  … and {len(failures) - maximum} more: kubenetlab diff")


def print_faults(faults: Iterable[JsonMapping]) -> None:
    """Print the active faults of the lab."""
    for fault in faults:
        note(f"{paint('broken on purpose:', WARNING)} {fault['summary']} (fault {fault['name']})")


def hint(text: str, lab: str | None = None) -> None:
    """Print the command to run next to standard error; never part of data, and never folded.

    On a terminal where two commands do not fit into one line, each has a line of its own. The
    environment can turn hints off (hints.py).

    lab: name to add as --lab to each command; by default only if the user gave one.
    """
    if not hints.are_enabled():
        return
    sys.stdout.flush()
    screen = display.standard_error()
    line = f"next: {hints.with_lab_option(text, lab)}"
    if screen.width is not None and len(line) > screen.width:
        line = line.replace(_ALTERNATIVE, f", or\n{' ' * len('next: ')}kubenetlab ")
    for part in line.split("\n"):
        _print(paint(part, MUTED), structs.replace(screen, width=None), None, is_error=True)


def prepare_drawing() -> None:
    """Import rich in the background if standard output is drawn.

    Commands call this before they wait for the lab, so that most of the import costs no time. A
    process with threads cannot enter a user namespace, so this is not for commands that do that.
    """
    if not display.standard_output().is_drawn:
        return
    import threading

    with suppress(RuntimeError):  # no thread can be started: the import happens when it is needed
        threading.Thread(target=_import_drawing, daemon=True).start()


def _import_drawing() -> None:
    """Import the module that draws tables; an error is reported when a table needs it."""
    with suppress(Exception):
        import_module("kubenetlab.cli.terminal.drawing")


def print_table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    numbers: Sequence[str] = (),
    optional: Sequence[str] = (),
    indent: int = 0,
    has_header: bool = True,
    is_apart: bool = False,
    plain: Callable[[Sequence[str]], str] | None = None,
) -> list[str]:
    """Print a table; return the headings of the optional columns that a terminal leaves out.

    On a terminal, cells are folded so that its lines fit. See TableLayout for the arguments.
    """
    table = TableLayout(header, numbers, optional, indent, has_header, is_apart, plain)
    writer = TableWriter(table)
    writer.write(rows)
    return writer.hidden


class TableWriter:
    """A table that is printed in several parts. Columns are as wide as the first rows need them.

    On a terminal, later rows can widen them.
    """

    def __init__(self, table: TableLayout) -> None:
        self._table = table
        self._screen = display.standard_output()
        self._widths: list[int] = []
        self._grid: Grid | None = None

    @property
    def hidden(self) -> list[str]:
        """Headings of the optional columns that are left out."""
        return self._grid.hidden if self._grid is not None else []

    def write(self, rows: Iterable[Sequence[str]]) -> None:
        """Print rows, below the header if they are the first."""
        if self._screen.is_drawn:
            from kubenetlab.cli.terminal import drawing

            self._grid = self._grid or drawing.Grid(self._table)
            drawing.draw(self._grid.with_rows(rows), self._screen)
            return
        if self._table.plain is not None:
            for row in rows:
                typer.echo(unpaint(self._table.plain(row)))
            return
        lines = [[unpaint(cell) for cell in row] for row in rows]
        if not self._widths:
            if self._table.has_header:
                lines.insert(0, list(self._table.header))
            self._widths = column_widths(lines)
        for line in lines:
            typer.echo((" " * self._table.indent + format_row(line, self._widths)).rstrip())


class LiveLine:
    """The last line of a terminal, redrawn in place. Nothing is printed where that is impossible.

    Lines are drawn without rich: its import would take processor time from the work that is shown.
    """

    def __init__(self) -> None:
        self._screen = display.standard_output()
        self._drawn_at = 0.0

    def draw(self, text: str) -> None:
        """Show a painted text, cut to the terminal's width, unless the last one is very new."""
        now = time.monotonic()
        if self._screen.is_live and now - self._drawn_at >= _REDRAW_S:
            self._drawn_at = now
            parts = _cut(_escaped(text), (self._screen.width or 80) - 1)
            sys.stdout.write(f"\r\x1b[K{_coloured(parts, self._screen)}")
            sys.stdout.flush()

    def clear(self) -> None:
        """Remove the line."""
        if self._screen.is_live:
            sys.stdout.write("\r\x1b[K")
            sys.stdout.flush()


def progress_bar(done: int, total: int) -> str:
    """Return a painted bar of fixed width with the numbers of completed steps and of all."""
    full = _BAR_WIDTH * done // total
    bar = paint("━" * full, GOOD) + paint("━" * (_BAR_WIDTH - full), MUTED)
    return f"{bar} {done}/{total}"


def redrawn_table(
    numbers: Sequence[str], optional: Sequence[str]
) -> AbstractContextManager[Callable[[Sequence[str], Iterable[Sequence[str]]], None]] | None:
    """Return a table that is redrawn in place; None if standard output cannot redraw lines.

    The context manager returns the function that draws a header and rows.
    numbers, optional: see TableLayout.
    """
    screen = display.standard_output()
    if not screen.is_live:
        return None
    from kubenetlab.cli.terminal.drawing import redrawn

    return redrawn(screen, numbers, optional)


def column_widths(lines: Sequence[Sequence[str]]) -> list[int]:
    """Return the number of characters of the longest cell of each column."""
    return [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]


def format_row(line: Sequence[str], widths: Sequence[int]) -> str:
    """Return a row of a table as plain text, with its cells padded to the column widths."""
    return "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()


def print_data(value: object, output: str) -> None:
    """Print a value as JSON or YAML."""
    if output == "json":
        print_verbatim(json.dumps(value, indent=2))
        return
    import yaml

    print_verbatim(
        yaml.dump(
            value,
            sort_keys=False,
            default_flow_style=False,
            allow_unicode=True,
            Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper),
        ).rstrip()
    )
