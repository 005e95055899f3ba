"""describe: show objects in detail, with their events and their state in the kernel."""

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
from kubenetlab.cli.terminal.printing import echo, hint, note, prepare_drawing, print_data


def describe(
    resources: Annotated[
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
    """Show objects in detail, with their events and their state in the kernel.

    A name that does not exist is used as a prefix.
    Without a name, all objects of the kind in the namespace are shown.

    Example: kubenetlab describe pod client
    """
    from kubenetlab.api.manifests.objects import title_of
    from kubenetlab.cli.describe.columns import state_of_kept
    from kubenetlab.cli.describe.objects import describe_object
    from kubenetlab.lab.client import select_lab

    client = select_lab(lab)
    prepare_drawing()
    requested = requested_kinds(client, "describe", resources)
    refuse_selector_beside_names(selector, requested)
    objects = [
        (kind, document)
        for kind, names in requested
        for document in fetch_by_prefix(client, kind, names, namespace or "default", selector)
    ]
    if not objects:
        echo(f"nothing found in namespace {namespace or 'default'}")
        hint("kubenetlab get pods -A")
        return
    for index, (kind, document) in enumerate(objects):
        if index:
            echo()
        if isinstance(kind, str):
            note(f"{title_of(document)}: {state_of_kept(document)}")
            print_data(document, "yaml")
        else:
            describe_object(client, document)
    first = objects[0][1]
    is_running = first["kind"] == "Pod" and bool(first.get("status", {}).get("podIP"))
    namespace_option = f" -n {namespace}" if namespace else ""
    hint(
        f"kubenetlab inspect {first['metadata']['name']}{namespace_option}"
        if is_running
        else "kubenetlab get events -A"
    )
