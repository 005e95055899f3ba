"""Help of commands, and errors of its arguments, in the style of all other output.

Typer's own help has a column for each form of an option, so that on a terminal of 80 columns the
explanations of `up` are 19 wide. Here an option and its value share a column.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from kubenetlab.cli.terminal.manual import painted, painted_code
from kubenetlab.cli.terminal.printing import echo, hint, note, print_table
from kubenetlab.cli.terminal.theme import BAD, CODE, HEADING, MUTED, paint, unpaint

_COUNTERPARTS: Final = {"--name": "--lab", "--context": "--lab", "--config": "--filename"}
"""Option of kind or kubectl → option with the same meaning."""


def print_help(command: Any, context: Any) -> None:
    """Print the help page of a command: usage, explanation, arguments and options."""
    _print_beginning(command, context)
    options: list[tuple[str, str]] = []
    arguments: list[tuple[str, str]] = []
    for param in command.get_params(context):
        if (record := param.get_help_record(context)) is None:
            continue
        form, text = record
        if param.param_type_name == "argument":
            arguments.append((paint(_metavar(form), CODE), _explanation(text)))
        else:
            options.append((_option(form), _explanation(text)))
    _print_section("Arguments", arguments)
    _print_section("Options", options)


def print_group_help(group: Any, context: Any) -> None:
    """Print the help page of a group: usage, explanation, and its commands by their panels."""
    _print_beginning(group, context)
    panels: dict[str, list[tuple[str, str]]] = {}
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        summary = " ".join((command.help or "").partition("\n\n")[0].split())
        rows = panels.setdefault(_heading(command), [])
        rows.append((paint(name, CODE), painted_code(summary)))
    width = max((len(unpaint(name)) for rows in panels.values() for name, _ in rows), default=0)
    for panel, rows in panels.items():
        aligned = [(name + " " * (width - len(unpaint(name))), text) for name, text in rows]
        _print_section(panel, aligned)
    records = (param.get_help_record(context) for param in group.get_params(context))
    _print_section(
        "Options", [(_option(record[0]), _explanation(record[1])) for record in records if record]
    )
    if group.epilog:
        echo()
        echo(painted_code(group.epilog))


def _print_beginning(command: Any, context: Any) -> None:
    echo(f"{paint('Usage:', HEADING)} {_usage(command, context)}", len("Usage: "))
    echo()
    for line in (command.help or "").rstrip().split("\n"):
        echo(painted(line), 0)


def _print_section(title: str, rows: Sequence[tuple[str, str]]) -> None:
    if rows:
        echo()
        echo(paint(title, HEADING))
        print_table(("", "DESCRIPTION"), rows, indent=2, has_header=False)


def _heading(command: Any) -> str:
    """Return the heading under which a group lists a command."""
    panel = getattr(command, "rich_help_panel", None)
    return panel if isinstance(panel, str) else "Commands"


def print_usage_error(error: Any) -> None:
    """Print an error of the command line, the usage of the command, and how to see its help."""
    message = _counterpart(error) or error.format_message()
    if not message:  # a group without a command has printed its help
        return
    note(f"{paint('error:', BAD)} {message}", len("error: "))
    context = error.ctx
    if context is not None:
        usage = _usage(context.command, context)
        note(paint(f"usage: {usage}", MUTED), len("usage: "))
        hint(f"{context.command_path} --help")


def _counterpart(error: Any) -> str:
    """Return the message about an option of kind or kubectl that has another name here."""
    option = getattr(error, "option_name", "")
    own = _COUNTERPARTS.get(option, "")
    if not own or error.ctx is None:
        return ""
    known = (name for param in error.ctx.command.get_params(error.ctx) for name in param.opts)
    return f"No such option: {option}; did you mean {own}?" if own in known else ""


def _usage(command: Any, context: Any) -> str:
    pieces = (piece.strip("{}") for piece in command.collect_usage_pieces(context))
    return " ".join([context.command_path, *pieces])


def _metavar(form: str) -> str:
    """Return an argument without the braces that typer adds, and without unpaired brackets.

    Unpaired brackets are those of a usage such as `[SRC [DST]]`.
    """
    form = form.strip("{}")
    return form if form.count("[") == form.count("]") else form.strip("[]")


def _explanation(text: str) -> str:
    """Return the explanation of an option, painted; its default and range are secondary."""
    sentences, gap, rest = text.replace("\\[", "[").partition("  [")  # \[ escapes markup of rich
    return painted_code(sentences) + (paint(f" [{rest}", MUTED) if gap else "")


def _option(form: str) -> str:
    """Return the names and the value of an option, painted; names without a short form align."""
    words = (
        paint(word, CODE) if word.startswith("-") else word for word in re.split("([ ,/]+)", form)
    )
    return ("    " if form.startswith("--") else "") + "".join(words)
