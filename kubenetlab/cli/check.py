"""check: truth tables for CI: who must reach whom, by real packets."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any
from xml.etree import ElementTree

import typer

from kubenetlab.cli.options import Lab, Output, OutputOption
from kubenetlab.cli.screen import BAD, DIM, GOOD, MILD, data, hint, paint, say

if TYPE_CHECKING:
    from kubenetlab.observe.check import Verdict


def check(
    files: Annotated[list[str] | None, typer.Option("-f", "--filename", metavar="FILE", help="Tables; may be given several times.")] = None,
    junit: Annotated[str | None, typer.Option("--junit", metavar="FILE", help="Write the result as JUnit XML, too.")] = None,
    deadline: Annotated[float, typer.Option("--deadline", metavar="SECONDS", min=0.01, help="How long silence is waited out.")] = 1.0,
    output: OutputOption = Output.table,
    lab: Lab = None,
) -> None:
    """Check who reaches whom against tables; without any, against what Kubernetes promises. Exit status 1 when something does not hold.

    Manifests that a table names are applied first. Example: kubenetlab check -f manifests/11-microservices-demo/expect.yaml
    """
    from kubenetlab.lab.client import choose
    from kubenetlab.observe.check import load, with_causes
    from kubenetlab.observe.policies import kept_policies

    client = choose(lab)
    tables = [(file, *load(file)) for file in files or ()]
    manifests = [os.path.join(os.path.dirname(file), name) for file, table, _ in tables for name in table.manifests]
    if manifests:
        _apply(client.lab, manifests)
    policies = kept_policies(client.given())
    begun = time.monotonic()
    verdicts = with_causes(_tables(client, tables, deadline) if tables else _promise(client, deadline), policies)
    took_s = time.monotonic() - begun
    if junit is not None:
        _write_junit(junit, verdicts, took_s, policies)
    failed = [verdict for verdict in verdicts if verdict.state == "fails"]
    if output.is_data:
        import msgspec

        data({"ok": not failed, "not_modelled": policies, "checks": [msgspec.to_builtins(verdict) for verdict in verdicts]}, output)
    else:
        _show(verdicts, took_s, policies)
        hint(_again(failed[0]) if failed else "kubenetlab ping")
    if failed:
        raise typer.Exit(1)


def _again(verdict: Verdict) -> str:
    """The command that asks once more what did not hold."""
    target, _, protocol = verdict.target.rpartition("/")
    if protocol not in ("TCP", "UDP"):
        return f"kubenetlab ping {verdict.source} {verdict.target}"
    target, _, port = target.rpartition(":")
    return f"kubenetlab ping {verdict.source} {target} --{protocol.lower()} {port}"


def _apply(lab: str, manifests: list[str]) -> None:
    """As `kubenetlab apply` does, and waits for the pods, without a word; what never becomes ready is for the table to judge."""
    import contextlib
    import io

    from kubenetlab.cli import labs

    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            labs.apply(files=manifests, lab=lab)
    except typer.Exit as stop:
        from kubenetlab.lab.up import STOPPED_BY_SIGINT

        if stop.exit_code == STOPPED_BY_SIGINT:
            raise


def _tables(client: Any, tables: Sequence[Any], deadline_s: float) -> list[Verdict]:
    from kubenetlab.kernel.enter import enter_lab
    from kubenetlab.observe.check import check as run_table

    seen = client.inspect()
    networks = _Networks(client)
    for _, table, _ in tables:
        networks.learn(table, seen)
    enter_lab(seen["init_pid"])
    return [verdict for _, table, places in tables for verdict in run_table(table, places, seen, networks, deadline_s=deadline_s)]


class _Networks:
    """Each source's own network. What the lab must be asked for is asked before an ordinary user's process goes into the lab."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._resolvers: dict[str, Any] = {}

    def learn(self, table: Any, seen: Any) -> None:
        from kubenetlab.errors import UsageError
        from kubenetlab.observe.check import needs_network
        from kubenetlab.observe.targets import named_places, parse
        from kubenetlab.programs.resolver import parse as parse_resolver

        for row in table.probes:
            try:
                sources = named_places(parse(row.from_), seen) if needs_network(row) else []
            except UsageError:
                continue  # the table says so in its place
            for source in sources:
                reply = self._client.enter(source.sandbox)
                for fd in reply.fds:
                    os.close(fd)
                self._resolvers[source.sandbox] = parse_resolver(reply.body["hosts"], reply.body["resolv_conf"], source.versions)

    def __call__(self, source: Any) -> Any:
        from kubenetlab.kernel.syscalls import open_namespace
        from kubenetlab.lab.podnet import Namespace, PodNetwork

        return PodNetwork(Namespace(source.netns, open_namespace("net")), self._resolvers[source.sandbox])


def _promise(client: Any, deadline_s: float) -> list[Verdict]:
    """The lab's own promise: the ping matrix as checks."""
    from kubenetlab.kernel.enter import enter_lab
    from kubenetlab.observe.check import Verdict
    from kubenetlab.observe.matrix import probe_matrix

    seen = client.inspect()
    enter_lab(seen["init_pid"])
    return [
        Verdict(
            "promise",
            cell.source.title,
            cell.destination.title,
            cell.expected,
            cell.result.outcome,
            "holds" if cell.is_as_promised else "fails",
            "",
            round(cell.result.ms, 3),
        )
        for cell in probe_matrix(seen, deadline_s=deadline_s).cells
    ]


def _show(verdicts: Sequence[Verdict], took_s: float, policies: Sequence[str]) -> None:
    from kubenetlab.observe.policies import count

    for verdict in verdicts:
        if verdict.state == "fails":
            where = f"{paint(verdict.place, DIM)}  " if verdict.place else ""
            say(f"{paint('✗', BAD)} {where}{verdict.source} → {verdict.target}: wanted {verdict.expected}, found {verdict.found}")
            if verdict.cause:
                say(f"    {paint(verdict.cause, MILD)}")
    failing = sum(verdict.state == "fails" for verdict in verdicts)
    parts = [paint(f"{len(verdicts) - failing} hold", GOOD)]
    parts += [paint(f"{failing} do not", BAD)] if failing else []
    parts += [paint(f"but for {count(policies)}, not modelled yet", MILD)] if policies else []
    say(f"{len(verdicts)} checks in {took_s:.2f} s: {', '.join(parts)}")


def _write_junit(file: str, verdicts: Sequence[Verdict], took_s: float, policies: Sequence[str]) -> None:
    """JUnit's XML, as CI servers read it; what the lab does not model is a property of the suite."""
    failing = str(sum(verdict.state == "fails" for verdict in verdicts))
    suite = ElementTree.Element("testsuite", name="kubenetlab", tests=str(len(verdicts)), failures=failing, time=f"{took_s:.3f}")
    if policies:
        properties = ElementTree.SubElement(suite, "properties")
        for policy in policies:
            ElementTree.SubElement(properties, "property", name="not modelled", value=policy)
    for verdict in verdicts:
        name = f"{verdict.source} → {verdict.target}: {verdict.expected}"
        case = ElementTree.SubElement(suite, "testcase", classname=verdict.table or "check", name=name, time=f"{verdict.ms / 1000:.3f}")
        if verdict.state == "fails":
            failure = ElementTree.SubElement(case, "failure", message=f"wanted {verdict.expected}, found {verdict.found}")
            failure.text = "\n".join(filter(None, (verdict.place, verdict.cause)))
    ElementTree.ElementTree(suite).write(file, encoding="utf-8", xml_declaration=True)
