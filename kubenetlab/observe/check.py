"""Checks of truth tables: every row is probed, and gets a verdict."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Any, Literal

from msgspec import Struct

from kubenetlab.api.ip import is_address
from kubenetlab.diagnostics import Connection
from kubenetlab.errors import UsageError
from kubenetlab.observe.connections import Ends
from kubenetlab.observe.grammar import Target, with_port
from kubenetlab.observe.locations import Location
from kubenetlab.observe.meanings import meaning
from kubenetlab.observe.prober import Outcome, ProbeRequest, outcome_of, run
from kubenetlab.observe.request import HTTP_ERROR
from kubenetlab.observe.row_destinations import (
    address_of_family,
    row_destinations,
    with_service_port,
)
from kubenetlab.observe.targets import named_places, read
from kubenetlab.observe.truth_table import FITS, Row, TruthTable, with_target


class RowVerdict(Struct, frozen=True):
    """What came of one probe of one row."""

    table: str
    source: str
    target: str
    expected: str
    found: str
    state: Literal["holds", "fails"]
    place: str
    """file:line of the row."""
    ms: float = 0.0
    name: str = ""
    """Source and target under names that stay the same when pods are replaced: `deploy/web[0] → svc/cart:7070/TCP`."""
    connection: Connection | None = None
    """Both ends as objects of the cluster; None where the row names something that is not there."""

    @property
    def is_expected_to_fail(self) -> bool:
        """True where the row wants no connection: to a misconfigured target that is as it should be."""
        return self.expected.partition(",")[0] in ("deny", "reject", "drop", "does not resolve")


class _Question(Struct, frozen=True):
    """One row for one source, with where to send."""

    row: Row
    place: str
    name: str
    connection: Connection
    source: Location
    title: str
    address: str
    port: int = 0
    """0: it is a ping."""
    path: str = ""
    """Path of a GET; empty for a connection, a datagram or a ping."""


def check(
    table: TruthTable,
    places: Sequence[str],
    seen: Mapping[str, Any],
    network_of: Any,
    *,
    deadline_s: float = 1.0,
) -> list[RowVerdict]:
    """Every row, for every source it names. `seen` is what `inspect` shows; `network_of(place)` gives a source's own network."""
    verdicts: list[RowVerdict | None] = []
    questions: list[tuple[int, _Question]] = []
    ends = Ends(seen)
    for row, place in zip(table.probes, places, strict=True):
        name = f"{row.from_} → {row.to}{_port(row)}"
        try:
            sources = named_places(read(row.from_, seen), seen)
            target = read(row.to, seen)
            row = with_target(row, target)
            if row.resolves is not None:
                verdicts += [
                    asyncio.run(
                        _resolved(table, row, place, source, target, network_of(source), ends)
                    )
                    for source in sources
                ]
                continue
            version = {"IPv4": 4, "IPv6": 6, None: None}[row.family]
            sources = [source.of_version(version) for source in sources]
            meanings = [(source, meaning(target, seen, source)) for source in sources]
            rows = [
                (source, meant.target, with_service_port(row, meant, seen))
                for source, meant in meanings
            ]
            pairs = [
                (source, meant.bare, own, there)
                for source, meant, own in rows
                for there in row_destinations(meant, own, seen)
            ]
        except UsageError as error:
            verdicts.append(
                RowVerdict(
                    table.name,
                    row.from_,
                    row.to,
                    row.expected,
                    str(error),
                    "fails",
                    place,
                    name=name,
                )
            )
            continue
        for source, meant, own_row, there in pairs:
            path = f" GET {target.path}" if target.path else ""
            name = f"{ends.stable_name(source)} → {ends.stable_target(meant, there.title)}{_port(own_row)}{path}"
            connection = ends.of_row(source, meant, own_row.port)
            try:
                found = (
                    address_of_family(source, there.title, there.addresses)
                    if there.addresses
                    else asyncio.run(network_of(source).resolve(there.name, source.versions))
                )
            except OSError as error:
                reason = error.strerror or str(error)
                verdicts.append(
                    RowVerdict(
                        table.name,
                        source.title,
                        there.title,
                        row.expected,
                        reason,
                        "fails",
                        place,
                        name=name,
                        connection=connection,
                    )
                )
                continue
            connection = ends.of_row(source, meant, there.port, found, own_row.protocol)
            question = _Question(
                own_row,
                place,
                name,
                connection,
                source,
                there.title,
                found,
                there.port,
                target.path,
            )
            questions.append((len(verdicts), question))
            verdicts.append(None)
    plain = [
        (index, question)
        for index, question in questions
        if not (question.row.source or question.path)
    ]
    results = run([_probe(question) for _, question in plain], deadline_s=deadline_s)
    for (index, question), result in zip(plain, results, strict=True):
        state = "holds" if result.outcome in FITS[question.row.expected] else "fails"
        verdicts[index] = _verdict(table, question, result.outcome, state, result.ms)
    for index, question in questions:
        if question.row.source or question.path:
            verdicts[index] = asyncio.run(
                _whom_it_saw(table, question, network_of(question.source), deadline_s)
            )
    return [verdict for verdict in verdicts if verdict is not None]


def _probe(question: _Question) -> ProbeRequest:
    row = question.row
    protocol: Literal["ICMP", "TCP", "UDP", "SCTP"] = "ICMP" if row.port is None else row.protocol
    return ProbeRequest(
        question.source, protocol, question.address, question.port, row.expected == "allow"
    )


def _http_verdict(table: TruthTable, question: _Question, status: int, ms: float) -> RowVerdict:
    """Return the verdict for an HTTP answer: an error status is neither allowed traffic nor denied traffic."""
    is_fine = question.row.expected == "allow" and status < HTTP_ERROR
    return _verdict(table, question, f"answer, HTTP {status}", "holds" if is_fine else "fails", ms)


def _verdict(
    table: TruthTable, question: _Question, found: str, state: Any, ms: float = 0.0
) -> RowVerdict:
    row = question.row
    is_plain = row.port is not None and not question.path
    target = with_port(question.title, row.port, row.protocol) if is_plain else question.title
    source = question.source.title
    expected = row.expected + (f", from {row.source}" if row.source else "")
    rounded_ms = round(ms, 3)
    return RowVerdict(
        table.name,
        source,
        target,
        expected,
        found,
        state,
        question.place,
        rounded_ms,
        question.name,
        question.connection,
    )


def _port(row: Row) -> str:
    return f":{row.port}/{row.protocol}" if row.port is not None else ""


def needs_network(row: Row, seen: Mapping[str, Any], source: Location) -> bool:
    """Return True for a row that needs more than packets to an address: name resolution, HTTP, or the client that the server saw."""
    target = read(row.to, seen)
    return (
        bool(row.source or target.path)
        or row.resolves is not None
        or meaning(target, seen, source).target.kind == "name"
    )


async def _resolved(
    table: TruthTable,
    row: Row,
    place: str,
    source: Location,
    target: Target,
    network: Any,
    ends: Ends,
) -> RowVerdict:
    """Whether a name has an address, by the source's own resolver; a Service by the name that its own namespace uses."""
    name = (
        target.name
        if target.namespace in ("", source.namespace)
        else f"{target.name}.{target.namespace}"
    )
    try:
        versions = {"IPv4": (4,), "IPv6": (6,), None: ()}[row.family]
        found, has_address = f"resolves to {await network.resolve(name, versions)}", True
    except OSError as error:
        found, has_address = error.strerror or str(error), False
    expected = "resolves" if row.resolves else "does not resolve"
    state: Literal["holds", "fails"] = "holds" if has_address == row.resolves else "fails"
    title = f"{ends.stable_name(source)} → name/{name}"
    connection = ends.of_row(
        source, Target("name", "", name) if target.kind == "word" else target.bare, None
    )
    return RowVerdict(
        table.name,
        source.title,
        name,
        expected,
        found,
        state,
        place,
        name=title,
        connection=connection,
    )


async def _whom_it_saw(
    table: TruthTable, question: _Question, network: Any, deadline_s: float
) -> RowVerdict:
    row = question.row
    port = question.port
    begun = time.monotonic()
    try:
        if row.protocol in ("UDP", "SCTP"):
            saw = (
                await network.exchange(
                    question.address, port, b"clientip", deadline_s, row.protocol
                )
            ).decode(errors="replace")
        else:
            answer = await network.get(
                question.address, port, question.path or "/clientip", deadline_s
            )
            if question.path and (not row.source or answer.status >= HTTP_ERROR):
                return _http_verdict(
                    table, question, answer.status, (time.monotonic() - begun) * 1000
                )
            headers = {name.lower(): value for name, value in answer.headers.items()}
            saw = headers.get("x-kubenetlab-client", answer.body.decode(errors="replace"))
    except OSError as error:
        if question.path and not row.source:
            outcome: Outcome = (
                "silence"
                if isinstance(error, TimeoutError)
                else outcome_of(error.errno or errno.EHOSTUNREACH)
            )
            return _verdict(
                table, question, outcome, "holds" if outcome in FITS[row.expected] else "fails"
            )
        return _verdict(
            table, question, os.strerror(error.errno) if error.errno else str(error), "fails"
        )
    address = (saw.strip().rpartition(":")[0] or saw.strip()).strip("[]")
    ms = (time.monotonic() - begun) * 1000
    return _verdict(
        table,
        question,
        f"answer, saw {address}",
        "holds"
        if is_address(address) and ip_address(address) == ip_address(row.source)
        else "fails",
        ms,
    )
