"""modes: list the modes of each family; print the manual page of a mode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kubenetlab.api.json_types import JsonObject
from kubenetlab.cli.input.mode_options import format_mode_option
from kubenetlab.cli.input.options import Output, OutputOption
from kubenetlab.cli.terminal.printing import echo, hint, print_data, print_manual
from kubenetlab.cli.terminal.theme import BREAK, HEADING, LABEL, MUTED, paint

if TYPE_CHECKING:
    from kubenetlab.datapath.modes import Needs


def modes(output: OutputOption = Output.table) -> None:
    """List the CNI and kube-proxy modes, and the engines of network policies.

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
            options = ", ".join(_options(mode))
            echo(f"  {' ' * width}  {paint(options, MUTED)}", indent=width + 4)
    hint(f"kubenetlab explain {all_modes[0]['name']}")


def names() -> list[str]:
    """Return the names of all modes, without duplicates."""
    from kubenetlab.datapath.modes import FAMILIES, known

    return list(dict.fromkeys(name for family in FAMILIES for name in known(family)))


def find(name: str, family: str | None = None) -> str:
    """Return the mode of a name such as `flannel` or `flannel-vxlan`; empty if there is none.

    family: the family of the mode; None for any.
    """
    from kubenetlab.datapath.modes import FAMILIES, known
    from kubenetlab.datapath.short_names import expand_short_name

    known_names = names() if family is None else known(family)
    families = FAMILIES if family is None else (family,)
    words = (str(expand_short_name(each, {"type": name})["type"]) for each in families)
    return next((word for word in words if word in known_names), "")


def mode_data(name: str, family: str | None = None) -> list[JsonObject]:
    """Return the data of the modes with this name.

    family: the family of the mode; None for all, of which several may have the name.
    """
    from kubenetlab.datapath.modes import FAMILIES, known

    families = FAMILIES if family is None else (family,)
    return [_mode_data(each, name) for each in families if name in known(each)]


def show_manual(name: str, family: str | None = None) -> None:
    """Print the manual pages of the modes with this name, or of the one in a family."""
    from kubenetlab.datapath.modes import FAMILIES

    found = mode_data(name, family)
    if len(found) > 1:
        _show_families(name, [mode["family"] for mode in found])
    for number, mode in enumerate(found):
        chosen_by = FAMILIES[mode["family"]]
        if number:
            echo()
        print_manual(mode["manual"])
        echo()
        options = "".join(f",{option}" for option in _options(mode))
        echo(
            f"{paint('In a Cluster document:', LABEL)} {chosen_by.path}: {name}  {BREAK}"
            f"{paint('On the command line:', LABEL)} {chosen_by.flag} {name}{options}",
            indent=0,
        )
        if mode["needs"]:
            echo(f"{paint('Needs:', LABEL)} {_describe_needs(mode)}")


def _show_families(name: str, families: Sequence[str]) -> None:
    """Print how many manual pages follow, and the commands that print one of them."""
    commands = ", ".join(f"`kubenetlab explain {family} {name}`" for family in families)
    echo(
        f"There are {len(families)} modes called {name}. To show one of them: {commands}",
        indent=0,
    )
    echo()


def _options(mode: JsonObject) -> list[str]:
    """Return the options of a mode with their defaults, as on the command line.

    Options without a default value of their own are omitted.
    """
    return [
        format_mode_option(name, value)
        for name, value in mode["options"].items()
        if value is not None
    ]


def _describe_needs(mode: JsonObject) -> str:
    """Return what the mode needs with its default options, then what other options need."""
    from kubenetlab.datapath.modes import load

    required = _needs_of(load(mode["family"], mode["name"], {}).requirements)
    others = [entry for entry in mode["needs"] if entry not in required]
    return ", ".join(required) + (f"; with some options: {', '.join(others)}" if others else "")


def _needs_of(needs: Needs) -> list[str]:
    return [
        *needs.programs,
        *needs.all_features,
        *([f"root, for {needs.root}"] if needs.root else []),
    ]


def _mode_data(family: str, name: str) -> JsonObject:
    from msgspec import to_builtins

    from kubenetlab.datapath.manuals import manual
    from kubenetlab.datapath.modes import load

    mode = load(family, name, {})
    return {
        "family": family,
        "name": name,
        "options": to_builtins(mode),
        "needs": _needs_of(mode.needs),
        "manual": manual(family, name).strip(),
    }
