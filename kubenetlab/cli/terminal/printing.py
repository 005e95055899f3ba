"""Printing: results to standard output; notes, warnings and hints to standard error.

Tables look like kubectl's. Colours are used only on a terminal.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import typer

from kubenetlab.cli.terminal.hints import with_lab_option

_COLOUR_CODES = re.compile(r"\x1b\[[0-9;]*m")

_MIN_TEXT_WIDTH = 20
"""Minimum width for wrapping a text beside its label, in columns."""

GOOD, BAD, WARNING, DIM = "green", "red", "yellow", "bright_black"


def paint(text: str, colour: str | None, *, bold: bool = False) -> str:
    """Return text with ANSI colour codes; `typer.echo` removes them if there is no terminal."""
    return (
        typer.style(text, fg=colour, bold=bold or None)
        if (colour or bold) and has_colours()
        else text
    )


def has_colours() -> bool:
    """Return False if NO_COLOR is set (no-color.org) or the terminal has no colours."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def echo(text: str = "") -> None:
    """Print a line of the command's result to standard output."""
    typer.echo(text)


def note(text: str) -> None:
    """Print a line for people to standard error, which programs do not read."""
    typer.echo(text, err=True)


def terminal_width() -> int | None:
    """Return the width of the terminal in columns; None if standard output is not a terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def hanging_indent(label: str, text: str, indent: int) -> str:
    """Return a label and a text, wrapped to the terminal with a hanging indent.

    indent: column at which the second and later lines start.
    The text stays on one line without a terminal, or on one that is too narrow.
    """
    import textwrap

    width = terminal_width()
    if width is None or width - indent < _MIN_TEXT_WIDTH:
        return label + text
    lines = textwrap.wrap(text, width - indent, break_long_words=False, break_on_hyphens=False)
    return label + ("\n" + " " * indent).join(lines)


def print_failures(failures: Mapping[str, str]) -> None:
    """Print the errors of the kernel, per network namespace."""
    for netns, text in failures.items():
        note(f"{paint('refused:', BAD)} {text if text.startswith(netns) else f'{netns}: {text}'}")


def print_faults(faults: Iterable[Mapping[str, Any]]) -> None:
    """Print the active faults of the lab."""
    for fault in faults:
        note(f"{paint('broken on purpose:', WARNING)} {fault['summary']} (fault {fault['name']})")


def hint(text: str, lab: str | None = None) -> None:
    """Print the command to run next to standard error; never part of data.

    lab: name to add as --lab to each command; by default only if the user gave one.
    """
    sys.stdout.flush()
    typer.echo(paint(f"next: {with_lab_option(text, lab)}", DIM), err=True)


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print columns three spaces apart, as kubectl does; cells are never cut."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = column_widths(lines)
    for line in lines:
        echo(format_row(line, widths))


def column_widths(lines: Sequence[Sequence[str]]) -> list[int]:
    """Return the width of each column, in terminal columns."""
    return [max(_width(line[column]) for line in lines) for column in range(len(lines[0]))]


def format_row(line: Sequence[str], widths: Sequence[int]) -> str:
    """Return a row of a table with its cells padded to the column widths."""
    return "   ".join(
        cell + " " * (width - _width(cell)) for cell, width in zip(line, widths, strict=True)
    ).rstrip()


def _width(text: str) -> int:
    """Return the width of a text without its colour codes."""
    return len(_COLOUR_CODES.sub("", text))


def print_data(value: Any, output: str) -> None:
    """Print a value as JSON or YAML."""
    if output == "json":
        echo(json.dumps(value, indent=2))
        return
    import yaml

    echo(
        yaml.dump(
            value,
            sort_keys=False,
            default_flow_style=False,
            allow_unicode=True,
            Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper),
        ).rstrip()
    )
