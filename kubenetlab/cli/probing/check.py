"""check: test connectivity with real packets against tables of expectations, for CI."""

from __future__ import annotations

import os
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kubenetlab.cli.input.allowed_kinds import refuse_unknown_kinds
from kubenetlab.cli.input.options import Lab, Output, manifest_files
from kubenetlab.cli.labs.diagnostics import AllowUndeclared, AllowUnmodelled
from kubenetlab.cli.terminal.output_documents import print_document
from kubenetlab.cli.terminal.printing import echo, hint, note, print_faults
from kubenetlab.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kubenetlab.api.json_types import JsonMapping
    from kubenetlab.cli.probing.check_report import Result
    from kubenetlab.observe.matrix import Matrix


class CheckOutput(StrEnum):
    """Output formats of `check`."""

    table = "table"
    wide = "wide"
    json = "json"
    yaml = "yaml"
    html = "html"
    text = "text"


def check(
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE…]", help="Tables of expectations.", show_default=False),
    ] = None,
    files: Annotated[
        list[str] | None,
        typer.Option(
            "-f",
            "--filename",
            metavar="FILE|-",
            help="Table of expectations. May be repeated.",
        ),
    ] = None,
    generate: Annotated[
        str | None,
        typer.Option(
            "--generate",
            metavar="FILE|-",
            help="Write a table of the connections that succeed and fail now, instead of a test.",
        ),
    ] = None,
    diff: Annotated[
        tuple[str, str] | None,
        typer.Option(
            "--diff",
            metavar="OLD NEW",
            help="Show the connections that a change of manifests opens and closes; no lab needed.",
        ),
    ] = None,
    junit: Annotated[
        str | None,
        typer.Option("--junit", metavar="FILE", help="Also write the result as JUnit XML."),
    ] = None,
    deadline: Annotated[
        float,
        typer.Option("--deadline", metavar="SECONDS", min=0.01, help="Time to wait for an answer."),
    ] = 1.0,
    allow_unmodelled: AllowUnmodelled = None,
    allow_undeclared: AllowUndeclared = False,
    output: Annotated[
        CheckOutput,
        typer.Option(
            "-o",
            "--output",
            help=(
                "Output format; `wide`: also results that hold whatever the outcome; `html`: a "
                "page for a pull request; `text`: sentences, for --diff."
            ),
        ),
    ] = CheckOutput.table,
    lab: Lab = None,
) -> None:
    """Test who can reach whom, against tables of expectations.

    Without a table, test what Kubernetes promises for every pair: pods, their
    ports, nodes, Services and hosts outside.
    Manifests that a table names are applied first.
    The exit status is 1 if an expectation does not hold. It is also 1 if
    objects are misconfigured or not enforced by the lab (such as network
    policies), because the result would not be reliable.

    Examples:
    kubenetlab check -f manifests/11-microservices-demo/expect.yaml
    kubenetlab check --generate expect.yaml
    kubenetlab check --diff main/k8s k8s -o text
    """
    from kubenetlab.cli.labs.diagnostics import assess
    from kubenetlab.cli.probing import check_report
    from kubenetlab.cli.probing.check_probes import apply_manifests, check_promise, check_tables
    from kubenetlab.lab.client import select_lab
    from kubenetlab.observe.checks.truth_table import load

    table_files = manifest_files(paths, files) or ()
    if diff is not None or generate is not None:
        _without_tables(diff, generate, output, lab, deadline, is_alone=not (table_files or junit))
        return
    if output is CheckOutput.text:
        raise UsageError("-o text is for --diff")
    if junit is not None:
        check_report.refuse_unwritable("--junit", junit)
    client = select_lab(lab)
    refuse_unknown_kinds(client, allow_unmodelled)
    tables = [(file, *load(file)) for file in table_files]
    manifests = [
        os.path.join(os.path.dirname(file), name)
        for file, table, _ in tables
        for name in table.manifests
    ]
    if manifests:
        apply_manifests(client.lab, manifests)
    diagnostics, faults = client.diagnostics(), client.faults()
    started = time.monotonic()
    matrix: Matrix | None = None
    is_data = output in (CheckOutput.json, CheckOutput.yaml)
    if tables:
        verdicts = check_tables(client, tables, deadline, explains_all=is_data)
    else:
        matrix, verdicts = check_promise(client, deadline, explains_all=is_data)
    took_s = time.monotonic() - started
    expected_to_fail = frozenset(
        index for index, verdict in enumerate(verdicts) if tables and verdict.is_expected_to_fail
    )
    connections = [verdict.connection for verdict in verdicts]
    assessed = assess(
        diagnostics,
        connections,
        kinds=allow_unmodelled,
        undeclared=allow_undeclared,
        expected_to_fail=expected_to_fail,
    )
    result = check_report.Result(client.lab, verdicts, assessed, took_s)
    if junit is not None:
        check_report.write_junit(junit, result)
    _print_result(result, output, matrix, faults)
    if not result.is_fine:
        raise typer.Exit(1)


def _print_result(
    result: Result, output: CheckOutput, matrix: Matrix | None, faults: Sequence[JsonMapping]
) -> None:
    """Print the result in an output format.

    matrix: all probes of a check without tables. faults: faults that the user created.
    """
    from kubenetlab.cli.probing import check_report

    if output is CheckOutput.html:
        typer.echo(check_report.as_page(result), nl=False)
    elif output in (CheckOutput.json, CheckOutput.yaml):
        print_document(check_report.as_data(result), Output(output.value))
    else:
        if result.failed and matrix is not None:
            check_report.show_differences(matrix)
        check_report.show(result, is_wide=output is CheckOutput.wide)
        if result.failed:
            print_faults(faults)
        hint(check_report.next_command(result))


def _without_tables(
    diff: tuple[str, str] | None,
    generate: str | None,
    output: CheckOutput,
    lab: str | None,
    deadline_s: float,
    *,
    is_alone: bool,
) -> None:
    """Run --diff or --generate. Raises UsageError together with options that they do not use."""
    from kubenetlab.cli.probing.check_diff import show_changes

    if not is_alone or (diff is not None and generate is not None):
        option = "--diff" if diff is not None else "--generate"
        raise UsageError(f"{option} tests no table: use it without tables and other options")
    if diff is not None:
        if output is CheckOutput.html:
            raise UsageError("-o html is for tests; --diff has table, text, json and yaml")
        show_changes(*diff, output)
    elif generate is not None:
        _generate(lab, generate, deadline_s)


def _generate(lab: str | None, file: str, deadline_s: float) -> None:
    """Write a table of what is true now to a file, or to standard output for `-`."""
    from kubenetlab.cli.probing.check_probes import probe_everything
    from kubenetlab.cli.probing.check_report import refuse_unwritable
    from kubenetlab.errors import LabError
    from kubenetlab.lab.client import select_lab
    from kubenetlab.observe.checks.closed_ports import ClosedPorts, probe_closed_ports
    from kubenetlab.observe.checks.generated_table import generated_table
    from kubenetlab.observe.pod_ports import is_served
    from kubenetlab.observe.probe_sockets import NO_SCTP

    if file != "-":
        refuse_unwritable("--generate", file)
    client = select_lab(lab)
    matrix, inspected, policies = probe_everything(client, deadline_s)
    cells = matrix.cells
    closed = ClosedPorts()
    if policies is not None:
        closed = probe_closed_ports(matrix.sources, inspected, policies, deadline_s)
    if matrix.is_sampled:
        cells = tuple(cell for cell in cells if is_served(cell.destination))
        note("the table lacks ports on which nothing listens: policies name too many for all pods")
    elif closed.are_left_out:
        note("the table lacks ports that no policy names: there are too many for all pods")
    text = generated_table((*cells, *closed.others), inspected, client.lab, closed.silent)
    untested = len(matrix.untested)
    if untested:
        note(f"{untested} connections are not testable, and not in the table: {NO_SCTP}")
    if count := len(matrix.faults) - untested + len(closed.others):
        note(f"{count} connections are not as Kubernetes promises; the table has them as they are")
    if file == "-":
        typer.echo(text, nl=False)
        return
    former = _content_of(file)
    try:
        with open(file, "w", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise LabError(f"--generate {file}: cannot write this file: {error.strerror}") from None
    rows = f"{text.count(chr(10) + '- ')} rows"
    if former == text:
        echo(f"{rows} in {file}, which are those that it had")
    else:
        replaced = f", in place of its former {len(former.splitlines())} lines" if former else ""
        echo(f"{rows} written to {file}{replaced}")
    hint(f"kubenetlab check -f {file}")


def _content_of(file: str) -> str:
    """Return the text of a file; empty if it does not exist, or is a pipe or a device."""
    try:
        return Path(file).read_text(errors="replace") if Path(file).is_file() else ""
    except OSError:
        return ""
