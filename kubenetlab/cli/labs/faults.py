"""break and heal: faults on purpose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from kubenetlab.cli.input.completion import candidates
from kubenetlab.cli.input.options import Lab, Output, OutputOption
from kubenetlab.cli.terminal.printing import (
    BAD,
    GOOD,
    echo,
    hint,
    note,
    paint,
    print_data,
    print_failures,
    print_table,
)
from kubenetlab.lab.paths import LAB_API

if TYPE_CHECKING:
    from kubenetlab.lab.client import Client

FAULTS_PATH = f"{LAB_API}/faults"
WAIT_S = 20.0
"""How long the lab is waited for to do what it was told."""


def break_(
    fault: Annotated[
        str | None,
        typer.Argument(
            metavar="FAULT",
            help="Which one; without it they are listed.",
            show_default=False,
            autocompletion=candidates("faults"),
        ),
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="OPTION=VALUE…", help="What else `explain FAULT` names.", show_default=False
        ),
    ] = None,
    node: Annotated[
        str | None,
        typer.Option(
            "--node", metavar="NODE", help="On which node.", autocompletion=candidates("nodes")
        ),
    ] = None,
    how: Annotated[
        str | None,
        typer.Option(
            "--how",
            metavar="HOW",
            help="In which way, such as stopped, stale or misconfigured.",
            autocompletion=candidates("how_values"),
        ),
    ] = None,
    list_: Annotated[
        bool, typer.Option("--list", help="Only show what is broken, and what can be.")
    ] = False,
    output: OutputOption = Output.table,
    lab: Lab = None,
) -> None:
    """Break something on purpose, until it is healed. Example: kubenetlab break kube-proxy --node worker --how stopped

    What it does, and what to look at, is told by: kubenetlab explain FAULT. A fault stays until `heal`, whatever else happens to the lab.
    """
    from kubenetlab.errors import UsageError
    from kubenetlab.lab.client import ApiError, choose

    client = choose(lab)
    if fault is None or list_:
        _list(client, output)
        return
    asked = {
        **_pairs(options or ()),
        **({"node": node} if node is not None else {}),
        **({"how": how} if how is not None else {}),
    }
    try:
        made = client.post(f"{LAB_API}/break", {"fault": fault, "options": asked})
    except ApiError as error:
        raise (UsageError(str(error)) if error.code == 422 else error) from None
    _wait(client)
    if output.is_data:
        print_data(made, output)
        return
    name = made["metadata"]["name"]
    echo(f"fault {paint(name, None, bold=True)}: {paint(made['spec']['summary'], BAD)}")
    hint(f"kubenetlab explain {fault} (what to look at), or kubenetlab heal {name}")


def heal(
    fault: Annotated[
        str | None,
        typer.Argument(
            metavar="ID",
            help="Of which fault; by default all.",
            show_default=False,
            autocompletion=candidates("fault_ids"),
        ),
    ] = None,
    lab: Lab = None,
) -> None:
    """Take a fault back, or all of them: what it broke is as a new lab has it. Example: kubenetlab heal 1"""
    from kubenetlab.lab.client import ApiError, choose

    client = choose(lab)
    known = {
        item["metadata"]["name"]: item["spec"]["summary"]
        for item in client.get(FAULTS_PATH)["items"]
    }
    wanted = [name for name in known if fault in (None, name)]
    for name in wanted:
        try:
            client.request("DELETE", f"{FAULTS_PATH}/{name}")
        except ApiError as error:
            if error.code != 404:  # somebody else has healed it meanwhile
                raise
        echo(f"fault {name} is {paint('healed', GOOD)}; it was: {known[name]}")
    if not wanted:
        echo(
            f"there is no fault {fault}: nothing to heal"
            if fault is not None
            else "nothing is broken"
        )
    _wait(client)
    hint("kubenetlab ping" if len(known) == len(wanted) else "kubenetlab get faults")


def _list(client: Client, output: Output) -> None:
    from kubenetlab.cli.describe.columns import columns, header
    from kubenetlab.datapath import faults

    found = client.get(FAULTS_PATH)["items"]
    if output.is_data:
        print_data({"apiVersion": "v1", "kind": "List", "items": found}, output)
        return
    if found:
        print_table(
            header("Fault", is_wide=True), [columns("Fault", item, is_wide=True) for item in found]
        )
        echo()
    print_table(
        ("CAN BE BROKEN", "OPTIONS", "WHAT"),
        [
            (
                name,
                " ".join(f"--{option}" for option in faults.option_names(name)),
                _about(faults.manual(name)),
            )
            for name in faults.known()
        ],
    )
    hint("kubenetlab heal" if found else f"kubenetlab explain {faults.known()[0]}")


def _about(manual: str) -> str:
    """The first line behind the name."""
    return manual.partition("\n")[0].partition(": ")[2]


def _pairs(words: Sequence[str]) -> dict[str, str]:
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f'"{word}": wanted OPTION=VALUE')
        found[name] = value
    return found


def _wait(client: Client) -> None:
    """Until the lab has done what was asked for, and says what Linux refused."""
    *_, last = (
        {"settled": False, "failures": {}},
        *client.stream(f"{LAB_API}/settled", timeout=str(WAIT_S)),
    )
    print_failures(last["failures"])
    if not last["settled"]:
        note(f"after {WAIT_S:g} s the lab is still at work; see: kubenetlab get pods -A")
