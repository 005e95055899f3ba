"""What commands print: tables as kubectl's, colours where there is a terminal, and one line of what to do next."""

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

_LEAST_TEXT = 20
"""Columns beside a label from which on a text is wrapped there."""

GOOD, BAD, WARNING, DIM = "green", "red", "yellow", "bright_black"


def paint(text: str, colour: str | None, *, bold: bool = False) -> str:
    """ANSI codes that `typer.echo` leaves out where nobody would see colours."""
    return (
        typer.style(text, fg=colour, bold=bold or None)
        if (colour or bold) and has_colours()
        else text
    )


def has_colours() -> bool:
    """False where the environment asks for none (no-color.org), or the terminal has none."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def echo(text: str = "") -> None:
    """A line of what the command is for."""
    typer.echo(text)


def note(text: str) -> None:
    """Something for people, kept out of what other programs read."""
    typer.echo(text, err=True)


def terminal_width() -> int | None:
    """Return the columns of the terminal on standard output; None where it is no terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def hanging_indent(label: str, text: str, indent: int) -> str:
    """Return a label and a text whose further lines begin in column `indent`, as wide as the terminal.

    Without a terminal, or on one that is too narrow for this, the text stays in one line.
    """
    import textwrap

    width = terminal_width()
    if width is None or width - indent < _LEAST_TEXT:
        return label + text
    lines = textwrap.wrap(text, width - indent, break_long_words=False, break_on_hyphens=False)
    return label + ("\n" + " " * indent).join(lines)


def print_failures(failures: Mapping[str, str]) -> None:
    """What Linux refuses the lab, by the namespace where."""
    for where, text in failures.items():
        note(f"{paint('refused:', BAD)} {text if text.startswith(where) else f'{where}: {text}'}")


def print_faults(faults: Iterable[Mapping[str, Any]]) -> None:
    """What is broken on purpose, and how it is healed."""
    for fault in faults:
        note(f"{paint('broken on purpose:', WARNING)} {fault['summary']} (fault {fault['name']})")


def hint(text: str, lab: str | None = None) -> None:
    """What to do next; only for people at a terminal or a log, never in data. `lab`: whose name must be in it."""
    sys.stdout.flush()
    typer.echo(paint(f"next: {with_lab_option(text, lab)}", DIM), err=True)


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns three spaces apart, as kubectl's; no cell is ever cut."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = column_widths(lines)
    for line in lines:
        echo(format_row(line, widths))


def column_widths(lines: Sequence[Sequence[str]]) -> list[int]:
    """How wide each column is."""
    return [max(_width(line[column]) for line in lines) for column in range(len(lines[0]))]


def format_row(line: Sequence[str], widths: Sequence[int]) -> str:
    """A line of a table."""
    return "   ".join(
        cell + " " * (width - _width(cell)) for cell, width in zip(line, widths, strict=True)
    ).rstrip()


def _width(text: str) -> int:
    """How many columns a text takes, without its colours."""
    return len(_COLOUR_CODES.sub("", text))


def print_data(value: Any, output: str) -> None:
    """A value as JSON or YAML."""
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
