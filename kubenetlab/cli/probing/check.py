"""check: truth tables for CI: who must reach whom, by real packets."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kubenetlab.cli.input.options import Lab, Output, OutputOption, manifest_files
from kubenetlab.cli.labs.diagnostics import (
    AllowUndeclared,
    AllowUnmodelled,
    abbreviate,
    count_problems,
    describe_unenforced,
    note_absent_pods,
)
from kubenetlab.cli.terminal.printing import BAD, DIM, GOOD, WARNING, echo, hint, paint, print_data

if TYPE_CHECKING:
    from kubenetlab.cli.labs.diagnostics import AssessedDiagnostic
    from kubenetlab.observe.check import RowVerdict


def check(
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE…]", help="Tables, as with -f.", show_default=False),
    ] = None,
    files: Annotated[
        list[str] | None,
        typer.Option(
            "-f", "--filename", metavar="FILE|-", help="Tables; may be given several times."
        ),
    ] = None,
    junit: Annotated[
        str | None,
        typer.Option("--junit", metavar="FILE", help="Write the result as JUnit XML, too."),
    ] = None,
    deadline: Annotated[
        float,
        typer.Option(
            "--deadline", metavar="SECONDS", min=0.01, help="How long silence is waited out."
        ),
    ] = 1.0,
    allow_unmodelled: AllowUnmodelled = None,
    allow_undeclared: AllowUndeclared = False,
    output: OutputOption = Output.table,
    lab: Lab = None,
) -> None:
    """Check who reaches whom against tables; without any, against what Kubernetes promises. Exit status 1 when something does not hold.

    Objects that the lab does not enforce, such as network policies, and misconfigured objects fail the check, too: the result would say
    more than is known. Manifests that a table names are applied first.
    Example: kubenetlab check -f manifests/11-microservices-demo/expect.yaml
    """
    from kubenetlab.cli.labs.diagnostics import assess
    from kubenetlab.lab.client import choose
    from kubenetlab.observe.truth_table import load

    if junit is not None:
        _refuse_unwritable(junit)
    client = choose(lab)
    tables = [(file, *load(file)) for file in manifest_files(paths, files) or ()]
    manifests = [
        os.path.join(os.path.dirname(file), name)
        for file, table, _ in tables
        for name in table.manifests
    ]
    if manifests:
        _apply(client.lab, manifests)
    found = client.diagnostics()
    begun = time.monotonic()
    verdicts = _tables(client, tables, deadline) if tables else _promise(client, deadline)
    took_s = time.monotonic() - begun
    expected_to_fail = frozenset(
        index for index, verdict in enumerate(verdicts) if tables and verdict.is_expected_to_fail
    )
    connections = [verdict.connection for verdict in verdicts]
    judged = assess(
        found,
        connections,
        kinds=allow_unmodelled,
        undeclared=allow_undeclared,
        expected_to_fail=expected_to_fail,
    )
    if junit is not None:
        _write_junit(junit, verdicts, judged, took_s)
    failed = [verdict for verdict in verdicts if verdict.state == "fails"]
    is_fine = not failed and all(one.is_accepted for one in judged)
    if output.is_data:
        print_data(_as_data(verdicts, judged, is_fine=is_fine), output)
    else:
        _show(verdicts, judged, took_s)
        hint(
            _again(failed[0])
            if failed
            else "kubenetlab ping"
            if is_fine
            else _how_to_accept(judged)
        )
    if not is_fine:
        raise typer.Exit(1)


def _refuse_unwritable(file: str) -> None:
    """Raise UsageError for a report that cannot be written, before anything is sent."""
    from kubenetlab.errors import UsageError

    directory = os.path.dirname(file) or "."
    if not os.path.isdir(directory):
        raise UsageError(f"--junit {file}: there is no folder {directory}")
    if os.path.isdir(file) or not os.access(file if os.path.exists(file) else directory, os.W_OK):
        raise UsageError(f"--junit {file}: it cannot be written")


def _how_to_accept(judged: Sequence[AssessedDiagnostic]) -> str:
    """Return the command that looks at the first open diagnostic, or accepts it."""
    first = next(one for one in judged if not one.is_accepted).diagnostic
    if first.code == "not-enforced":
        return f"kubenetlab check --allow-unmodelled {first.kind.partition('.')[0]}"
    return f"kubenetlab describe {first.kind.lower()} {first.name}" + (
        f" -n {first.namespace}" if first.namespace != "default" else ""
    )


def _again(verdict: RowVerdict) -> str:
    """The command that asks once more what did not hold."""
    target, _, protocol = verdict.target.rpartition("/")
    if protocol not in ("TCP", "UDP"):
        return f"kubenetlab ping {verdict.source} {quote(verdict.target)}"
    target, _, port = target.rpartition(":")
    return f"kubenetlab ping {verdict.source} {target} --{protocol.lower()} {port}"


def _apply(lab: str, manifests: list[str]) -> None:
    """As `kubenetlab apply` does, and waits for the pods, without a word; what never becomes ready is for the table to judge."""
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


def _tables(client: Any, tables: Sequence[Any], deadline_s: float) -> list[RowVerdict]:
    from kubenetlab.kernel.namespaces.enter import enter_lab
    from kubenetlab.observe.check import check as run_table

    seen = client.inspect()
    networks = _Networks(client)
    for _, table, _ in tables:
        networks.learn(table, seen)
    enter_lab(client.open_init())
    return [
        verdict
        for _, table, places in tables
        for verdict in run_table(table, places, seen, networks, deadline_s=deadline_s)
    ]


class _Networks:
    """Each source's own network. What the lab must be asked for is asked before an ordinary user's process goes into the lab."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._resolvers: dict[str, Any] = {}

    def learn(self, table: Any, seen: Any) -> None:
        from kubenetlab.errors import UsageError
        from kubenetlab.observe.check import needs_network
        from kubenetlab.observe.targets import named_places, read
        from kubenetlab.programs.resolver import parse as parse_resolver

        for row in table.probes:
            try:
                sources = [
                    source
                    for source in named_places(read(row.from_, seen), seen)
                    if needs_network(row, seen, source)
                ]
            except UsageError:
                continue  # the table says so in its place
            for source in sources:
                reply = self._client.enter(source.sandbox)
                for fd in reply.fds:
                    os.close(fd)
                self._resolvers[source.sandbox] = parse_resolver(
                    reply.body["hosts"], reply.body["resolv_conf"], source.versions
                )

    def __call__(self, source: Any) -> Any:
        from kubenetlab.kernel.syscalls import open_namespace
        from kubenetlab.lab.runtime.pod_network import NetnsSocketFactory, PodSockets

        return PodSockets(
            NetnsSocketFactory(source.netns, open_namespace("net")), self._resolvers[source.sandbox]
        )


def _promise(client: Any, deadline_s: float) -> list[RowVerdict]:
    """The lab's own promise: the ping matrix as checks."""
    from kubenetlab.kernel.namespaces.enter import enter_lab
    from kubenetlab.observe.check import RowVerdict
    from kubenetlab.observe.connections import Ends
    from kubenetlab.observe.matrix import probe_matrix

    seen = client.inspect()
    ends = Ends(seen)
    note_absent_pods(seen)
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
        )
        for cell in probe_matrix(seen, deadline_s=deadline_s).cells
    ]


def _unenforced_by_verdict(judged: Sequence[AssessedDiagnostic]) -> dict[int, list[str]]:
    """Return the titles of the objects that are neither enforced nor accepted, by the index of each verdict that they could change."""
    found: dict[int, list[str]] = {}
    for one in judged:
        if one.is_unenforced and not one.is_accepted:
            for index in one.affected:
                found.setdefault(index, []).append(one.diagnostic.title)
    return found


def _remark(titles: Sequence[str]) -> str:
    return f"not enforced by this lab, and could change this: {abbreviate(titles)}"


def _as_data(
    verdicts: Sequence[RowVerdict], judged: Sequence[AssessedDiagnostic], *, is_fine: bool
) -> dict[str, Any]:
    from msgspec import to_builtins

    unenforced = _unenforced_by_verdict(judged)
    checks = []
    for index, verdict in enumerate(verdicts):
        fields = to_builtins(verdict)
        del fields["connection"]
        checks.append({**fields, "unenforced": unenforced.get(index, [])})
    names = [verdict.name for verdict in verdicts]
    return {"ok": is_fine, "checks": checks, "diagnostics": [one.as_data(names) for one in judged]}


def _show(
    verdicts: Sequence[RowVerdict], judged: Sequence[AssessedDiagnostic], took_s: float
) -> None:
    unenforced = _unenforced_by_verdict(judged)
    for index, verdict in enumerate(verdicts):
        if verdict.state == "fails":
            where = f"{paint(verdict.place, DIM)}  " if verdict.place else ""
            echo(
                f"{paint('✗', BAD)} {where}{verdict.source} → {verdict.target}: wanted {verdict.expected}, found {verdict.found}"
            )
            if index in unenforced:
                echo(f"    {paint(_remark(unenforced[index]), WARNING)}")
    names = [f"{verdict.source} → {verdict.target}" for verdict in verdicts]
    for one in judged:
        if not one.is_accepted:
            echo(
                f"{paint('✗', BAD)} {describe_unenforced(one, names) if one.is_unenforced else one.problem}"
            )
    failing = sum(verdict.state == "fails" for verdict in verdicts)
    parts = [paint(f"{len(verdicts) - failing} hold", GOOD)]
    parts += [paint(f"{failing} do not", BAD)] if failing else []
    parts += [paint(part, BAD) for part in count_problems(judged)]
    echo(f"{len(verdicts)} checks in {took_s:.2f} s: {', '.join(parts)}")


def _write_junit(
    file: str, verdicts: Sequence[RowVerdict], judged: Sequence[AssessedDiagnostic], took_s: float
) -> None:
    from kubenetlab.errors import LabError
    from kubenetlab.observe.junit import Note, write

    remarks = {index: [_remark(titles)] for index, titles in _unenforced_by_verdict(judged).items()}
    notes = [Note(one.name, one.message, one.place, one.is_accepted) for one in judged]
    try:
        write(file, verdicts, notes, remarks, took_s)
    except OSError as error:
        raise LabError(f"--junit {file}: it cannot be written: {error.strerror}") from None
