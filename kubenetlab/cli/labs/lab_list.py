"""list: the labs on this machine, with their state and size."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from kubenetlab.api.json_types import JsonObject
from kubenetlab.cli.input.options import Output, OutputOption
from kubenetlab.cli.terminal.layout import TableLayout
from kubenetlab.cli.terminal.printing import (
    TableWriter,
    echo,
    hint,
    note,
    print_data,
    print_table,
    print_verbatim,
    redrawn_table,
)
from kubenetlab.cli.terminal.theme import BAD, MUTED, WARNING, paint
from kubenetlab.errors import escape_control_characters

if TYPE_CHECKING:
    from kubenetlab.lab.overview import LabSummary

INTERVAL_S: Final = 1.0
"""Time between two updates of -w, in seconds.

Age and memory change without an event, and so do the labs of other users.
"""
_NUMERIC: Final = ("AGE", "NODES", "SERVICES", "FAULTS", "PROCESSES", "MEMORY", "PID")
_OPTIONAL: Final = ("SERVICES", "NODES", "PROCESSES", "OWNER", "FAULTS", "AGE")
"""Columns that a narrow terminal leaves out, in this order. `-o wide` without -w shows all."""
_MIB: Final = 1 << 20


def list_(
    watch: Annotated[
        bool,
        typer.Option(
            "-w", "--watch", help="Keep watching: redraw on a terminal, else print every change."
        ),
    ] = False,
    output: OutputOption = Output.table,
) -> None:
    """List the labs that are up, with their state and size.

    Root sees the labs of all users. A lab's API answers only its owner,
    so other users' labs are listed with what the kernel knows about them.
    A lab whose agent does not answer within 3 seconds is marked `no answer`.

    Example: kubenetlab list -w
    """
    from kubenetlab.lab.client import running_labs
    from kubenetlab.lab.overview import overview

    if watch:
        _watch(output)
        return
    running_labs()  # removes the links in /run/netns that dead labs left behind
    warnings: list[str] = []
    labs = overview(on_warning=warnings.append)
    for text in dict.fromkeys(warnings):
        note(f"{paint('warning:', WARNING)} {text}")
    if output.is_data:
        print_data([_as_data(lab) for lab in labs], output)
        return
    if not labs:
        echo("no lab is up")
        hint("kubenetlab up")
        return
    left_out = print_table(
        *_rows(labs, output),
        numbers=_NUMERIC,
        optional=_OPTIONAL if output is not Output.wide else (),
    )
    if left_out:
        echo(paint(f"hidden columns: {', '.join(left_out)}; show them with -o wide", MUTED))
    silent = [lab.name for lab in labs if lab.state == "no answer"]
    if silent:
        note(
            f"{paint('no answer:', BAD)} the agent of {', '.join(silent)} does not answer; "
            "its packets still flow"
        )
    own = [lab.name for lab in labs if lab.state != "private"]
    hint("kubenetlab get pods -A" if own else "kubenetlab up", own[0] if len(own) > 1 else None)


def _watch(output: Output) -> None:
    """Show the labs periodically until Ctrl-C."""
    from kubenetlab.lab.overview import overview

    if not output.is_data and (table := redrawn_table(_NUMERIC, _OPTIONAL)) is not None:
        with table as redraw:
            while True:
                redraw(*_rows(overview(on_warning=_drop_warning), output))
                time.sleep(INTERVAL_S)
    before: dict[tuple[str, str], LabSummary] = {}
    table_writer: TableWriter | None = None
    while True:
        labs = {(lab.owner, lab.name): lab for lab in overview(on_warning=_drop_warning)}
        changed = [
            lab
            for key, lab in labs.items()
            if key not in before or _watched_fields(before[key]) != _watched_fields(lab)
        ]
        gone = [lab for key, lab in before.items() if key not in labs]
        if output.is_data:
            _print_data(changed, gone)
        else:
            header, rows = _rows(changed, output)
            ended = [(lab.name, lab.owner, "down", *["-"] * (len(header) - 3)) for lab in gone]
            table_writer = table_writer or TableWriter(TableLayout(header))
            table_writer.write([*rows, *ended])
        sys.stdout.flush()
        before = labs
        time.sleep(INTERVAL_S)


def _print_data(changed: list[LabSummary], gone: list[LabSummary]) -> None:
    """Print one JSON document per line for each lab that changed or ended."""
    for lab in changed:
        print_verbatim(json.dumps(_as_data(lab)))
    for lab in gone:
        print_verbatim(json.dumps({**_as_data(lab), "state": "down"}))


def _watched_fields(lab: LabSummary) -> tuple[Any, ...]:
    """Return the fields whose change makes -w print a line; age and memory change always."""
    return (lab.state, lab.init_pid, lab.nodes, lab.pods, lab.ready, lab.services, lab.faults)


def _rows(labs: list[LabSummary], output: Output) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the headings and the rows of the table."""
    header: tuple[str, ...] = (
        "LAB",
        "OWNER",
        "STATE",
        "AGE",
        "NODES",
        "PODS",
        "SERVICES",
        "FAULTS",
        "PROCESSES",
        "MEMORY",
    )
    rows = [_row(lab) for lab in labs]
    if output is Output.wide:
        header = (*header, "PID")
        rows = [(*row, str(lab.init_pid)) for row, lab in zip(rows, labs, strict=True)]
    return header, rows


def _row(lab: LabSummary) -> tuple[str, ...]:
    from kubenetlab.cli.describe.cells import short_age

    is_ready = lab.ready == lab.pods
    pods = "?" if lab.pods is None else f"{lab.ready}/{lab.pods} ready"
    faults = "?" if lab.faults is None else str(len(lab.faults))
    return (
        escape_control_characters(lab.name),
        escape_control_characters(lab.owner),
        paint(lab.state, BAD) if lab.state == "no answer" else lab.state,
        short_age(lab.age_s),
        "?" if lab.nodes is None else str(lab.nodes),
        pods if is_ready else paint(pods, WARNING),
        "?" if lab.services is None else str(lab.services),
        faults if not lab.faults else paint(faults, WARNING),
        str(lab.processes),
        f"{lab.memory_bytes / _MIB:.0f} MiB",
    )


def _as_data(lab: LabSummary) -> JsonObject:
    import msgspec

    document: JsonObject = msgspec.to_builtins(lab)
    return document


def _drop_warning(warning: str) -> None:
    """Drop a warning: it would break a table that is redrawn; other commands print it."""
