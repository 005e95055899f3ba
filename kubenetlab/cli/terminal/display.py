"""Display: how a stream shows output, which depends on the terminal and on the environment.

A stream that is not a terminal gets plain text. On a terminal, output is laid out for its width and
coloured. Three environment variables change this:

NO_COLOR     not empty: no colours, on a terminal too (https://no-color.org)
FORCE_COLOR  not empty: colours in pipes and files too (https://force-color.org)
TERM=dumb    the terminal understands no control sequences, so it gets plain text

NO_COLOR has precedence over FORCE_COLOR. COLUMNS sets the width instead of the terminal.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from typing import TextIO

from msgspec import Struct


class Display(Struct, frozen=True):
    """Capabilities of an output stream: drawing, colours and width."""

    is_drawn: bool
    """True if output is laid out for people; False for plain text."""
    has_colours: bool
    is_live: bool
    """True if lines can be redrawn in place."""
    width: int | None
    """Width in columns; None if lines may have any length."""


PLAIN = Display(is_drawn=False, has_colours=False, is_live=False, width=None)
"""Display of a pipe or a file."""


def display(stream: TextIO, environment: Mapping[str, str] = os.environ) -> Display:
    """Return the display of a stream."""
    is_dumb = environment.get("TERM") in ("dumb", "unknown")
    is_terminal = stream.isatty() and not is_dumb
    has_colours = not environment.get("NO_COLOR") and (
        is_terminal or bool(environment.get("FORCE_COLOR"))
    )
    if not is_terminal and not has_colours:
        return PLAIN
    return Display(
        is_drawn=True,
        has_colours=has_colours,
        is_live=is_terminal,
        width=_width(environment, is_terminal=is_terminal),
    )


def standard_output() -> Display:
    """Return the display of the command's results."""
    return display(sys.stdout)


def standard_error() -> Display:
    """Return the display of notes, hints and errors."""
    return display(sys.stderr)


def _width(environment: Mapping[str, str], *, is_terminal: bool) -> int | None:
    if is_terminal:
        return shutil.get_terminal_size().columns
    columns = environment.get("COLUMNS", "")
    return int(columns) if columns.isdecimal() and int(columns) else None
