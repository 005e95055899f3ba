"""describe: show objects in full, with their events."""

from __future__ import annotations

from typing import Annotated

import typer

from kubenetlab.cli.input.completion import candidates
from kubenetlab.cli.input.options import Lab, Namespace, SelectorOption
from kubenetlab.cli.input.selection import (
    fetch_by_prefix,
    refuse_selector_beside_names,
    requested_kinds,
)
from kubenetlab.cli.terminal.printing import echo, hint, print_data


def describe(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="KIND [NAME…] | KIND/NAME…",
            show_default=False,
            autocompletion=candidates("objects"),
        ),
    ],
    namespace: Namespace = None,
    selector: SelectorOption = "",
    lab: Lab = None,
) -> None:
    """Show everything about objects, with their events and how they stand in the kernel. Example: kubenetlab describe pod client

    A name that no object has stands for all that begin with it; without a name it is every object of the kind in the namespace.
    """
    from kubenetlab.cli.describe.objects import describe_object
    from kubenetlab.lab.client import choose

    client = choose(lab)
    wanted = requested_kinds(client, "describe", what)
    refuse_selector_beside_names(selector, wanted)
    found = [
        (kind, document)
        for kind, names in wanted
        for document in fetch_by_prefix(client, kind, names, namespace or "default", selector)
    ]
    if not found:
        echo(f"nothing found in namespace {namespace or 'default'}")
        hint("kubenetlab get pods -A")
        return
    for index, (kind, document) in enumerate(found):
        if index:
            echo()
        if isinstance(kind, str):
            print_data(document, "yaml")
        else:
            describe_object(client, document)
    first = found[0][1]
    is_running = first["kind"] == "Pod" and bool(first.get("status", {}).get("podIP"))
    where = f" -n {namespace}" if namespace else ""
    hint(
        f"kubenetlab inspect {first['metadata']['name']}{where}"
        if is_running
        else "kubenetlab get events -A"
    )
