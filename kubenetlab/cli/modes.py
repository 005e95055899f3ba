"""modes and explain: what can be chosen, and the manual page of each choice."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from kubenetlab.cli.options import Output, OutputOption
from kubenetlab.cli.screen import data, hint, say, table

_FAMILIES: tuple[tuple[str, str, str], ...] = (("cni", "networking.cni", "--cni"), ("proxy", "networking.kubeProxyMode", "--proxy"))
"""(family, field of the Cluster document, option)"""


def modes(output: OutputOption = Output.table) -> None:
    """List the CNI and kube-proxy modes with their options. Example: kubenetlab modes"""
    found = [_described(family, name) for family, _, _ in _FAMILIES for name in _known(family)]
    if output.is_data:
        data(found, output)
        return
    table(
        ("FAMILY", "MODE", "OPTIONS", "WHAT"),
        [
            (
                mode["family"],
                mode["name"],
                ",".join(f"{name}={value}" for name, value in mode["options"].items()) or "-",
                mode["manual"].partition("\n")[0].partition(": ")[2],
            )
            for mode in found
        ],
    )
    hint(f"kubenetlab explain {found[0]['name']}")


def explain(what: Annotated[str, typer.Argument(metavar="MODE", help="A mode, as `modes` lists them.", show_default=False)]) -> None:
    """Show the manual page of a mode. Example: kubenetlab explain bridge"""
    from kubenetlab.errors import UsageError, did_you_mean

    names = [name for family, _, _ in _FAMILIES for name in _known(family)]
    found = [(family, field, option) for family, field, option in _FAMILIES if what in _known(family)]
    if not found:
        raise UsageError(f'there is no mode "{what}"{did_you_mean(what, names)}; known: {", ".join(dict.fromkeys(names))}')
    for family, field, option in found:
        mode = _described(family, what)
        say(mode["manual"])
        say()
        options = "".join(f",{name}={value}" for name, value in mode["options"].items())
        say(f"In a Cluster document: {field}: {what}      On the command line: {option} {what}{options}")
        if mode["needs"]:
            say(f"Needs: {', '.join(mode['needs'])}")
        if len(found) > 1 and family == found[0][0]:
            say()
    hint("kubenetlab modes")


def _known(family: Any) -> tuple[str, ...]:
    from kubenetlab.datapath.modes import known

    return known(family)


def _described(family: Any, name: str) -> dict[str, Any]:
    from msgspec import to_builtins

    from kubenetlab.datapath.modes import load, manual

    mode = load(family, name, {})
    needs = [*mode.needs.programs, *mode.needs.features]
    return {"family": family, "name": name, "options": to_builtins(mode), "needs": needs, "manual": manual(family, name).strip()}
