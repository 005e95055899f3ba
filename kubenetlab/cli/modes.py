"""modes: list the CNI and kube-proxy modes; print the manual page of a mode."""

from __future__ import annotations

from kubenetlab.api.json_types import JsonObject
from kubenetlab.cli.input.options import Output, OutputOption, format_mode_option
from kubenetlab.cli.terminal.printing import echo, hint, print_data, print_manual
from kubenetlab.cli.terminal.theme import BREAK, HEADING, LABEL, MUTED, paint


def modes(output: OutputOption = Output.table) -> None:
    """List the CNI and kube-proxy modes.

    -o wide also shows their options and defaults.

    Example: kubenetlab modes
    """
    from kubenetlab.datapath.modes import FAMILIES, known

    all_modes = [_mode_data(family, name) for family in FAMILIES for name in known(family)]
    if output.is_data:
        print_data(all_modes, output)
        return
    width = max(len(mode["name"]) for mode in all_modes)
    for index, mode in enumerate(all_modes):
        if index == 0 or mode["family"] != all_modes[index - 1]["family"]:
            family = FAMILIES[mode["family"]]
            echo(f"{family.flag} ({family.path} in a Cluster document)")
        summary = mode["manual"].partition("\n")[0].partition(": ")[2]
        echo(f"  {paint(mode['name'].ljust(width), HEADING)}  {summary}", indent=width + 4)
        if output is Output.wide and mode["options"]:
            options = ", ".join(
                format_mode_option(name, value) for name, value in mode["options"].items()
            )
            echo(f"  {' ' * width}  {paint(options, MUTED)}", indent=width + 4)
    hint(f"kubenetlab explain {all_modes[0]['name']}")


def names() -> list[str]:
    """Return the names of all modes, without duplicates."""
    from kubenetlab.datapath.modes import FAMILIES, known

    return list(dict.fromkeys(name for family in FAMILIES for name in known(family)))


def mode_data(name: str) -> list[JsonObject]:
    """Return the data of the modes with this name; CNI and kube-proxy may both have one."""
    from kubenetlab.datapath.modes import FAMILIES, known

    return [_mode_data(family, name) for family in FAMILIES if name in known(family)]


def show_manual(name: str) -> None:
    """Print the manual pages of the modes with this name."""
    from kubenetlab.datapath.modes import FAMILIES

    for number, mode in enumerate(mode_data(name)):
        family = FAMILIES[mode["family"]]
        if number:
            echo()
        print_manual(mode["manual"])
        echo()
        options = "".join(
            f",{format_mode_option(key, value)}" for key, value in mode["options"].items()
        )
        echo(
            f"{paint('In a Cluster document:', LABEL)} {family.path}: {name}  {BREAK}"
            f"{paint('On the command line:', LABEL)} {family.flag} {name}{options}",
            indent=0,
        )
        if mode["needs"]:
            echo(f"{paint('Needs:', LABEL)} {', '.join(mode['needs'])}")


def _mode_data(family: str, name: str) -> JsonObject:
    from msgspec import to_builtins

    from kubenetlab.datapath.manuals import manual
    from kubenetlab.datapath.modes import load

    mode = load(family, name, {})
    needs = [
        *mode.needs.programs,
        *mode.needs.all_features,
        *([f"root, for {mode.needs.root}"] if mode.needs.root else []),
    ]
    return {
        "family": family,
        "name": name,
        "options": to_builtins(mode),
        "needs": needs,
        "manual": manual(family, name).strip(),
    }
