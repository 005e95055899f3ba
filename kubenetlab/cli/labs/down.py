"""down: remove labs."""

from __future__ import annotations

from typing import Annotated

import typer

from kubenetlab.cli.input.completion import candidates
from kubenetlab.cli.input.options import Lab
from kubenetlab.cli.terminal.printing import echo, hint


def down(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[LAB…]",
            help="Which labs.",
            show_default=False,
            autocompletion=candidates("labs"),
        ),
    ] = None,
    lab: Lab = None,
    every: Annotated[bool, typer.Option("--all", help="All labs of this user.")] = False,
) -> None:
    """Free everything a lab has made, also after a crash. Example: kubenetlab down"""
    from kubenetlab.errors import LabError, UsageError, did_you_mean
    from kubenetlab.lab import cleanup, client, rundir

    there = rundir.names()
    for name in names or ():  # one that --lab names may have left traces alone
        if name not in there:
            raise UsageError(
                f"there is no lab {name}{did_you_mean(name, there)}; there are: {', '.join(there) or 'none'}"
            )
    labs = (
        there
        if every
        else list(dict.fromkeys([*(names or ()), *([lab] if lab is not None else ())])) or there
    )
    if lab is None and not names and not every and len(labs) > 1:
        raise LabError(
            f"several labs are there: {', '.join(labs)}; say which: kubenetlab down {labs[0]}, or --all"
        )
    failed: list[LabError] = []
    for name in labs:
        try:
            was_alive = client.Client(name).kill()
            while not cleanup.sweep(name):  # an `up` has just finished
                was_alive |= client.Client(name).kill()
        except LabError as error:  # the others go all the same
            failed.append(error)
            continue
        echo(f"lab {name} is down" if was_alive else f"lab {name} is not up: nothing to take down")
    if failed:
        raise LabError("\n".join(map(str, failed)))
    if not labs:
        echo("no lab is up")
    hint("kubenetlab up" if not client.running() else "kubenetlab list")
