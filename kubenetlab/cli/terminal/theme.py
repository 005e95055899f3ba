"""Theme: the named styles of everything that commands print, and text that carries such styles.

Commands name a style and never a colour. `paint` marks a part of a text with a style; the seam in
`printing` turns the marks into colours, or removes them for pipes and files. Marks are Unicode
noncharacters, which are reserved for use inside a program: no text from outside contains them.

All colours are from the 16 that a terminal's own theme defines, so that they are legible on light
and on dark backgrounds. Secondary text is dim rather than bright black, because popular themes make
bright black the colour of the background.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Final, NamedTuple

GOOD, BAD, WARNING, MUTED = "good", "bad", "warning", "muted"
"""Results: as expected, not as expected, doubtful; secondary text."""
HEADING, HEADER, LABEL, PLACE, CODE = "heading", "header", "label", "place", "code"
"""Parts of a page: a title, the header of a table, a field's name, FILE:LINE, inline code."""
ADDED, REMOVED, CHANGED, EMPHASIS = "added", "removed", "changed", "emphasis"
"""Lines of a diff, and the part of a line that differs."""

STYLES: Final[Mapping[str, str]] = {
    GOOD: "green",
    BAD: "bold red",
    WARNING: "yellow",
    MUTED: "dim",
    HEADING: "bold",
    HEADER: "bold",
    LABEL: "dim",
    PLACE: "cyan",
    CODE: "cyan",
    ADDED: "green",
    REMOVED: "red",
    CHANGED: "yellow",
    EMPHASIS: "bold",
}
"""Style name → definition, in the notation of rich."""

_ATTRIBUTES: Final[Mapping[str, str]] = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "cyan": "36",
}
"""Word of a definition → parameter of the control sequence SGR (ECMA-48 8.3.117)."""

_FIRST_MARK: Final = 0xFDD0
"""First of the 32 contiguous noncharacters of Unicode (The Unicode Standard 23.7)."""
_NAMES: Final = tuple(STYLES)
_END: Final = chr(_FIRST_MARK + len(_NAMES))
_MARKS: Final = {name: chr(_FIRST_MARK + index) for index, name in enumerate(_NAMES)}
_ANY_MARK: Final = re.compile(f"[{chr(_FIRST_MARK)}-{_END}]")
BREAK: Final = "\ufdef"
"""A place where a terminal starts a new line of the same text; in plain text four blanks."""
_PART: Final = re.compile(f"([{chr(_FIRST_MARK)}-{_END}])")


class Span(NamedTuple):
    """A part of a text with one style; the style is empty for plain text."""

    text: str
    style: str


def paint(text: str, style: str | None) -> str:
    """Mark a text with a style; None leaves it plain. Painted texts may contain painted texts."""
    return f"{_MARKS[style]}{text}{_END}" if text and style is not None else text


def unpaint(text: str) -> str:
    """Return a painted text as plain text."""
    return _ANY_MARK.sub("", text.replace(BREAK, "    "))


def spans(text: str) -> Iterator[Span]:
    """Split a painted text at its marks. The innermost style of a part counts."""
    styles = [""]
    for part in _PART.split(text):
        if part == _END:
            if len(styles) > 1:
                styles.pop()
        elif len(part) == 1 and _FIRST_MARK <= ord(part) < _FIRST_MARK + len(_NAMES):
            styles.append(_NAMES[ord(part) - _FIRST_MARK])
        elif part:
            yield Span(part, styles[-1])


@cache
def sgr(style: str) -> str:
    """Return the control sequence that starts a style."""
    return f"\x1b[{';'.join(_ATTRIBUTES[word] for word in STYLES[style].split())}m"
