"""ping: real packets from inside, beside what Kubernetes promises."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kubenetlab.cli.input.completion import candidates
from kubenetlab.cli.input.options import Lab, Namespace, Output, OutputOption
from kubenetlab.cli.labs.diagnostics import (
    AllowUnmodelled,
    assess,
    count_problems,
    describe_unenforced,
    note_absent_pods,
    unenforced_objects,
)
from kubenetlab.cli.terminal.printing import (
    BAD,
    GOOD,
    echo,
    hint,
    paint,
    print_data,
    print_faults,
    terminal_width,
)

if TYPE_CHECKING:
    from kubenetlab.cli.labs.diagnostics import AssessedDiagnostic
    from kubenetlab.lab.client import Client
    from kubenetlab.observe.matrix import Matrix

_WORDS = {
    "answer": "answers",
    "refused": "refuses",
    "unreachable": "no way there",
    "silence": "silence",
}


def ping(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[SRC",
            help="Source: \\[ns/]pod, deploy:, node:, ext: or an address. Without it: every pair.",
            show_default=False,
            autocompletion=candidates("locations"),
        ),
    ] = None,
    destination: Annotated[
        str | None,
        typer.Argument(
            metavar="[DST]]",
            help="Destination: a place, svc:\\[ns/]name, ADDRESS, NAME, all with \\[:PORT]; or http://NAME/PATH.",
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
            help="Send a datagram to a UDP port and wait for the answer.",
        ),
    ] = None,
    sctp: Annotated[
        int | None,
        typer.Option(
            "--sctp",
            metavar="PORT",
            min=1,
            max=65535,
            help="Open an association with an SCTP port.",
        ),
    ] = None,
    http: Annotated[
        str | None,
        typer.Option(
            "--http", metavar="PATH", help="GET a path (port 80 unless --tcp says otherwise)."
        ),
    ] = None,
    matrix: Annotated[
        bool, typer.Option("--matrix", help="The matrix, also with a source: one row.")
    ] = False,
    only_ipv4: Annotated[bool, typer.Option("-4", help="By IPv4 only.")] = False,
    only_ipv6: Annotated[bool, typer.Option("-6", help="By IPv6 only.")] = False,
    count: Annotated[
        int | None,
        typer.Option(
            "--count",
            metavar="N",
            min=1,
            max=10_000,
            help="Send N requests; show the distribution over servers.",
        ),
    ] = None,
    deadline: Annotated[
        float,
        typer.Option(
            "--deadline", metavar="SECONDS", min=0.01, help="How long silence is waited out."
        ),
    ] = 1.0,
    allow_unmodelled: AllowUnmodelled = None,
    namespace: Namespace = None,
    output: OutputOption = Output.table,
    lab: Lab = None,
) -> None:
    """Send real packets from inside and compare with what Kubernetes promises; without arguments a matrix of everybody.

    Pods, nodes and external hosts are pinged, Service ports connected to. Exit status 1 where something is not as promised, and where
    an object that the lab does not enforce, such as a network policy, could change the result.
    Example: kubenetlab ping client svc:shop/frontend --http /
    """
    from kubenetlab.errors import UsageError
    from kubenetlab.lab.client import choose
    from kubenetlab.observe.matrix import everyone
    from kubenetlab.observe.targets import read, resolve

    if only_ipv4 and only_ipv6:
        raise UsageError("-4 cannot be combined with -6; without either every family is tried")
    version = 4 if only_ipv4 else 6 if only_ipv6 else None
    ports = {
        protocol: port
        for protocol, port in (("SCTP", sctp), ("UDP", udp), ("TCP", tcp))
        if port is not None
    }
    asked = [f"--{protocol.lower()}" for protocol in ports] + ["--http"] * (http is not None)
    if len(asked) > 1 and asked != ["--tcp", "--http"]:
        raise UsageError(f"{asked[0]} cannot be combined with {' or '.join(asked[1:])}")
    if count is not None and (destination is None or matrix):
        raise UsageError("--count needs a source and a destination, and no --matrix")
    client = choose(lab)
    seen = client.inspect()
    if source is not None and destination is not None and not matrix:
        from kubenetlab.observe.request import RequestOptions, ip_version, make_request

        protocol: Any = next(iter(ports), None)
        option = f"--{protocol.lower()}" if protocol else ""
        target = read(destination, seen, namespace)
        place = resolve(read(source, seen, namespace), seen)
        request = make_request(
            target, RequestOptions(protocol, ports.get(protocol), http, option, option)
        )
        place = place.of_version(ip_version(target, version))
        if count is not None:
            from kubenetlab.cli.probing.ping_series import ping_series

            is_fine = ping_series(
                client,
                seen,
                place,
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
                seen,
                place,
                target,
                request,
                deadline_s=deadline,
                allowed=allow_unmodelled,
                output=output,
            )
    else:
        rows = (
            [resolve(read(source, seen, namespace), seen)] if source is not None else everyone(seen)
        )
        rows = [row.of_version(version) for row in rows]
        is_fine = _matrix(client, seen, rows, deadline, allow_unmodelled, output)
    if not is_fine:
        raise typer.Exit(1)


def _matrix(
    client: Client,
    seen: dict[str, Any],
    rows: Any,
    deadline_s: float,
    allowed: list[str] | None,
    output: Output,
) -> bool:
    from kubenetlab.cli.probing.matrix_lines import legend_lines, matrix_lines
    from kubenetlab.kernel.namespaces.enter import enter_lab
    from kubenetlab.observe.connections import Ends
    from kubenetlab.observe.matrix import probe_matrix

    begun = time.monotonic()
    unenforced = unenforced_objects(client)
    note_absent_pods(seen)
    enter_lab(client.open_init())
    found = probe_matrix(seen, sources=rows, deadline_s=deadline_s)
    took_s = time.monotonic() - begun
    ends = Ends(seen)
    judged = assess(
        unenforced,
        [ends.of_cell(cell.source, cell.destination) for cell in found.cells],
        kinds=allowed,
    )
    is_fine = not found.faults and all(ping_once.is_accepted for ping_once in judged)
    if output.is_data:
        print_data(_as_data(found, judged, is_fine=is_fine), output)
        return is_fine
    width = terminal_width()
    for line in (*matrix_lines(found, width), *legend_lines(width)):
        echo(line)
    _summary(found, judged, took_s)
    print_faults(seen["faults"])
    return is_fine


def _as_data(
    found: Matrix, judged: Sequence[AssessedDiagnostic], *, is_fine: bool
) -> dict[str, Any]:
    cells = [
        {
            "from": cell.source.title,
            "to": cell.destination.title,
            "address": cell.address,
            "expected": cell.expected,
            "found": cell.result.outcome,
            "ms": round(cell.result.ms, 3),
            "ok": cell.is_as_promised,
        }
        for cell in found.cells
    ]
    names = [f"{cell.source.title} → {cell.destination.title}" for cell in found.cells]
    return {
        "ok": is_fine,
        "cells": cells,
        "diagnostics": [ping_once.as_data(names) for ping_once in judged],
    }


def _summary(found: Matrix, judged: Sequence[AssessedDiagnostic], took_s: float) -> None:
    for cell in found.faults[:20]:
        echo(
            f"{paint('✗', BAD)} {cell.source.title} → {cell.destination.title} ({cell.address}): {_WORDS[cell.result.outcome]}, promised: {cell.expected}"
        )
    if len(found.faults) > 20:
        echo(f"  … and {len(found.faults) - 20} more")
    probes = sum(len(cell.results) for cell in found.cells)
    pings = sum(len(cell.results) for cell in found.cells if not hasattr(cell.destination, "port"))
    verdict = (
        paint("all as Kubernetes promises", GOOD)
        if not found.faults
        else paint(f"{len(found.faults)} not as Kubernetes promises", BAD)
    )
    names = [f"{cell.source.title} → {cell.destination.title}" for cell in found.cells]
    unaccepted = [ping_once for ping_once in judged if not ping_once.is_accepted]
    for ping_once in unaccepted:
        echo(f"{paint('✗', BAD)} {describe_unenforced(ping_once, names)}")
    verdict += "".join(paint(f", {part}", BAD) for part in count_problems(judged))
    echo(f"{pings} pings, {probes - pings} connects in {took_s:.2f} s: {verdict}")
    if found.faults:
        hint("kubenetlab diff")
    elif unaccepted:
        hint(
            f"kubenetlab ping --allow-unmodelled {unaccepted[0].diagnostic.kind.partition('.')[0]}"
        )
    else:
        hint("kubenetlab exec POD -- ip addr, or kubenetlab ping POD svc:NAME --http /hostname")
