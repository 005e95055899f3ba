"""Checks of truth tables: probe every row from every source it names, and give a verdict.

Every probe is a real packet from inside the source's network namespace.
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from kubenetlab.api.values.ip import is_address
from kubenetlab.diagnostics import Connection
from kubenetlab.errors import UsageError
from kubenetlab.observe.checks.row_destinations import (
    RowDestination,
    address_of_family,
    row_destinations,
    with_service_port,
)
from kubenetlab.observe.checks.truth_table import EXPECTED_OUTCOMES, Row, TruthTable, with_target
from kubenetlab.observe.connections import Ends
from kubenetlab.observe.prober import Outcome, ProbeRequest, outcome_of, run
from kubenetlab.observe.request import HTTP_ERROR
from kubenetlab.observe.targets.grammar import Target, with_port
from kubenetlab.observe.targets.locations import Location
from kubenetlab.observe.targets.meanings import resolve_name
from kubenetlab.observe.targets.resolution import named_places, read

if TYPE_CHECKING:
    from kubenetlab.observe.inspection import Inspection
    from kubenetlab.programs.support.http import Network

State = Literal["holds", "fails"]


class RowVerdict(Struct, frozen=True):
    """Result of one probe of one row."""

    table: str
    source: str
    target: str
    expected: str
    found: str
    state: State
    place: str
    """file:line of the row."""
    ms: float = 0.0
    name: str = ""
    """Source and target under names that stay the same when pods are replaced.

    Example: `deploy/web[0] → svc/cart:7070/TCP`.
    """
    connection: Connection | None = None
    """Both ends as objects of the cluster; None if the row names an object that does not exist."""

    @property
    def is_expected_to_fail(self) -> bool:
        """True if the row expects no connection: a misconfigured target may be intended."""
        return self.expected.partition(",")[0] in ("deny", "reject", "drop", "does not resolve")


class _RowProbe(Struct, frozen=True):
    """Probe of one row from one source to one address."""

    row: Row
    place: str
    name: str
    connection: Connection
    source: Location
    title: str
    address: str
    port: int = 0
    """Destination port; 0 for a ping."""
    path: str = ""
    """Path of a GET; empty for a connection, a datagram or a ping."""

    @property
    def reads_reply(self) -> bool:
        """True if the verdict depends on the content of a reply."""
        return bool(self.row.source or self.path)


class _Check(Struct, frozen=True):
    """Inputs of the check of one table."""

    table: TruthTable
    seen: Inspection
    network_of: Callable[[Location], Network]
    ends: Ends


def check(
    table: TruthTable,
    places: Sequence[str],
    seen: Inspection,
    network_of: Callable[[Location], Network],
    *,
    deadline_s: float = 1.0,
) -> list[RowVerdict]:
    """Return one verdict for every row, source and destination, in order.

    places: file:line of each row. seen: document of `inspect`.
    network_of: returns the network of a source, with its name resolution and its sockets.
    """
    inputs = _Check(table, seen, network_of, Ends(seen))
    entries = [
        entry
        for row, place in zip(table.probes, places, strict=True)
        for entry in _entries(inputs, row, place)
    ]
    plain = [entry for entry in entries if isinstance(entry, _RowProbe) and not entry.reads_reply]
    results = iter(run([_request(probe) for probe in plain], deadline_s=deadline_s))
    verdicts: list[RowVerdict] = []
    for entry in entries:
        if isinstance(entry, RowVerdict):
            verdicts.append(entry)
        elif entry.reads_reply:
            network = network_of(entry.source)
            verdicts.append(asyncio.run(_check_reply(table, entry, network, deadline_s)))
        else:
            result = next(results)
            state = _state(result.outcome in EXPECTED_OUTCOMES[entry.row.expected])
            verdicts.append(_verdict(table, entry, result.outcome, state, result.ms))
    return verdicts


def needs_network(row: Row, seen: Inspection, source: Location) -> bool:
    """Return True for a row that needs more than a packet to an address.

    That is name resolution, HTTP, or the client address that the server saw.
    """
    target = read(row.to, seen)
    return (
        bool(row.source or target.path)
        or row.resolves is not None
        or resolve_name(target, seen, source).target.kind == "name"
    )


def _entries(inputs: _Check, row: Row, place: str) -> list[RowVerdict | _RowProbe]:
    """Return the probes of one row, and verdicts where no probe is needed or possible."""
    seen = inputs.seen
    try:
        sources = named_places(read(row.from_, seen), seen)
        target = read(row.to, seen)
        resolved_row = with_target(row, target)
        if row.resolves is not None:
            return [
                asyncio.run(_check_name(inputs, resolved_row, place, source, target))
                for source in sources
            ]
        destinations = _destinations(inputs, resolved_row, sources, target)
    except UsageError as error:
        name = f"{row.from_} → {row.to}{_port(row)}"
        return [
            RowVerdict(
                inputs.table.name,
                row.from_,
                row.to,
                row.expected,
                str(error),
                "fails",
                place,
                name=name,
            )
        ]
    return [
        _probe_or_failure(inputs, own_row, place, source, meant, destination, target.path)
        for source, meant, own_row, destination in destinations
    ]


def _destinations(
    inputs: _Check, row: Row, sources: Sequence[Location], target: Target
) -> list[tuple[Location, Target, Row, RowDestination]]:
    """Return (source, target, row with the Service's port, destination) for each probe of a row.

    The target is the one that a bare name stands for.
    Raises UsageError if the target is missing or ambiguous, or if a source lacks the family.
    """
    version = {"IPv4": 4, "IPv6": 6, None: None}[row.family]
    restricted = [source.of_version(version) for source in sources]
    meanings = [(source, resolve_name(target, inputs.seen, source)) for source in restricted]
    rows = [
        (source, meant.target, with_service_port(row, meant, inputs.seen))
        for source, meant in meanings
    ]
    return [
        (source, meant.bare, own_row, destination)
        for source, meant, own_row in rows
        for destination in row_destinations(meant, own_row, inputs.seen)
    ]


def _probe_or_failure(
    inputs: _Check,
    row: Row,
    place: str,
    source: Location,
    meant: Target,
    destination: RowDestination,
    path: str,
) -> RowVerdict | _RowProbe:
    """Return the probe to a destination, or the verdict if the source finds no address of it."""
    ends = inputs.ends
    name = (
        f"{ends.stable_name(source)} → {ends.stable_target(meant, destination.title)}"
        f"{_port(row)}{f' GET {path}' if path else ''}"
    )
    try:
        if destination.addresses:
            address = address_of_family(source, destination.title, destination.addresses)
        else:
            network = inputs.network_of(source)
            address = asyncio.run(network.resolve(destination.name, source.versions))
    except OSError as error:
        return RowVerdict(
            inputs.table.name,
            source.title,
            destination.title,
            row.expected,
            error.strerror or str(error),
            "fails",
            place,
            name=name,
            connection=ends.of_row(source, meant, row.port),
        )
    return _RowProbe(
        row,
        place,
        name,
        ends.of_row(source, meant, destination.port, address, row.protocol),
        source,
        destination.title,
        address,
        destination.port,
        path,
    )


def _request(probe: _RowProbe) -> ProbeRequest:
    row = probe.row
    protocol: Literal["ICMP", "TCP", "UDP", "SCTP"] = "ICMP" if row.port is None else row.protocol
    return ProbeRequest(probe.source, protocol, probe.address, probe.port, row.expected == "allow")


def _state(holds: bool) -> State:
    return "holds" if holds else "fails"


def _http_verdict(table: TruthTable, probe: _RowProbe, status: int, ms: float) -> RowVerdict:
    """Return the verdict for an HTTP reply: an error status is neither allowed nor denied."""
    holds = probe.row.expected == "allow" and status < HTTP_ERROR
    return _verdict(table, probe, f"answer, HTTP {status}", _state(holds), ms)


def _verdict(
    table: TruthTable, probe: _RowProbe, found: str, state: State, ms: float = 0.0
) -> RowVerdict:
    row = probe.row
    is_plain = row.port is not None and not probe.path
    return RowVerdict(
        table.name,
        probe.source.title,
        with_port(probe.title, row.port, row.protocol) if is_plain else probe.title,
        row.expected + (f", from {row.source}" if row.source else ""),
        found,
        state,
        probe.place,
        round(ms, 3),
        probe.name,
        probe.connection,
    )


def _port(row: Row) -> str:
    return f":{row.port}/{row.protocol}" if row.port is not None else ""


async def _check_name(
    inputs: _Check, row: Row, place: str, source: Location, target: Target
) -> RowVerdict:
    """Check whether a name has an address, with the resolver of the source.

    A Service is looked up by the name that pods of the source's namespace use.
    """
    name = (
        target.name
        if target.namespace in ("", source.namespace)
        else f"{target.name}.{target.namespace}"
    )
    versions = {"IPv4": (4,), "IPv6": (6,), None: ()}[row.family]
    network = inputs.network_of(source)
    try:
        address = await network.resolve(name, versions)
        found, has_address = f"resolves to {address}", True
    except OSError as error:
        found, has_address = error.strerror or str(error), False
    connection = inputs.ends.of_row(
        source, Target("name", "", name) if target.kind == "word" else target.bare, None
    )
    return RowVerdict(
        inputs.table.name,
        source.title,
        name,
        "resolves" if row.resolves else "does not resolve",
        found,
        _state(has_address == row.resolves),
        place,
        name=f"{inputs.ends.stable_name(source)} → name/{name}",
        connection=connection,
    )


async def _check_reply(
    table: TruthTable, probe: _RowProbe, network: Network, deadline_s: float
) -> RowVerdict:
    """Check the HTTP status of a reply, or the client address that the server saw."""
    row = probe.row
    start = time.monotonic()
    try:
        if row.protocol in ("UDP", "SCTP"):
            reply = await network.exchange(
                probe.address, probe.port, b"clientip", deadline_s, row.protocol
            )
            client = reply.decode(errors="replace")
        else:
            answer = await network.get(
                probe.address, probe.port, probe.path or "/clientip", deadline_s
            )
            if probe.path and (not row.source or answer.status >= HTTP_ERROR):
                return _http_verdict(table, probe, answer.status, _ms_since(start))
            headers = {name.lower(): value for name, value in answer.headers.items()}
            client = headers.get("x-kubenetlab-client", answer.body.decode(errors="replace"))
    except OSError as error:
        return _failed_reply(table, probe, error)
    address = (client.strip().rpartition(":")[0] or client.strip()).strip("[]")
    holds = is_address(address) and ip_address(address) == ip_address(row.source)
    return _verdict(table, probe, f"answer, saw {address}", _state(holds), _ms_since(start))


def _failed_reply(table: TruthTable, probe: _RowProbe, error: OSError) -> RowVerdict:
    """Return the verdict for a failed exchange, which a GET without `source` may expect."""
    if probe.row.source or not probe.path:
        return _verdict(
            table, probe, os.strerror(error.errno) if error.errno else str(error), "fails"
        )
    outcome: Outcome = (
        "silence"
        if isinstance(error, TimeoutError)
        else outcome_of(error.errno or errno.EHOSTUNREACH)
    )
    return _verdict(table, probe, outcome, _state(outcome in EXPECTED_OUTCOMES[probe.row.expected]))


def _ms_since(start: float) -> float:
    return (time.monotonic() - start) * 1000
