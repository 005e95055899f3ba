"""down: remove labs and everything they created."""

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
            help="Labs to remove. Default: the only lab.",
            show_default=False,
            autocompletion=candidates("labs"),
        ),
    ] = None,
    lab: Lab = None,
    every: Annotated[bool, typer.Option("--all", help="Remove all labs of this user.")] = False,
) -> None:
    """Remove a lab and everything it created, also after a crash.

    Example: kubenetlab down
    """
    from kubenetlab.errors import LabError, UsageError, did_you_mean
    from kubenetlab.lab import cleanup, client, rundir

    existing = rundir.lab_names()
    for name in names or ():
        # A lab named with --lab is not checked: a crash may have left only traces of it.
        if name not in existing:
            raise UsageError(
                f"there is no lab {name}{did_you_mean(name, existing)}; "
                f"labs: {', '.join(existing) or 'none'}"
            )
    named = list(dict.fromkeys([*(names or ()), *([lab] if lab is not None else ())]))
    labs = existing if every else named or existing
    if not named and not every and len(labs) > 1:
        raise LabError(
            f"there are several labs: {', '.join(labs)}; "
            f"name one (kubenetlab down {labs[0]}), or use --all"
        )
    errors: list[LabError] = []
    for name in labs:
        try:
            was_alive = client.Client(name).kill()
            while not cleanup.remove_dead_lab(name):  # an `up` has finished in between
                was_alive |= client.Client(name).kill()
        except LabError as error:  # remove the other labs all the same
            errors.append(error)
            continue
        echo(f"lab {name} is down" if was_alive else f"lab {name} is not up: nothing to remove")
    if errors:
        raise LabError("\n".join(map(str, errors)))
    if not labs:
        echo("no lab is up")
    hint("kubenetlab up" if not client.running_labs() else "kubenetlab list")
