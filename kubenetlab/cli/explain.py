"""explain: the manual page of a mode or a fault, or what a field of a manifest means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from kubenetlab.cli import modes
from kubenetlab.cli.input.completion import candidates
from kubenetlab.cli.input.options import Output, OutputOption
from kubenetlab.cli.terminal.printing import column_widths, echo, format_row, hint, print_data

if TYPE_CHECKING:
    from kubenetlab.api.fields import Explanation


def explain(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODE | FAULT | KIND[.FIELD…]]",
            help="A mode, as `modes` lists them, a fault, as `break --list` does, or a field of a kind. Without it: what can be explained.",
            show_default=False,
            autocompletion=candidates("explainable"),
        ),
    ] = None,
    output: OutputOption = Output.table,
) -> None:
    """Show the manual page of a mode or a fault, or what a field means and takes. Example: kubenetlab explain pod.spec.containers.ports

    Fields are those of the documents that the lab reads and shows; a path as messages have it, with brackets, is understood too.
    """
    if what is None:
        _show_all(output)
        return
    if what in modes.names():
        if output.is_data:
            print_data(modes.described(what), output)
        else:
            modes.show_manual(what)
            hint("kubenetlab modes")
        return
    from msgspec import to_builtins

    from kubenetlab.datapath import faults

    if what in faults.known():
        _show_fault(what, output)
        return

    found = _field(what)
    if output.is_data:
        print_data(to_builtins(found), output)
    else:
        _show(found)
        hint(_next(found))


def _show_all(output: Output) -> None:
    """Print the names of everything that has an explanation."""
    from kubenetlab.api.kinds import SERVED
    from kubenetlab.datapath import faults

    names = {
        "modes": list(modes.names()),
        "faults": list(faults.known()),
        "kinds": sorted(kind.kind.lower() for kind in SERVED),
    }
    if output.is_data:
        print_data(names, output)
        return
    for title, entries in names.items():
        echo(f"{title.upper() + ':':<9} {', '.join(entries)}")
    hint("kubenetlab explain pod.spec, or kubenetlab explain bridge")


def _show_fault(name: str, output: Output) -> None:
    from kubenetlab.datapath import faults

    if output.is_data:
        print_data(
            {"fault": name, "options": faults.option_names(name), "manual": faults.manual(name)},
            output,
        )
        return
    echo(faults.manual(name))
    echo()
    echo(
        f"On the command line: kubenetlab break {name} {' '.join(f'--{option} …' for option in faults.option_names(name))}"
    )
    hint("kubenetlab break --list")


def _field(what: str) -> Explanation:
    from kubenetlab.api import fields
    from kubenetlab.api.kinds import find_kind, known_words
    from kubenetlab.datapath import faults
    from kubenetlab.errors import UsageError, did_you_mean

    word, _, path = what.partition(".")
    kind = find_kind(word)
    if kind is None:
        guess = did_you_mean(
            word, known_words() if path else (*modes.names(), *faults.known(), *known_words())
        )
        known = (
            f"\n  modes: {', '.join(modes.names())}\n  faults: {', '.join(faults.known())}"
            if not path
            else ""
        )
        raise UsageError(
            f'explain: there is no {"kind" if path else "mode, fault or kind"} "{word}"{guess}{known}'
        )
    return fields.explain(kind, path)


def _show(found: Explanation) -> None:
    echo(f"KIND:     {found.kind}")
    echo(f"VERSION:  {', '.join(found.versions)}")
    if found.path:
        echo(f"FIELD:    {found.path} <{found.type}>")
    if found.bounds:
        echo(f"VALUE:    {'; '.join(found.bounds)}")
    if found.description:
        echo()
        echo(found.description)
    if found.fields:
        echo()
        echo("FIELDS:")
        lines = [(field.name, f"<{field.type}>", "; ".join(field.bounds)) for field in found.fields]
        widths = column_widths(lines)
        for line in lines:
            echo(f"  {format_row(line, widths)}".rstrip())


def _next(found: Explanation) -> str:
    """The first field that has fields of its own, or the one above."""
    here = ".".join(part for part in (found.kind.lower(), found.path) if part)
    below = next((field.name for field in found.fields if field.has_fields), None)
    return f"kubenetlab explain {f'{here}.{below}' if below else here.rpartition('.')[0]}"
