"""ping --count: many requests, their distribution over servers, and their source addresses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from kubenetlab.api.core import Service
from kubenetlab.api.json_types import JsonObject
from kubenetlab.cli.input.options import Output
from kubenetlab.cli.labs.diagnostics import assess
from kubenetlab.cli.policies import enforced_policies
from kubenetlab.cli.probing.doubts import Doubts, doubtful_objects
from kubenetlab.cli.probing.ping_once import (
    VERBS,
    connection_of,
    describe_promise,
    explain_empty,
    find_destination,
    print_not_resolved,
    source_network,
)
from kubenetlab.cli.terminal.output_documents import print_document
from kubenetlab.cli.terminal.printing import echo, hint, print_faults, print_table
from kubenetlab.cli.terminal.theme import BAD, GOOD, MUTED, WARNING, paint
from kubenetlab.lab.client import Client
from kubenetlab.lab.paths import object_path
from kubenetlab.names import socket_address
from kubenetlab.observe.destinations import (
    ResolvedDestination,
    expected_outcome,
    policy_reasons,
)
from kubenetlab.observe.distribution import ServerShare, clients, endpoints, explanation, shares
from kubenetlab.observe.distribution import SourceAddress as SeenClient
from kubenetlab.observe.expect import Expectation, facts_of
from kubenetlab.observe.matrix import EXPECTED_OUTCOMES
from kubenetlab.observe.request import ProbeSpecification
from kubenetlab.observe.series import Answer, SeriesTarget, failures, latency, run_series
from kubenetlab.observe.targets.grammar import Target
from kubenetlab.observe.targets.locations import Location
from kubenetlab.observe.targets.meanings import service_of

if TYPE_CHECKING:
    from kubenetlab.observe.inspection import Inspection


class _Report(Struct, frozen=True):
    """Result of a series of requests, as it is printed."""

    source: Location
    target: Target
    destination: ResolvedDestination
    path: str | None
    answers: list[Answer]
    expected: Expectation | None
    shares: list[ServerShare]
    clients: list[SeenClient]
    explanation: str
    empty: str
    """Reason why the Service has no ready endpoint; empty if it has one."""
    doubts: Doubts
    """Diagnostics because of which an answer proves nothing."""
    policies: Sequence[str] = ()
    """Effect of network policies on the requests."""

    @property
    def failures(self) -> dict[str, int]:
        return failures(self.answers)

    @property
    def is_fine(self) -> bool:
        return not self.failures and not self.doubts

    @property
    def answered(self) -> int:
        return len(self.answers) - sum(self.failures.values())

    @property
    def unnamed(self) -> int:
        """Number of answers from servers that do not name themselves."""
        return self.total - sum(share.count for share in self.shares)

    @property
    def total(self) -> int:
        """Number of answers, including HTTP errors."""
        return sum(answer.outcome == "answer" for answer in self.answers)


def ping_series(
    client: Client,
    inspected: Inspection,
    source: Location,
    target: Target,
    request: ProbeSpecification,
    *,
    count: int,
    deadline_s: float,
    allowed: Sequence[str] | None = None,
    output: Output,
) -> bool:
    """Send `count` requests and print the distribution of their answers.

    Return True if every request was answered, and no object that the lab does not enforce could
    change the result, other than those of a kind in `allowed`.
    """
    service = service_of(target, inspected, source)
    is_known = service is not None and any(
        (each["namespace"], each["name"]) == service for each in inspected["services"]
    )
    document = (
        client.get(object_path(Service, *service)) if service is not None and is_known else {}
    )
    empty = explain_empty(client, inspected, service)
    doubtful = doubtful_objects(client)
    facts = facts_of(inspected, enforced_policies(client, inspected))
    network = source_network(client, source)
    destination = find_destination(network, inspected, source, target, request, facts.policies)
    if destination.unresolved:
        return print_not_resolved(source, destination, output)
    answers = run_series(
        SeriesTarget(
            source, destination.protocol, destination.address, destination.port, request.http
        ),
        count,
        deadline_s,
    )
    server_shares = shares(inspected, answers, endpoints(inspected, destination))
    is_outside = target.kind in ("lb", "nodeport") or (
        destination.known is not None and getattr(destination.known, "is_outside", False)
    )
    connection = connection_of(inspected, source, target, destination)
    report = _Report(
        source,
        target,
        destination,
        request.http,
        answers,
        expected_outcome(source, destination, facts),
        server_shares,
        clients(inspected, answers),
        "",
        empty,
        Doubts(assess(doubtful, [connection], kinds=allowed)),
        policy_reasons(source, destination, facts),
    )
    if not report.unnamed:
        report = structs.replace(
            report,
            explanation=explanation(
                document.get("spec", {}), server_shares, source, is_outside=is_outside
            ),
        )
    if output.is_data:
        print_document(_as_data(report), output)
    else:
        _show(report)
        if not report.is_fine:
            print_faults(inspected["faults"])
        _hint(report)
    return report.is_fine


def _as_data(report: _Report) -> JsonObject:
    destination, times = report.destination, latency(report.answers)
    return {
        "from": report.source.title,
        "to": destination.title,
        "address": destination.address,
        "port": destination.port,
        "protocol": destination.protocol,
        "expected": report.expected,
        "count": len(report.answers),
        "answered": report.answered,
        "failed": report.failures,
        "ms": {
            "min": round(times.min, 3),
            "median": round(times.median, 3),
            "max": round(times.max, 3),
        }
        if times
        else None,
        "servers": [
            {
                "name": share.server.title,
                "node": share.server.node,
                "count": None if _is_unknown(share, report) else share.count,
                "errors": share.errors,
                "ready": share.is_ready,
            }
            for share in report.shares
        ],
        "unnamed": report.unnamed,
        "sources": [
            {"address": each.address, "owner": each.owner, "count": each.count}
            for each in report.clients
        ],
        "explanation": report.explanation,
        **report.doubts.as_data(),
        "policies": list(report.policies),
        "ok": report.is_fine,
    }


def _show(report: _Report) -> None:
    source, destination, times = report.source, report.destination, latency(report.answers)
    count = len(report.answers)
    address = (
        socket_address(destination.address, destination.port)
        if destination.port
        else destination.address
    )
    verb = f"GET {report.path}" if report.path is not None else VERBS[destination.protocol]
    took = (
        f", {times.min:.2f}/{times.median:.2f}/{times.max:.2f} ms (min/median/max)" if times else ""
    )
    verdict = paint(f"{report.answered} of {count} answered", BAD if report.failures else GOOD)
    echo(
        f"{source.title} ({source.address}) → {destination.title} ({address}) "
        f"{paint(verb, MUTED)}: {verdict}{took}"
    )
    if report.failures:
        kinds = ", ".join(f"{number} {kind}" for kind, number in report.failures.items())
        as_promised = set(report.failures) <= set(EXPECTED_OUTCOMES[report.expected or "answer"])
        echo(
            f"{paint('failed:', BAD)} {kinds}"
            + describe_promise(
                destination, report.expected, report.empty, report.policies, is_fine=as_promised
            )
        )
    rows = _rows(report)
    if rows:
        echo()
        header = ("SERVER", "NODE", "ANSWERS", "SHARE", "HTTP ERRORS")
        print_table(header[: len(rows[0])], rows, numbers=header[2:])
    if report.clients:
        echo()
        print_table(
            ("SOURCE SEEN", "OWNER", "ANSWERS"),
            [(each.address, each.owner or "-", str(each.count)) for each in report.clients],
            numbers=("ANSWERS",),
        )
    if report.explanation:
        echo(paint(report.explanation, WARNING))
    report.doubts.show()


def _hint(report: _Report) -> None:
    if report.doubts.unenforced and not report.failures:
        command = f"kubenetlab ping {report.source.title} {report.target}"
        hint(report.doubts.how_to_enforce(f"{command} --count {len(report.answers)}"))
    elif report.destination.service is None:
        hint("kubenetlab diff" if report.failures else "kubenetlab ping")
    else:
        namespace, name = report.destination.service
        hint(
            f"kubenetlab describe svc {name}"
            + (f" -n {namespace}" if namespace != "default" else "")
        )


def _rows(report: _Report) -> list[tuple[str, ...]]:
    """Return one row per server, and a last one for answers that do not name their server."""
    rows: list[tuple[str, ...]] = [
        (
            _title(share, report.destination),
            share.server.node or "-",
            *_share(share, report),
            str(share.errors),
        )
        for share in report.shares
    ]
    if report.unnamed and report.destination.protocol != "ICMP":
        rows.append(("(does not name itself)", "-", *_amount(report.unnamed, report.total), "-"))
    has_errors = any(share.errors for share in report.shares)
    return rows if has_errors else [row[:-1] for row in rows]


def _share(share: ServerShare, report: _Report) -> tuple[str, str]:
    return ("?", "?") if _is_unknown(share, report) else _amount(share.count, report.total)


def _is_unknown(share: ServerShare, report: _Report) -> bool:
    """Return True for an endpoint that may have sent the answers without a server name."""
    return not share.count and report.unnamed > 0


def _amount(count: int, total: int) -> tuple[str, str]:
    return str(count), f"{count * 100 / max(1, total):.1f} %"


def _title(share: ServerShare, destination: ResolvedDestination) -> str:
    """Return the server's title, with a remark if it is not a ready endpoint of the Service."""
    return share.server.title + (
        " (not a ready endpoint)" if destination.service is not None and not share.is_ready else ""
    )
