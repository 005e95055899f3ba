"""Manual pages on a terminal: paragraphs are reflowed, terms and code are painted.

A manual is a docstring: a title line, paragraphs, indented pictures and examples, lines such as
`Needs: …`, and terms with an indented explanation. The Markdown renderer of rich would join such
lines into paragraphs, and its parser takes 37 ms to import.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from kubenetlab.cli.terminal.theme import CODE, HEADING, LABEL, paint

PAGE_WIDTH: Final = 100
"""Width for which manuals are written; longer lines are harder to read."""
_CODE: Final = re.compile(r"`[^`\n]+`")
_LABEL: Final = re.compile(r"[A-Z][A-Za-z ]{1,18}:(?= )")
_FIELD: Final = re.compile(r"[A-Z][A-Za-z ]{1,18}: |[a-z]\w*: ")
"""Beginning of a line that does not continue a paragraph."""
_TERM: Final = re.compile(r"[^\s:=]+(?:=[^\s:]+)?(?=:|$| )")
_PICTURE: Final = re.compile("[\u2500-\u257f]")
"""Box drawing characters."""
_COLUMNS: Final = re.compile(r"\S(?P<gap> {2,})\S")


class Line(NamedTuple):
    """A painted line, and the column at which it continues if it is folded."""

    text: str
    indent: int


def manual_lines(text: str, width: int | None) -> Iterator[Line]:
    """Yield the painted lines of a manual page.

    width: columns of the terminal; from PAGE_WIDTH on the lines are those of the page.
    """
    title, _, rest = text.partition("\n")
    name, colon, summary = title.partition(":")
    yield Line(paint(name, HEADING) + colon + painted(summary), 4)
    is_narrow = width is not None and width < PAGE_WIDTH
    for block in _blocks(rest.split("\n")):
        if not is_narrow:
            for line, following in zip(block, [*block[1:], ""], strict=True):
                paragraph = _paragraph(line, following)
                yield Line(paragraph.painted, paragraph.column)
        elif _PICTURE.search("".join(block)):
            yield from _fitted(block, width or PAGE_WIDTH)
        else:
            yield from _reflowed(block)


def _blocks(lines: list[str]) -> Iterator[list[str]]:
    """Split lines at empty lines, which are blocks of their own."""
    block: list[str] = []
    for line in lines:
        if line.strip():
            block.append(line)
            continue
        if block:
            yield block
            block = []
        yield [""]
    if block:
        yield block


def _fitted(picture: list[str], width: int) -> Iterator[Line]:
    """Yield the lines of a picture, made narrower if they do not fit.

    Its indent is removed first, then columns in which every line repeats a blank or a horizontal
    line. Lines that are still too long are cut.
    """
    longest = max(map(len, picture))
    lines = [line.ljust(longest) for line in picture]
    indent = min(len(line) - len(line.lstrip()) for line in picture)
    for column in (*range(indent - 1, -1, -1), *range(longest - 1, 0, -1)):
        if len(lines[0]) <= width:
            break
        if column < len(lines[0]) and all(
            line[column] in " ─" and line[column] == line[column - 1 if column else 0]
            for line in lines
        ):
            lines = [line[:column] + line[column + 1 :] for line in lines]
    for line in (text.rstrip() for text in lines):
        yield Line(line if len(line) <= width else f"{line[: width - 1]}…", 0)


class _Paragraph(NamedTuple):
    """Lines that are joined."""

    text: str
    column: int
    """Column of its second and later lines."""
    is_term: bool
    """True for a term or a title, whose explanation follows."""

    @property
    def painted(self) -> str:
        return _paint_term(self.text) if self.is_term else painted(self.text)


def _paragraph(line: str, following: str) -> _Paragraph:
    """Return the paragraph that a line begins."""
    indent = len(line) - len(line.lstrip())
    if columns := _COLUMNS.search(line, indent):
        return _Paragraph(line, columns.end("gap"), False)
    is_term = not indent and following.startswith(" ")
    return _Paragraph(line, 4 if is_term else indent, is_term)


def _reflowed(block: list[str]) -> Iterator[Line]:
    """Yield the paragraphs of a block, each as one line.

    A line continues the paragraph before it if it begins at the column of that paragraph's lines,
    unless it is a row of columns, has a label, or is a term.
    """
    current: _Paragraph | None = None
    for line, following in zip(block, [*block[1:], ""], strict=True):
        paragraph = _paragraph(line, following)
        indent = len(line) - len(line.lstrip())
        is_first = paragraph.is_term or paragraph.column != indent or _FIELD.match(line)
        if current is not None and not (is_first or current.is_term or indent != current.column):
            current = current._replace(text=f"{current.text} {line.lstrip()}")
            continue
        if current is not None:
            yield Line(current.painted, current.column)
        current = paragraph
    if current is not None:
        yield Line(current.painted, current.column)


def _paint_term(line: str) -> str:
    """Return a line whose explanation follows: its term is emphasized, or all of a title."""
    if line.endswith(":"):
        return paint(line, HEADING)
    term = _TERM.match(line)
    end = term.end() if term is not None else 0
    return paint(line[:end], HEADING) + painted(line[end:])


def painted(line: str) -> str:
    """Return a line with painted code, and a painted label at its beginning."""
    label = _LABEL.match(line)
    end = label.end() if label is not None else 0
    return paint(line[:end], LABEL) + painted_code(line[end:])


def painted_code(text: str) -> str:
    """Return a text with painted code."""
    return _CODE.sub(lambda match: paint(match[0], CODE), text)
