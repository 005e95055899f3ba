"""explain: print the manual page of a mode or a fault, or describe a field of a manifest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from kubenetlab.cli import modes
from kubenetlab.cli.input.completion import candidates
from kubenetlab.cli.input.options import Output, OutputOption
from kubenetlab.cli.terminal.printing import echo, hint, print_data, print_manual, print_table
from kubenetlab.cli.terminal.theme import HEADING, LABEL, MUTED, paint

if TYPE_CHECKING:
    from kubenetlab.api.schema.fields import Explanation


def explain(
    subject: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODE | FAULT | KIND[.FIELD…] | FAMILY]",
            help=(
                "A mode (see `modes`), a fault (see `break --list`), a kind or one of its fields. "
                "Default: list all subjects."
            ),
            show_default=False,
            autocompletion=candidates("explainable"),
        ),
    ] = None,
    mode_of_family: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODE]",
            help="After a family (cni, proxy or policy): one of its modes.",
            show_default=False,
            autocompletion=candidates("modes_of_family"),
        ),
    ] = None,
    output: OutputOption = Output.table,
) -> None:
    """Show the manual page of a mode or a fault, or describe a field of a manifest.

    A short name such as `flannel-vxlan` stands for its mode. Families of modes
    share some names: `explain policy nftables` prints one of two manuals. A
    path may contain indices in brackets, as error messages print it.

    Example: kubenetlab explain pod.spec.containers.ports
    """
    if subject is None:
        _show_all(output)
        return
    if mode_of_family is not None:
        _show_mode(_mode_of(subject, mode_of_family), subject, output)
        return
    if mode := modes.find(subject):
        _show_mode(mode, None, output)
        return
    from msgspec import to_builtins

    from kubenetlab.datapath import faults

    if subject in faults.known():
        _show_fault(subject, output)
        return

    explanation = _field(subject)
    if output.is_data:
        print_data(to_builtins(explanation), output)
    else:
        _show(explanation)
        hint(_next(explanation))


def _show_all(output: Output) -> None:
    """Print the names of all modes, faults and kinds."""
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
        label = f"{title.upper()}:".ljust(9)
        echo(f"{paint(label, LABEL)} {', '.join(entries)}", indent=10)
    hint("kubenetlab explain pod.spec, or kubenetlab explain bridge")


def _mode_of(family: str, name: str) -> str:
    """Return the mode of a family with a name. Raises UsageError."""
    from kubenetlab.datapath.modes import FAMILIES, known
    from kubenetlab.errors import UsageError, did_you_mean

    if family not in FAMILIES:
        raise UsageError(
            f'explain: there is no family "{family}" of modes{did_you_mean(family, FAMILIES)}\n'
            f"  families: {', '.join(FAMILIES)}"
        )
    mode = modes.find(name, family)
    if not mode:
        raise UsageError(
            f'explain: there is no {family} mode "{name}"{did_you_mean(name, known(family))}\n'
            f"  modes: {', '.join(known(family))}"
        )
    return mode


def _show_mode(mode: str, family: str | None, output: Output) -> None:
    """Print the manual page of a mode, in one family or in all."""
    if output.is_data:
        print_data(modes.mode_data(mode, family), output)
    else:
        modes.show_manual(mode, family)
        hint("kubenetlab modes")


def _show_fault(name: str, output: Output) -> None:
    from kubenetlab.datapath import faults

    if output.is_data:
        print_data(
            {"fault": name, "options": faults.option_names(name), "manual": faults.manual(name)},
            output,
        )
        return
    print_manual(faults.manual(name))
    echo()
    options = " ".join(f"--{option} …" for option in faults.option_names(name))
    echo(f"{paint('On the command line:', LABEL)} kubenetlab break {name} {options}")
    hint("kubenetlab break --list")


def _field(subject: str) -> Explanation:
    """Return the explanation of KIND or KIND.FIELD. Raises UsageError for an unknown subject."""
    from kubenetlab.api.kinds import find_kind, known_words
    from kubenetlab.api.schema import fields
    from kubenetlab.datapath import faults
    from kubenetlab.datapath.modes import FAMILIES, known
    from kubenetlab.errors import UsageError, did_you_mean

    if subject in FAMILIES:
        raise UsageError(
            f"explain {subject}: expected one of its modes, such as "
            f"kubenetlab explain {subject} {known(subject)[0]}\n"
            f"  modes: {', '.join(known(subject))}"
        )
    word, _, path = subject.partition(".")
    kind = find_kind(word)
    if kind is None:
        guess = did_you_mean(
            word, known_words() if path else (*modes.names(), *faults.known(), *known_words())
        )
        all_names = (
            f"\n  modes: {', '.join(modes.names())}\n  faults: {', '.join(faults.known())}"
            if not path
            else ""
        )
        raise UsageError(
            f"explain: there is no {'kind' if path else 'mode, fault or kind'} "
            f'"{word}"{guess}{all_names}'
        )
    return fields.explain(kind, path)


def _show(explanation: Explanation) -> None:
    echo(f"{paint('KIND:', LABEL)}     {explanation.kind}")
    echo(f"{paint('VERSION:', LABEL)}  {', '.join(explanation.versions)}")
    if explanation.path:
        echo(f"{paint('FIELD:', LABEL)}    {explanation.path} <{explanation.type}>")
    if explanation.bounds:
        echo(f"{paint('VALUE:', LABEL)}    {'; '.join(explanation.bounds)}")
    if explanation.description:
        echo()
        echo(explanation.description)
    if explanation.fields:
        echo()
        echo(paint("FIELDS:", HEADING))
        lines = [
            (field.name, paint(f"<{field.type}>", MUTED), "; ".join(field.bounds))
            for field in explanation.fields
        ]
        print_table(("FIELD", "TYPE", "DESCRIPTION"), lines, indent=2, has_header=False)


def _next(explanation: Explanation) -> str:
    """Return a command that explains the first field with subfields, or the parent."""
    path = ".".join(part for part in (explanation.kind.lower(), explanation.path) if part)
    child = next((field.name for field in explanation.fields if field.has_fields), None)
    return f"kubenetlab explain {f'{path}.{child}' if child else path.rpartition('.')[0]}"
