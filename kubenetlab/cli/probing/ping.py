"""ping: send real packets from inside the lab and compare results with Kubernetes' promises."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from kubenetlab.api.json_types import JsonObject
from kubenetlab.cli.input.allowed_kinds import refuse_unknown_kinds
from kubenetlab.cli.input.completion import candidates
from kubenetlab.cli.input.options import Lab, Namespace, Output, OutputOption
from kubenetlab.cli.labs.diagnostics import (
    AllowUnmodelled,
    assess,
    count_accepted,
    count_problems,
    describe_effect,
    how_to_enforce,
    note_absent_pods,
    reasons_of,
)
from kubenetlab.cli.policies import enforced_policies
from kubenetlab.cli.probing.agents import agents_run
from kubenetlab.cli.probing.doubts import doubtful_objects
from kubenetlab.cli.terminal import display
from kubenetlab.cli.terminal.output_documents import print_document
from kubenetlab.cli.terminal.printing import echo, hint, print_faults, print_table
from kubenetlab.cli.terminal.theme import BAD, GOOD, MUTED, WARNING, paint

if TYPE_CHECKING:
    from kubenetlab.cli.labs.diagnostics import AssessedDiagnostic
    from kubenetlab.lab.client import Client
    from kubenetlab.observe.inspection import Inspection
    from kubenetlab.observe.matrix import Matrix
    from kubenetlab.observe.policies.verdicts import PolicyVerdicts
    from kubenetlab.observe.targets.grammar import Protocol
    from kubenetlab.observe.targets.locations import Location

_VERBS = {
    "answer": "answers",
    "refused": "refuses",
    "unreachable": "unreachable",
    "silence": "no answer",
    "not testable": "not testable",
}
"""Text for each outcome of a probe."""
_MAX_COUNT = 10_000
"""Maximum length of a series.

It is lower than the number of the kernel's ephemeral ports, each of which is used once.
"""
_MAX_FAILURES = 20
"""Maximum number of failed pairs that are printed below a matrix."""


def ping(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[SRC",
            help="Source: pod (\\[ns/]name), deploy:, node:, ext: or an address. Default: all.",
            show_default=False,
            autocompletion=candidates("locations"),
        ),
    ] = None,
    destination: Annotated[
        str | None,
        typer.Argument(
            metavar="[DST]]",
            help=(
                "Destination: pod, deploy:, node:, ext:, svc:\\[ns/]name, ADDRESS or NAME, each "
                "with \\[:PORT]; or http://NAME/PATH."
            ),
            show_default=False,
            autocompletion=candidates("destinations"),
        ),
    ] = None,
    tcp: Annotated[
        int | None,
        typer.Option(
            "--tcp",
            metavar="PORT",
            min=1,
            max=65535,
            help="Connect to a TCP port instead of pinging.",
        ),
    ] = None,
    udp: Annotated[
        int | None,
        typer.Option(
            "--udp",
            metavar="PORT",
            min=1,
            max=65535,
            help="Send a datagram to a UDP port instead of pinging.",
        ),
    ] = None,
    sctp: Annotated[
        int | None,
        typer.Option(
            "--sctp",
            metavar="PORT",
            min=1,
            max=65535,
            help="Open an association with an SCTP port instead of pinging.",
        ),
    ] = None,
    http: Annotated[
        str | None,
        typer.Option(
            "--http", metavar="PATH", help="Send a GET request for a path, to port 80 or --tcp."
        ),
    ] = None,
    matrix: Annotated[
        bool, typer.Option("--matrix", help="Print a matrix; with a source, one row of it.")
    ] = False,
    only_ipv4: Annotated[bool, typer.Option("-4", help="Use IPv4 only.")] = False,
    only_ipv6: Annotated[bool, typer.Option("-6", help="Use IPv6 only.")] = False,
    count: Annotated[
        int | None,
        typer.Option(
            "--count",
            metavar="N",
            min=1,
            max=_MAX_COUNT,
            help="Send N requests and show their distribution over servers.",
        ),
    ] = None,
    deadline: Annotated[
        float,
        typer.Option("--deadline", metavar="SECONDS", min=0.01, help="Time to wait for an answer."),
    ] = 1.0,
    allow_unmodelled: AllowUnmodelled = None,
    namespace: Namespace = None,
    output: OutputOption = Output.table,
    lab: Lab = None,
) -> None:
    """Send real packets from inside the lab and compare with Kubernetes' promises.

    Without arguments, probe every pair and print a matrix: pods, nodes and
    external hosts are pinged, ports of Services are connected to.
    The exit status is 1 if a result is not as promised, or if an object that
    the lab does not enforce, such as a network policy, could change a result,
    or while no agent of the CNI plugin runs on a node.

    Example: kubenetlab ping client svc:shop/frontend --http /
    """
    from kubenetlab.errors import UsageError
    from kubenetlab.lab.client import select_lab
    from kubenetlab.observe.matrix import matrix_places
    from kubenetlab.observe.targets.resolution import read, resolve

    if only_ipv4 and only_ipv6:
        raise UsageError("-4 cannot be combined with -6; omit both to use all families")
    version = 4 if only_ipv4 else 6 if only_ipv6 else None
    given: tuple[tuple[Protocol, int | None], ...] = (("SCTP", sctp), ("UDP", udp), ("TCP", tcp))
    ports = {protocol: port for protocol, port in given if port is not None}
    options = [f"--{protocol.lower()}" for protocol in ports] + ["--http"] * (http is not None)
    if len(options) > 1 and options != ["--tcp", "--http"]:
        raise UsageError(f"{options[0]} cannot be combined with {' or '.join(options[1:])}")
    if count is not None and (destination is None or matrix):
        raise UsageError("--count needs a source and a destination, and excludes --matrix")
    client = select_lab(lab)
    refuse_unknown_kinds(client, allow_unmodelled)
    inspected = client.inspect()
    are_agents_running = agents_run(inspected)
    if source is not None and destination is not None and not matrix:
        from kubenetlab.observe.request import RequestOptions, ip_version, make_request

        protocol, port = next(iter(ports.items()), (None, None))
        option = f"--{protocol.lower()}" if protocol else ""
        target = read(destination, inspected, namespace)
        location = resolve(read(source, inspected, namespace), inspected)
        request = make_request(target, RequestOptions(protocol, port, http, option, option))
        location = location.of_version(ip_version(target, version))
        if count is not None:
            from kubenetlab.cli.probing.ping_series import ping_series

            is_fine = ping_series(
                client,
                inspected,
                location,
                target,
                request,
                count=count,
                deadline_s=deadline,
                allowed=allow_unmodelled,
                output=output,
            )
        else:
            from kubenetlab.cli.probing.ping_once import ping_once

            is_fine = ping_once(
                client,
                inspected,
                location,
                target,
                request,
                deadline_s=deadline,
                allowed=allow_unmodelled,
                output=output,
            )
    else:
        sources = (
            [resolve(read(source, inspected, namespace), inspected)]
            if source is not None
            else matrix_places(inspected)
        )
        sources = [source_row.of_version(version) for source_row in sources]
        is_fine = _matrix(client, inspected, sources, deadline, allow_unmodelled, output)
    if not (are_agents_running and is_fine):
        raise typer.Exit(1)


def _matrix(
    client: Client,
    inspected: Inspection,
    sources: Sequence[Location],
    deadline_s: float,
    allowed: list[str] | None,
    output: Output,
) -> bool:
    from kubenetlab.kernel.namespaces.enter import enter_lab
    from kubenetlab.observe.connections import Ends
    from kubenetlab.observe.matrix import probe_matrix

    started = time.monotonic()
    doubtful = doubtful_objects(client)
    policies = enforced_policies(client, inspected)
    note_absent_pods(inspected)
    enter_lab(client.open_init())
    matrix = probe_matrix(inspected, sources=sources, deadline_s=deadline_s, policies=policies)
    took_s = time.monotonic() - started
    ends = Ends(inspected)
    assessed = assess(
        doubtful,
        [ends.of_cell(cell.source, cell.destination) for cell in matrix.cells],
        kinds=allowed,
    )
    is_fine = not matrix.faults and all(item.is_accepted for item in assessed)
    if output.is_data:
        print_document(_as_data(matrix, assessed, policies, is_fine=is_fine), output)
        return is_fine
    _show(matrix)
    _summary(matrix, assessed, took_s, policies)
    print_faults(inspected["faults"])
    _hint(matrix, assessed)
    return is_fine


def _show(matrix: Matrix) -> None:
    """Print the marks, the destinations that are no sources, and the legend."""
    from kubenetlab.cli.probing.matrix_lines import (
        legend_lines,
        matrix_lines,
        print_other_destinations,
    )

    width = display.standard_output().width
    for line in matrix_lines(matrix, width):
        echo(line)
    print_other_destinations(matrix)
    for line in legend_lines(width, has_untested=bool(matrix.untested)):
        echo(line)


def _as_data(
    matrix: Matrix,
    assessed: Sequence[AssessedDiagnostic],
    policies: PolicyVerdicts | None,
    *,
    is_fine: bool,
) -> JsonObject:
    from kubenetlab.observe.matrix import cell_reasons

    cells = [
        {
            "from": cell.source.title,
            "to": cell.destination.title,
            "address": cell.address,
            "expected": cell.expected,
            "found": cell.result.outcome,
            "ms": round(cell.result.ms, 3),
            "ok": cell.is_as_promised,
            "policies": cell_reasons(policies, cell),
        }
        for cell in matrix.cells
    ]
    names = [f"{cell.source.title} → {cell.destination.title}" for cell in matrix.cells]
    return {
        "ok": is_fine,
        "cells": cells,
        "diagnostics": [item.as_data(names) for item in assessed],
    }


def _summary(
    matrix: Matrix,
    assessed: Sequence[AssessedDiagnostic],
    took_s: float,
    policies: PolicyVerdicts | None = None,
) -> None:
    from kubenetlab.cli.policies import print_denials
    from kubenetlab.observe.matrix import cell_reasons

    print_denials(matrix, policies)
    if matrix.faults:
        header = ("SOURCE", "DESTINATION", "ADDRESS", "RESULT", "PROMISED", "POLICIES")
        print_table(
            header if policies is not None else header[:-1],
            [
                (
                    f"{paint('✗', BAD)} {cell.source.title}",
                    cell.destination.title,
                    paint(cell.address, MUTED),
                    paint(_VERBS[cell.result.outcome], BAD),
                    cell.expected,
                    *(["; ".join(cell_reasons(policies, cell))] if policies is not None else ()),
                )
                for cell in matrix.faults[:_MAX_FAILURES]
            ],
            optional=("ADDRESS", "POLICIES"),
            is_apart=True,
            plain=lambda row: (
                f"{row[0]} → {row[1]} ({row[2]}): {row[3]}, promised: {row[4]}"
                + "".join(f": {reason}" for reason in row[5:] if reason)
            ),
        )
    if len(matrix.faults) > _MAX_FAILURES:
        echo(f"  … and {len(matrix.faults) - _MAX_FAILURES} more")
    probes = sum(len(cell.results) for cell in matrix.cells)
    pings = sum(len(cell.results) for cell in matrix.cells if not hasattr(cell.destination, "port"))
    untested = len(matrix.untested)
    broken = len(matrix.faults) - untested
    verdict = ", ".join(
        (
            *([paint(f"{broken} not as Kubernetes promises", BAD)] if broken else ()),
            *([paint(f"{untested} not testable", WARNING)] if untested else ()),
        )
    ) or paint("all as Kubernetes promises", GOOD)
    names = [f"{cell.source.title} → {cell.destination.title}" for cell in matrix.cells]
    unaccepted = [item for item in assessed if not item.is_accepted]
    for item in unaccepted:
        echo(f"{paint('✗', BAD)} {describe_effect(item, names)}")
    for reason in reasons_of(unaccepted):
        echo(f"    {reason}")
    verdict += "".join(paint(f", {part}", BAD) for part in count_problems(assessed))
    verdict += "".join(paint(f", {part}", WARNING) for part in count_accepted(assessed))
    echo(f"{pings} pings, {probes - pings} connects in {took_s:.2f} s: {verdict}")


def _hint(matrix: Matrix, assessed: Sequence[AssessedDiagnostic]) -> None:
    unaccepted = [item for item in assessed if not item.is_accepted]
    if matrix.faults:
        is_broken = len(matrix.faults) > len(matrix.untested)
        hint("kubenetlab diff" if is_broken else "kubenetlab doctor")
    elif unaccepted and not unaccepted[0].is_unenforced:
        hint("kubenetlab get pods -A -o wide")
    elif unaccepted:
        hint(how_to_enforce(unaccepted, "kubenetlab ping"))
    else:
        hint("kubenetlab exec POD -- ip addr, or kubenetlab ping POD svc:NAME --http /hostname")
