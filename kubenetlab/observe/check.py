"""Truth tables: who must reach whom, who must not, and whom the server must see.

    name: shop
    manifests: [shop.yaml]
    probes:
    - {from: default/client, to: "svc:default/web", port: 80, allowed: true}
    - {from: ext:client, to: default/web, port: 8080, expect: deny}
    - {from: default/client, to: "svc:default/web", port: 80, expect: allow, source: 10.244.1.2}
    - {from: default/client, to: "svc:default/gone", resolves: false}

A plain list of probes is read too. Every probe is a packet from inside the source's network.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, Final, Literal

from msgspec import Struct, field

from kubenetlab.api.containers import Port
from kubenetlab.api.decode import decode, format_path
from kubenetlab.api.documents import Document, read_documents
from kubenetlab.api.meta import Record
from kubenetlab.diagnostics import Connection
from kubenetlab.errors import ManifestError, Problem, UsageError
from kubenetlab.observe.connections import Ends
from kubenetlab.observe.prober import Outcome, Probe, run
from kubenetlab.observe.targets import Place, Target, named_places, node_ports, parse, resolve, service_named

Expected = Literal["allow", "deny", "reject", "drop"]

FITS: Final[Mapping[Expected, tuple[Outcome, ...]]] = {
    "allow": ("answer",),
    "deny": ("refused", "unreachable", "silence"),
    "reject": ("refused", "unreachable"),
    "drop": ("silence",),
}


class Row(Record, frozen=True):
    """One line of a table. Without a port it is a ping."""

    from_: str = field(name="from")
    to: str
    port: Port | None = None
    protocol: Literal["TCP", "UDP", "SCTP", "ICMP"] = "TCP"
    allowed: bool | None = None
    expect: Expected | None = None
    resolves: bool | None = None
    """False: the Service's name must not resolve; the port does not matter then."""
    source: str = ""
    """Whom the server must see: an address."""
    family: Literal["IPv4", "IPv6"] | None = None
    """By which family; without it the source's primary one."""

    @property
    def expected(self) -> Expected:
        return self.expect or ("deny" if self.allowed is False else "allow")


class Table(Record, frozen=True):
    """A file: what to apply first, and what must hold then."""

    name: str = ""
    manifests: tuple[str, ...] = ()
    probes: tuple[Row, ...] = ()
    source: str = ""
    notes: str = ""
    pods: dict[str, int] = {}


class Verdict(Struct, frozen=True):
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
    source: Place
    title: str
    address: str
    port: int = 0
    """0: it is a ping."""


class _Destination(Struct, frozen=True):
    """Where a row leads; a name has no addresses before it is asked for."""

    title: str
    addresses: tuple[str, ...]
    port: int


def load(file: str) -> tuple[Table, list[str]]:
    """(table, file:line of each row). Raises ManifestError with everything that is wrong with the file."""
    try:
        with open(file, "rb") as stream:
            documents, problems = read_documents(file, stream.read())
    except OSError as error:
        raise ManifestError([Problem(f"cannot be read: {error.strerror}", file=file)]) from None
    if problems or len(documents) != 1:
        raise ManifestError(problems or [Problem(f"wanted one document, found {len(documents)}", file=file)])
    (document,) = documents
    is_list = isinstance(document.value, list)
    found = decode({"probes": document.value} if is_list else document.value, Table)
    if found.value is None or found.findings:
        raise ManifestError(
            _problem(document, finding.path[1:] if is_list else finding.path, finding.message) for finding in found.findings
        )
    faults = list(_faults(document, found.value, () if is_list else ("probes",)))
    if faults:
        raise ManifestError(faults)
    lines = [document.line_of((*(() if is_list else ("probes",)), index)) for index in range(len(found.value.probes))]
    return found.value, [f"{file}:{line}" for line in lines]


def _problem(document: Document, path: tuple[str | int, ...], message: str) -> Problem:
    return Problem(message, format_path(path), "", document.file, document.line_of(path))


def _faults(document: Document, table: Table, path: tuple[str | int, ...]) -> Iterator[Problem]:
    if not table.probes:
        yield _problem(document, path, "holds no probe: nothing would be checked")
    for index, row in enumerate(table.probes):
        here = (*path, index)
        if sum(value is not None for value in (row.allowed, row.expect, row.resolves)) != 1:
            yield _problem(document, here, "wanted one of allowed, expect and resolves")
        for name, text in (("from", row.from_), ("to", row.to)):
            try:
                parse(text)
            except UsageError as error:
                yield _problem(document, (*here, name), str(error))
        if row.source and row.port is None:
            yield _problem(document, (*here, "source"), "wanted a port, too: a ping does not say whom it saw")


def check(table: Table, places: Sequence[str], seen: Mapping[str, Any], network_of: Any, *, deadline_s: float = 1.0) -> list[Verdict]:
    """Every row, for every source it names. `seen` is what `inspect` shows; `network_of(place)` gives a source's own network."""
    verdicts: list[Verdict | None] = []
    questions: list[tuple[int, _Question]] = []
    ends = Ends(seen)
    for row, place in zip(table.probes, places, strict=True):
        try:
            sources = named_places(parse(row.from_), seen)
            target = parse(row.to)
            if row.resolves is not None:
                verdicts += [asyncio.run(_resolved(table, row, place, source, target, network_of(source), ends)) for source in sources]
                continue
            version = {"IPv4": 4, "IPv6": 6, None: None}[row.family]
            sources = [source.of_version(version) for source in sources]
            destinations = _destinations(target, row, seen)
        except UsageError as error:
            name = f"{row.from_} → {row.to}{_port(row)}"
            verdicts.append(Verdict(table.name, row.from_, row.to, row.expected, str(error), "fails", place, name=name))
            continue
        for source, there in product(sources, destinations):
            name = f"{ends.stable_name(source)} → {ends.stable_target(target, there.title)}{_port(row)}"
            connection = ends.of_row(source, target, row.port)
            try:
                found = (
                    _of_family(source, there.title, there.addresses)
                    if there.addresses
                    else asyncio.run(network_of(source).resolve(there.title, source.versions))
                )
            except OSError as error:
                reason = error.strerror or str(error)
                verdicts.append(
                    Verdict(table.name, source.title, there.title, row.expected, reason, "fails", place, name=name, connection=connection)
                )
                continue
            questions.append((len(verdicts), _Question(row, place, name, connection, source, there.title, found, there.port)))
            verdicts.append(None)
    plain = [(index, question) for index, question in questions if not question.row.source]
    results = run([_probe(question) for _, question in plain], deadline_s=deadline_s)
    for (index, question), result in zip(plain, results, strict=True):
        state = "holds" if result.outcome in FITS[question.row.expected] else "fails"
        verdicts[index] = _verdict(table, question, result.outcome, state, result.ms)
    for index, question in questions:
        if question.row.source:
            verdicts[index] = asyncio.run(_whom_it_saw(table, question, network_of(question.source), deadline_s))
    return [verdict for verdict in verdicts if verdict is not None]


def _probe(question: _Question) -> Probe:
    row = question.row
    protocol: Literal["ICMP", "TCP", "UDP", "SCTP"] = "ICMP" if row.port is None else row.protocol
    return Probe(question.source, protocol, question.address, question.port, row.expected == "allow")


def _of_family(source: Place, title: str, addresses: Sequence[str]) -> str:
    """The destination's address of the source's first family that it has. Raises OSError when they have none in common."""
    for version in source.versions:
        for address in addresses:
            if (":" in address) == (version == 6):
                return address
    raise OSError(f"{source.title} ({', '.join(source.addresses)}) and {title} ({', '.join(addresses)}) have no family in common")


def _destinations(target: Target, row: Row, seen: Mapping[str, Any]) -> list[_Destination]:
    """Where a row leads: with `nodeport:*` to every node."""
    if target.kind == "nodeport":
        return [_Destination(found.title, found.addresses, found.port) for found in node_ports(target, seen, row.port, row.protocol)]
    title, addresses = (target.name, ()) if target.kind == "name" else _destination(target, seen)
    return [_Destination(title, addresses, row.port or 0)]


def _destination(target: Target, seen: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """(title, addresses) of where a row leads."""
    if target.kind == "ip":
        return target.name, (target.name,)
    if target.kind in ("svc", "lb"):
        found = service_named(seen, target.namespace, target.name)
        field, what = ("cluster_ips", "cluster IP") if target.kind == "svc" else ("load_balancer_ips", "load balancer's address")
        if found is None or not found[field]:
            raise UsageError(f"there is no Service {target.namespace}/{target.name} with a {what}")
        return str(target), tuple(found[field])
    place = resolve(target, seen)
    return place.title, place.addresses


def _verdict(table: Table, question: _Question, found: str, state: Any, ms: float = 0.0) -> Verdict:
    row = question.row
    target, source = question.title + _port(row), question.source.title
    expected = row.expected + (f", from {row.source}" if row.source else "")
    rounded_ms = round(ms, 3)
    return Verdict(table.name, source, target, expected, found, state, question.place, rounded_ms, question.name, question.connection)


def _port(row: Row) -> str:
    return f":{row.port}/{row.protocol}" if row.port is not None else ""


def needs_network(row: Row) -> bool:
    """True for a row that is asked by more than packets to an address: by name, or to hear whom the server saw."""
    return bool(row.source) or row.resolves is not None or parse(row.to).kind == "name"


async def _resolved(table: Table, row: Row, place: str, source: Place, target: Target, network: Any, ends: Ends) -> Verdict:
    """Whether a name has an address, by the source's own resolver; a Service by the name that its own namespace uses."""
    name = target.name if target.namespace in ("", source.namespace) else f"{target.name}.{target.namespace}"
    try:
        found, has_address = f"resolves to {await network.resolve(name)}", True
    except OSError as error:
        found, has_address = error.strerror or str(error), False
    expected = "resolves" if row.resolves else "does not resolve"
    state: Literal["holds", "fails"] = "holds" if has_address == row.resolves else "fails"
    title = f"{ends.stable_name(source)} → name/{name}"
    connection = ends.of_row(source, target, None)
    return Verdict(table.name, source.title, name, expected, found, state, place, name=title, connection=connection)


async def _whom_it_saw(table: Table, question: _Question, network: Any, deadline_s: float) -> Verdict:
    row = question.row
    port = question.port
    begun = time.monotonic()
    try:
        if row.protocol in ("UDP", "SCTP"):
            saw = (await network.exchange(question.address, port, b"clientip", deadline_s, row.protocol)).decode(errors="replace")
        else:
            answer = await network.get(question.address, port, "/clientip", deadline_s)
            headers = {name.lower(): value for name, value in answer.headers.items()}
            saw = headers.get("x-kubenetlab-client", answer.body.decode(errors="replace"))
    except OSError as error:
        return _verdict(table, question, os.strerror(error.errno) if error.errno else str(error), "fails")
    address = (saw.strip().rpartition(":")[0] or saw.strip()).strip("[]")
    ms = (time.monotonic() - begun) * 1000
    return _verdict(table, question, f"answer, saw {address}", "holds" if address == row.source else "fails", ms)
