"""check: test connectivity with real packets against tables of expectations, for CI."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from kubenetlab.api.json_types import JsonObject
from kubenetlab.cli.input.options import Lab, Output, OutputOption, manifest_files
from kubenetlab.cli.labs.diagnostics import (
    AllowUndeclared,
    AllowUnmodelled,
    abbreviate,
    count_problems,
    describe_effect,
    note_absent_pods,
)
from kubenetlab.cli.probing.policies import enforced_policies
from kubenetlab.cli.terminal.output_documents import print_document
from kubenetlab.cli.terminal.printing import echo, hint, print_faults, print_table
from kubenetlab.cli.terminal.theme import BAD, GOOD, HEADING, PLACE, WARNING, paint

if TYPE_CHECKING:
    from kubenetlab.cli.labs.diagnostics import AssessedDiagnostic
    from kubenetlab.lab.client import Client
    from kubenetlab.observe.checks.truth_table import TruthTable
    from kubenetlab.observe.checks.verdicts import RowVerdict
    from kubenetlab.observe.inspection import Inspection
    from kubenetlab.observe.targets.locations import Location
    from kubenetlab.programs.dns.resolver import ResolverConfig
    from kubenetlab.programs.support.http import Network


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
    output: OutputOption = Output.table,
    lab: Lab = None,
) -> None:
    """Test who can reach whom, against tables of expectations.

    Without a table, test what Kubernetes promises for every pair.
    Manifests that a table names are applied first.
    The exit status is 1 if an expectation does not hold. It is also 1 if
    objects are misconfigured or not enforced by the lab (such as network
    policies), because the result would not be reliable.

    Example: kubenetlab check -f manifests/11-microservices-demo/expect.yaml
    """
    from kubenetlab.cli.labs.diagnostics import assess
    from kubenetlab.lab.client import select_lab
    from kubenetlab.observe.checks.truth_table import load

    if junit is not None:
        _refuse_unwritable(junit)
    client = select_lab(lab)
    tables = [(file, *load(file)) for file in manifest_files(paths, files) or ()]
    manifests = [
        os.path.join(os.path.dirname(file), name)
        for file, table, _ in tables
        for name in table.manifests
    ]
    if manifests:
        _apply(client.lab, manifests)
    diagnostics, faults = client.diagnostics(), client.faults()
    started = time.monotonic()
    verdicts = _tables(client, tables, deadline) if tables else _promise(client, deadline)
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
    if junit is not None:
        _write_junit(junit, verdicts, assessed, took_s)
    failed = [verdict for verdict in verdicts if verdict.state == "fails"]
    is_fine = not failed and all(diagnostic.is_accepted for diagnostic in assessed)
    if output.is_data:
        print_document(_as_data(verdicts, assessed, is_fine=is_fine), output)
    else:
        _show(verdicts, assessed, took_s)
        if failed:
            print_faults(faults)
        hint(
            _again(failed[0])
            if failed
            else "kubenetlab ping"
            if is_fine
            else _how_to_accept(assessed)
        )
    if not is_fine:
        raise typer.Exit(1)


def _refuse_unwritable(file: str) -> None:
    """Raise UsageError if the report cannot be written; called before any packet is sent."""
    from kubenetlab.errors import UsageError

    directory = os.path.dirname(file) or "."
    if not os.path.isdir(directory):
        raise UsageError(f"--junit {file}: directory {directory} does not exist")
    if os.path.isdir(file) or not os.access(file if os.path.exists(file) else directory, os.W_OK):
        raise UsageError(f"--junit {file}: cannot write this file")


def _how_to_accept(assessed: Sequence[AssessedDiagnostic]) -> str:
    """Return the command that shows or accepts the first diagnostic that is not accepted."""
    open_diagnostic = next(
        diagnostic for diagnostic in assessed if not diagnostic.is_accepted
    ).diagnostic
    if open_diagnostic.code == "not-enforced":
        return f"kubenetlab check --allow-unmodelled {open_diagnostic.kind.partition('.')[0]}"
    return f"kubenetlab describe {open_diagnostic.kind.lower()} {open_diagnostic.name}" + (
        f" -n {open_diagnostic.namespace}" if open_diagnostic.namespace != "default" else ""
    )


def _again(verdict: RowVerdict) -> str:
    """Return the `ping` command that repeats the probe of a failed expectation."""
    target, _, protocol = verdict.target.rpartition("/")
    if protocol not in ("TCP", "UDP"):
        return f"kubenetlab ping {verdict.source} {quote(verdict.target)}"
    target, _, port = target.rpartition(":")
    return f"kubenetlab ping {verdict.source} {target} --{protocol.lower()} {port}"


def _apply(lab: str, manifests: list[str]) -> None:
    """Run `kubenetlab apply` without output and wait for the pods.

    Pods that do not become ready are no error here: the table shows their effect.
    """
    import contextlib
    import io

    from kubenetlab.cli.labs.up import apply

    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            apply(files=manifests, lab=lab)
    except typer.Exit as stop:
        from kubenetlab.lab.up import STOPPED_BY_SIGINT

        if stop.exit_code == STOPPED_BY_SIGINT:
            raise


def _tables(
    client: Client,
    tables: Sequence[tuple[str, TruthTable, Sequence[str]]],
    deadline_s: float,
) -> list[RowVerdict]:
    from kubenetlab.kernel.namespaces.enter import enter_lab
    from kubenetlab.observe.checks.check import check as run_table

    inspected = client.inspect()
    networks = _Networks(client)
    for _, table, _ in tables:
        networks.learn(table, inspected)
    enter_lab(client.open_init())
    return [
        verdict
        for _, table, places in tables
        for verdict in run_table(table, places, inspected, networks, deadline_s=deadline_s)
    ]


class _Networks:
    """Networks of sources, for rows that resolve names or use sockets in the source's namespace.

    Resolver files come from the lab's API, so `learn` must be called before the process enters the
    lab: an unprivileged process cannot leave it again.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._resolvers: dict[str, ResolverConfig] = {}
        self._networks: dict[str, Network] = {}

    def learn(self, table: TruthTable, inspected: Inspection) -> None:
        """Read the resolver files of all sources of a table that need a network."""
        from kubenetlab.errors import UsageError
        from kubenetlab.observe.checks.check import needs_network
        from kubenetlab.observe.targets.resolution import named_places, read
        from kubenetlab.programs.dns.resolver import parse as parse_resolver

        for row in table.probes:
            try:
                sources = [
                    source
                    for source in named_places(read(row.from_, inspected), inspected)
                    if needs_network(row, inspected, source)
                ]
            except UsageError:
                continue  # reported with the row when the table runs
            for source in sources:
                if source.sandbox in self._resolvers:
                    continue
                reply = self._client.enter(source.sandbox)
                for fd in reply.fds:
                    os.close(fd)
                self._resolvers[source.sandbox] = parse_resolver(
                    reply.body["hosts"], reply.body["resolv_conf"], source.versions
                )

    def __call__(self, source: Location) -> Network:
        from kubenetlab.lab.runtime.pod_network import NetnsSocketFactory, PodSockets

        if source.sandbox not in self._networks:
            self._networks[source.sandbox] = PodSockets(
                NetnsSocketFactory(source.netns_path, self._own_netns),
                self._resolvers[source.sandbox],
            )
        return self._networks[source.sandbox]

    @cached_property
    def _own_netns(self) -> int:
        """Descriptor of this process's network namespace."""
        from kubenetlab.kernel.syscalls import open_namespace

        return open_namespace("net")


def _promise(client: Client, deadline_s: float) -> list[RowVerdict]:
    """Return the ping matrix, that is, what Kubernetes promises for every pair, as verdicts."""
    from kubenetlab.kernel.namespaces.enter import enter_lab
    from kubenetlab.observe.checks.verdicts import RowVerdict
    from kubenetlab.observe.connections import Ends
    from kubenetlab.observe.matrix import cell_reasons, probe_matrix

    inspected = client.inspect()
    ends = Ends(inspected)
    policies = enforced_policies(client, inspected)
    note_absent_pods(inspected)
    enter_lab(client.open_init())
    return [
        RowVerdict(
            "promise",
            cell.source.title,
            cell.destination.title,
            cell.expected,
            cell.result.outcome,
            "holds" if cell.is_as_promised else "fails",
            "",
            round(cell.result.ms, 3),
            f"{ends.stable_name(cell.source)} → {ends.stable_destination(cell.destination)}",
            ends.of_cell(cell.source, cell.destination),
            tuple(cell_reasons(policies, cell)),
        )
        for cell in probe_matrix(inspected, deadline_s=deadline_s, policies=policies).cells
    ]


def _unenforced_by_verdict(assessed: Sequence[AssessedDiagnostic]) -> dict[int, list[str]]:
    """Return the titles of unenforced, unaccepted objects, by verdict that they could change."""
    titles: dict[int, list[str]] = {}
    for item in assessed:
        if item.is_unenforced and not item.is_accepted:
            for index in item.affected:
                titles.setdefault(index, []).append(item.diagnostic.subject)
    return titles


def _remark(titles: Sequence[str]) -> str:
    return f"not enforced by this lab, could change this result: {abbreviate(titles)}"


def _as_data(
    verdicts: Sequence[RowVerdict], assessed: Sequence[AssessedDiagnostic], *, is_fine: bool
) -> JsonObject:
    from msgspec import to_builtins

    unenforced = _unenforced_by_verdict(assessed)
    checks = []
    for index, verdict in enumerate(verdicts):
        fields = to_builtins(verdict)
        del fields["connection"]
        checks.append({**fields, "unenforced": unenforced.get(index, [])})
    names = [verdict.name for verdict in verdicts]
    return {
        "ok": is_fine,
        "checks": checks,
        "diagnostics": [diagnostic.as_data(names) for diagnostic in assessed],
    }


def _show(
    verdicts: Sequence[RowVerdict], assessed: Sequence[AssessedDiagnostic], took_s: float
) -> None:
    unenforced = _unenforced_by_verdict(assessed)
    _print_failed(verdicts, unenforced)
    names = [f"{verdict.source} → {verdict.target}" for verdict in verdicts]
    for item in assessed:
        if not item.is_accepted:
            text = describe_effect(item, names) if item.is_unenforced else item.problem
            echo(f"{paint('✗', BAD)} {text}")
    for item in assessed:
        if item.is_advice:
            echo(f"{paint('advice:', HEADING)} {item.problem}")
    failing = sum(verdict.state == "fails" for verdict in verdicts)
    parts = [paint(f"{len(verdicts) - failing} hold", GOOD)]
    parts += [paint(f"{failing} fail", BAD)] if failing else []
    parts += [paint(part, BAD) for part in count_problems(assessed)]
    noun = "check" if len(verdicts) == 1 else "checks"
    echo(f"{len(verdicts)} {noun} in {took_s:.2f} s: {', '.join(parts)}")


def _print_failed(verdicts: Sequence[RowVerdict], unenforced: Mapping[int, list[str]]) -> None:
    """Print the expectations that do not hold.

    unenforced: titles of unenforced objects, by index of the verdict that they could change.
    """
    rows = [
        (
            f"{paint('✗', BAD)} {verdict.source}",
            verdict.target,
            verdict.expected,
            paint(verdict.found, BAD),
            paint(verdict.place, PLACE),
            paint(_remark(unenforced[index]), WARNING) if index in unenforced else "",
        )
        for index, verdict in enumerate(verdicts)
        if verdict.state == "fails"
    ]
    if rows:
        print_table(
            ("SOURCE", "TARGET", "EXPECTED", "FOUND", "PLACE", "REMARK"), rows, plain=_sentence
        )


def _sentence(row: Sequence[str]) -> str:
    """Return a row of failed expectations as a line, and a second one for its remark."""
    source, target, expected, found, place, remark = row
    mark, _, source = source.partition(" ")
    line = f"{f'{place}  ' if place else ''}{source} → {target}: expected {expected}, found {found}"
    return f"{mark} {line}" + (f"\n    {remark}" if remark else "")


def _write_junit(
    file: str, verdicts: Sequence[RowVerdict], assessed: Sequence[AssessedDiagnostic], took_s: float
) -> None:
    from kubenetlab.errors import LabError
    from kubenetlab.observe.checks.junit import Note, write

    remarks = {
        index: [_remark(titles)] for index, titles in _unenforced_by_verdict(assessed).items()
    }
    notes = [
        Note(diagnostic.name, diagnostic.message, diagnostic.place, diagnostic.is_accepted)
        for diagnostic in assessed
        if not diagnostic.is_advice
    ]
    try:
        write(file, verdicts, notes, remarks, took_s)
    except OSError as error:
        raise LabError(f"--junit {file}: cannot write this file: {error.strerror}") from None
