"""delete: parse the command line; module `deletion` deletes the objects."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from kubenetlab.cli.input.completion import candidates
from kubenetlab.cli.input.options import (
    Files,
    Kustomizations,
    Lab,
    Namespace,
    SelectorOption,
    manifest_files,
)
from kubenetlab.cli.terminal.printing import hint


def delete(
    resources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KIND NAME… | KIND/NAME… | KIND -l …]",
            show_default=False,
            autocompletion=candidates("objects"),
        ),
    ] = None,
    files: Files = None,
    kustomizations: Kustomizations = None,
    namespace: Namespace = None,
    selector: SelectorOption = "",
    ignore_not_found: Annotated[
        bool,
        typer.Option("--ignore-not-found", help="Succeed if an object does not exist."),
    ] = False,
    lab: Lab = None,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Return before the objects are gone.")
    ] = False,
) -> None:
    """Delete objects by name, by labels, or all objects of manifests.

    Example: kubenetlab delete pod web-0
    """
    from kubenetlab.api.kinds import find_kind
    from kubenetlab.cli.objects import deletion
    from kubenetlab.lab.client import select_lab

    if (
        resources
        and not files
        and find_kind(resources[0]) is None
        and all(word == "-" or os.path.isfile(word) for word in resources)
    ):
        resources, files = None, resources  # as in: delete web.yaml
    files = manifest_files(None, files, kustomizations)
    client = select_lab(lab)
    deletion.delete(
        client,
        resources or [],
        files,
        namespace,
        selector=selector,
        ignore_not_found=ignore_not_found,
        wait=not no_wait,
    )
    hint("kubenetlab get pods -A")
