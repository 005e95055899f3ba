"""break and heal: inject faults into a lab and remove them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kubenetlab.cli.input.completion import candidates
from kubenetlab.cli.input.options import Lab, Output, OutputOption
from kubenetlab.cli.terminal.printing import (
    echo,
    hint,
    note,
    print_data,
    print_failures,
    print_table,
)
from kubenetlab.cli.terminal.theme import BAD, GOOD, HEADING, paint
from kubenetlab.lab.paths import LAB_API

if TYPE_CHECKING:
    from kubenetlab.lab.client import Client

FAULTS_PATH = f"{LAB_API}/faults"
WAIT_S = 20.0
"""Time allowed for the lab to apply a change, in seconds."""


def _optional_argument(metavar: str, help_: str, completion: str | None = None) -> Any:
    return typer.Argument(
        metavar=metavar,
        help=help_,
        show_default=False,
        autocompletion=candidates(completion) if completion else None,
    )


Fault = Annotated[
    str | None,
    _optional_argument("FAULT", "Fault to inject. Without it, all faults are listed.", "faults"),
]
FaultOptions = Annotated[
    list[str] | None,
    _optional_argument("OPTION=VALUE…", "Other options of the fault; see `explain FAULT`."),
]
FaultId = Annotated[
    str | None,
    _optional_argument("ID", "ID of the fault to remove. Default: all faults.", "fault_ids"),
]


def _option(name: str, metavar: str, help_: str, completion: str) -> Any:
    return typer.Option(
        f"--{name}", metavar=metavar, help=help_, autocompletion=candidates(completion)
    )


Node = Annotated[str | None, _option("node", "NODE", "Node to break; same as node=NODE.", "nodes")]
How = Annotated[
    str | None,
    _option(
        "how",
        "HOW",
        "Kind of failure, such as `stopped`, `stale` or `misconfigured`.",
        "how_values",
    ),
]
To = Annotated[
    str | None, _option("to", "NODE", "Node at the other end, for the fault `route`.", "nodes")
]
Size = Annotated[
    int | None,
    typer.Option("--size", metavar="BYTES", help="MTU, for the fault `mtu`.", min=1),
]
Pod = Annotated[
    str | None, _option("pod", "POD", "Pod that has the address, for the fault `ipam`.", "pods")
]
With = Annotated[
    str | None,
    _option("with", "POD", "Pod that gets the same address, for the fault `ipam`.", "pods"),
]
ListFaults = Annotated[
    bool, typer.Option("--list", help="List active and available faults; change nothing.")
]


def break_(
    fault: Fault = None,
    options: FaultOptions = None,
    node: Node = None,
    how: How = None,
    to: To = None,
    size: Size = None,
    pod: Pod = None,
    with_: With = None,
    list_: ListFaults = False,
    output: OutputOption = Output.table,
    lab: Lab = None,
) -> None:
    """Inject a fault into a running lab.

    The fault stays until `heal` removes it, even if the lab changes.
    To see what a fault does and where to look: kubenetlab explain FAULT

    Example: kubenetlab break kube-proxy --node worker --how stopped
    """
    from kubenetlab.errors import UsageError
    from kubenetlab.lab.client import ApiError, select_lab

    client = select_lab(lab)
    if fault is None or list_:
        _list(client, output)
        return
    given = {"node": node, "how": how, "to": to, "size": size, "pod": pod, "with": with_}
    fault_options = {
        **_pairs(options or ()),
        **{name: value for name, value in given.items() if value is not None},
    }
    try:
        fault_object = client.post(f"{LAB_API}/break", {"fault": fault, "options": fault_options})
    except ApiError as error:
        raise (UsageError(str(error)) if error.code == 422 else error) from None
    _wait(client)
    if output.is_data:
        print_data(fault_object, output)
        return
    name = fault_object["metadata"]["name"]
    echo(f"fault {paint(name, HEADING)}: {paint(fault_object['spec']['summary'], BAD)}")
    hint(f"kubenetlab explain {fault} (what to look at), or kubenetlab heal {name}")


def heal(fault: FaultId = None, lab: Lab = None) -> None:
    """Remove one fault or all of them, and repair what they broke.

    Example: kubenetlab heal 1
    """
    from kubenetlab.lab.client import ApiError, select_lab

    client = select_lab(lab)
    summaries = {
        item["metadata"]["name"]: item["spec"]["summary"]
        for item in client.get(FAULTS_PATH)["items"]
    }
    selected = [name for name in summaries if fault in (None, name)]
    for name in selected:
        try:
            client.request("DELETE", f"{FAULTS_PATH}/{name}")
        except ApiError as error:
            if error.code != 404:  # already removed by another client
                raise
        echo(f"fault {name} is {paint('healed', GOOD)}; it was: {summaries[name]}")
    if not selected:
        echo(
            f"there is no fault {fault}; see kubenetlab get faults"
            if fault is not None
            else "nothing is broken"
        )
    _wait(client)
    hint("kubenetlab ping" if len(summaries) == len(selected) else "kubenetlab get faults")


def _list(client: Client, output: Output) -> None:
    from kubenetlab.cli.describe.columns import columns, header
    from kubenetlab.datapath import faults

    items = client.get(FAULTS_PATH)["items"]
    if output.is_data:
        print_data({"apiVersion": "v1", "kind": "List", "items": items}, output)
        return
    if items:
        print_table(
            header("Fault", is_wide=True), [columns("Fault", item, is_wide=True) for item in items]
        )
        echo()
    print_table(
        ("FAULT", "OPTIONS", "DESCRIPTION"),
        [
            (
                name,
                " ".join(f"--{option}" for option in faults.option_names(name)),
                _about(faults.manual(name)),
            )
            for name in faults.known()
        ],
    )
    hint("kubenetlab heal" if items else f"kubenetlab explain {faults.known()[0]}")


def _about(manual: str) -> str:
    """Return the summary in the first line of a manual page, without the name."""
    return manual.partition("\n")[0].partition(": ")[2]


def _pairs(words: Sequence[str]) -> dict[str, str]:
    """Return OPTION=VALUE arguments as a mapping. Raises BadParameter."""
    options = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f'"{word}": expected OPTION=VALUE')
        options[name] = value
    return options


def _wait(client: Client) -> None:
    """Wait until the lab has applied the change; print the operations that Linux rejected."""
    *_, last = (
        {"settled": False, "failures": {}},
        *client.stream(f"{LAB_API}/settled", timeout=str(WAIT_S)),
    )
    print_failures(last["failures"])
    if not last["settled"]:
        note(f"the lab has not applied the change after {WAIT_S:g} s; see: kubenetlab get pods -A")
