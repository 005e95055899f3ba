"""Reports of errors and warnings: painted, and with the text of a problem beside its place."""

from __future__ import annotations

from collections.abc import Iterator

from kubenetlab.cli.terminal import display
from kubenetlab.cli.terminal.printing import echo, note
from kubenetlab.cli.terminal.theme import BAD, HEADING, PLACE, WARNING, paint
from kubenetlab.errors import ManifestError, Problem, escape_control_characters

_MAX_INDENT = 40
"""Column up to which the text of a problem is indented as far as its first line begins."""


def print_error(error: Exception) -> None:
    """Print an error to standard error."""
    if isinstance(error, ManifestError):
        lines = [line for problem in error.problems for line in _lines(problem)]
    else:
        lines = [(escape_control_characters(line), None) for line in str(error).split("\n")]
    label = paint("error:", BAD)
    if len(lines) == 1 and "\n" not in lines[0][0]:
        text, indent = lines[0]
        note(f"{label} {text}", None if indent is None else indent + len("error: "))
        return
    note(label)
    for text, indent in lines:
        note(text, indent)


def print_warning(problem: Problem) -> None:
    """Print a problem that is no error to standard error."""
    _print_with_label(problem, "warning:", WARNING)


def print_advice(problem: Problem, *, is_result: bool = False) -> None:
    """Print advice, which needs no action, to standard error.

    is_result: True prints it to standard output, as part of a command's result.
    """
    _print_with_label(problem, "advice:", HEADING, is_result=is_result)


def _print_with_label(problem: Problem, label: str, style: str, *, is_result: bool = False) -> None:
    (first, indent), *others = _lines(problem, is_marked=False)
    write = echo if is_result else note
    screen = display.standard_output() if is_result else display.standard_error()
    shift = len(label) + 1 if screen.is_drawn else 0  # a pipe gets the problem as it is
    write(f"{paint(label, style)} {first}", None if indent is None else indent + shift)
    for text, column in others:
        write(" " * shift + text, None if column is None else column + shift)


def _lines(problem: Problem, *, is_marked: bool = True) -> Iterator[tuple[str, int | None]]:
    """Yield the lines of a problem, painted, each with the column at which it continues.

    is_marked: True if warnings are marked as such.
    """
    place = f"{problem.file}:{problem.line}" if problem.line else problem.file
    indent = len(place) + 2 if place else 2
    column = indent if indent <= _MAX_INDENT else None
    subjects = "".join(
        f"{paint(escape_control_characters(text), style)}: "
        for text, style in ((problem.object, HEADING), (problem.path, None))
        if text
    )
    beginning = f"{paint(escape_control_characters(place), PLACE)}  " if place else ""
    message, *rest = escape_control_characters(problem.message).split("\n")
    lines = [beginning + subjects + message, *rest]
    lines += (
        line
        for hint in problem.hints
        for line in (" " * indent + escape_control_characters(hint)).split("\n")
    )
    mark = " (a warning)" if problem.is_warning and is_marked else ""
    for number, line in enumerate(lines):
        yield line + (mark if number == len(lines) - 1 else ""), column
