"""modes: what can be chosen, and the manual page of each choice."""

from __future__ import annotations

from typing import Any

from kubenetlab.cli.input.options import Output, OutputOption, format_mode_option
from kubenetlab.cli.terminal.printing import echo, hanging_indent, hint, print_data


def modes(output: OutputOption = Output.table) -> None:
    """List the CNI and kube-proxy modes; with -o wide their options, too. Example: kubenetlab modes"""
    from kubenetlab.datapath.modes import FAMILIES, known

    found = [_described(family, name) for family in FAMILIES for name in known(family)]
    if output.is_data:
        print_data(found, output)
        return
    width = max(len(mode["name"]) for mode in found)
    for index, mode in enumerate(found):
        if index == 0 or mode["family"] != found[index - 1]["family"]:
            family = FAMILIES[mode["family"]]
            echo(f"{family.flag} ({family.path} in a Cluster document)")
        echo(
            hanging_indent(
                f"  {mode['name'].ljust(width)}  ",
                mode["manual"].partition("\n")[0].partition(": ")[2],
                width + 4,
            )
        )
        if output is Output.wide and mode["options"]:
            options = ", ".join(
                format_mode_option(name, value) for name, value in mode["options"].items()
            )
            echo(hanging_indent(f"  {' ' * width}  ", options, width + 4))
    hint(f"kubenetlab explain {found[0]['name']}")


def names() -> list[str]:
    """Return the names of all modes, each once."""
    from kubenetlab.datapath.modes import FAMILIES, known

    return list(dict.fromkeys(name for family in FAMILIES for name in known(family)))


def described(name: str) -> list[dict[str, Any]]:
    """Return the modes of this name, in every family that has one."""
    from kubenetlab.datapath.modes import FAMILIES, known

    return [_described(family, name) for family in FAMILIES if name in known(family)]


def show_manual(name: str) -> None:
    """Print the manual page of the modes of this name."""
    from kubenetlab.datapath.modes import FAMILIES

    for number, mode in enumerate(described(name)):
        family = FAMILIES[mode["family"]]
        if number:
            echo()
        echo(mode["manual"])
        echo()
        options = "".join(
            f",{format_mode_option(key, value)}" for key, value in mode["options"].items()
        )
        echo(
            f"In a Cluster document: {family.path}: {name}      On the command line: {family.flag} {name}{options}"
        )
        if mode["needs"]:
            echo(f"Needs: {', '.join(mode['needs'])}")


def _described(family: str, name: str) -> dict[str, Any]:
    from msgspec import to_builtins

    from kubenetlab.datapath.modes import load, manual

    mode = load(family, name, {})
    needs = [
        *mode.needs.programs,
        *mode.needs.features,
        *([f"root, for {mode.needs.root}"] if mode.needs.root else []),
    ]
    return {
        "family": family,
        "name": name,
        "options": to_builtins(mode),
        "needs": needs,
        "manual": manual(family, name).strip(),
    }
