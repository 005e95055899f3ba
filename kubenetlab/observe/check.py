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
import errno
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address
from typing import Any, Final, Literal

from msgspec import Struct, field, structs

from kubenetlab.api.containers import Port
from kubenetlab.api.decode import decode, format_path
from kubenetlab.api.documents import Document, read_documents
from kubenetlab.api.ip import is_address
from kubenetlab.api.meta import Record
from kubenetlab.diagnostics import Connection
from kubenetlab.errors import ManifestError, Problem, UsageError
from kubenetlab.observe.connections import Ends
from kubenetlab.observe.grammar import Target, parse, with_port
from kubenetlab.observe.prober import Outcome, ProbeRequest, outcome_of, run
from kubenetlab.observe.request import HTTP_ERROR, RequestOptions, make_request
from kubenetlab.observe.suggestions import near
from kubenetlab.observe.targets import (
    Location,
    Meaning,
    meaning,
    named_places,
    node_ports,
    read,
    resolve,
    service_named,
)

Expected = Literal["allow", "deny", "reject", "drop"]

FITS: Final[Mapping[Expected, tuple[Outcome, ...]]] = {
    "allow": ("answer",),
    "deny": ("refused", "unreachable", "silence"),
    "reject": ("refused", "unreachable"),
    "drop": ("silence",),
}
_WITH_PORTS: Final = ("svc", "lb", "nodeport", "name", "word")
"""Kinds of targets that may be a Service, whose first port is used where a row has none."""
_WITH_NAMES: Final = ("svc", "lb", "name", "word", "pod")
"""Kinds of targets that have, or may have, a name in DNS; `shop/web` is read as a pod and may be a Service."""


class Row(Record, frozen=True):
    """One line of a table. Without a port it is a ping; to a Service it uses the first port."""

    from_: str = field(name="from")
    to: str
    port: Port | None = None
    protocol_: Literal["TCP", "UDP", "SCTP", "ICMP"] | None = field(name="protocol", default=None)
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

    @property
    def protocol(self) -> Literal["TCP", "UDP", "SCTP", "ICMP"]:
        """Protocol of a row with a port: TCP unless it is given."""
        return self.protocol_ or "TCP"


class TruthTable(Record, frozen=True):
    """A file: what to apply first, and what must hold then."""

    name: str = ""
    manifests: tuple[str, ...] = ()
    probes: tuple[Row, ...] = ()
    source: str = ""
    notes: str = ""
    pods: dict[str, int] = {}


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


class _Destination(Struct, frozen=True):
    """Where a row leads; a name has no addresses before it is asked for."""

    title: str
    addresses: tuple[str, ...]
    port: int
    name: str = ""
    """DNS name, where there are no addresses."""


def load(file: str) -> tuple[TruthTable, list[str]]:
    """(table, file:line of each row). Raises ManifestError with everything that is wrong with the file."""
    try:
        with open(0 if file == "-" else file, "rb", closefd=file != "-") as stream:
            documents, problems = read_documents("<stdin>" if file == "-" else file, stream.read())
    except OSError as error:
        raise ManifestError([Problem(f"cannot be read: {error.strerror}", file=file)]) from None
    if problems or len(documents) != 1:
        raise ManifestError(
            problems or [Problem(f"wanted one document, found {len(documents)}", file=file)]
        )
    (document,) = documents
    is_list = isinstance(document.value, list)
    if (
        isinstance(document.value, dict)
        and "kind" in document.value
        and "probes" not in document.value
    ):
        hints = (
            "a table lists probes, such as {from: client, to: svc:web, expect: allow}: docs/ci.md",
            f"to make a lab of this file: kubenetlab up -f {file}",
        )
        line = document.line_of(("kind",))
        raise ManifestError(
            [
                Problem(
                    "this is a manifest, not a table of checks", file=file, line=line, hints=hints
                )
            ]
        )
    found = decode({"probes": document.value} if is_list else document.value, TruthTable)
    if found.value is None or found.findings:
        raise ManifestError(
            _problem(document, finding.path[1:] if is_list else finding.path, finding.message)
            for finding in found.findings
        )
    faults = list(_faults(document, found.value, () if is_list else ("probes",)))
    if faults:
        raise ManifestError(faults)
    lines = [
        document.line_of((*(() if is_list else ("probes",)), index))
        for index in range(len(found.value.probes))
    ]
    return found.value, [f"{document.file}:{line}" for line in lines]


def _problem(document: Document, path: tuple[str | int, ...], message: str) -> Problem:
    return Problem(message, format_path(path), "", document.file, document.line_of(path))


def _faults(
    document: Document, table: TruthTable, path: tuple[str | int, ...]
) -> Iterator[Problem]:
    if not table.probes:
        yield _problem(document, path, "holds no probe: nothing would be checked")
    for index, row in enumerate(table.probes):
        here = (*path, index)
        if sum(value is not None for value in (row.allowed, row.expect, row.resolves)) != 1:
            yield _problem(document, here, "wanted one of allowed, expect and resolves")
        target = None
        for name, text in (("from", row.from_), ("to", row.to)):
            try:
                target = parse(text)
                row = with_target(row, target) if name == "to" else row
            except UsageError as error:
                target = None
                yield _problem(document, (*here, name), str(error))
        yield from (
            _problem(document, (*here, *path), message)
            for path, message in _contradictions(row, target)
        )


def _contradictions(row: Row, target: Target | None) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield (field, message) for fields of a row that cannot hold together. `target` is what it leads to; None where it has no sense."""
    has_port = row.port is not None or (target is not None and target.kind in _WITH_PORTS)
    if row.source and row.resolves is not None:
        yield ("source",), "a row with resolves sends nothing to a server that could see a source"
    elif row.source and row.expected != "allow":
        yield (
            ("source",),
            f"a server sees a source only where the row expects allow, not {row.expected}",
        )
    elif row.source and (not has_port or row.protocol == "ICMP"):
        yield ("source",), "wanted a port, too: a ping does not say whom it saw"
    if row.source and not is_address(row.source):
        yield ("source",), f'wanted an IP address, found "{row.source}"'
    if row.resolves is not None:
        if target is not None and target.kind not in _WITH_NAMES:
            yield (
                ("to",),
                f"resolves is about a name: wanted a Service or a DNS name, found {target}",
            )
    elif row.protocol == "ICMP" and row.port is not None:
        yield ("protocol",), f"a ping has no port, but port is {row.port}; give one of them"
    elif row.protocol_ not in (None, "ICMP") and not has_port:
        yield ("protocol",), f"{row.protocol_} needs a port"


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
                (source, meant.target, _with_service_port(row, meant, seen))
                for source, meant in meanings
            ]
            pairs = [
                (source, meant.bare, own, there)
                for source, meant, own in rows
                for there in _destinations(meant, own, seen)
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
                    _of_family(source, there.title, there.addresses)
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


def with_target(row: Row, target: Target) -> Row:
    """Return the row with port, protocol and family of its target. Raises UsageError where the row gives others."""
    if row.family and target.family and row.family != target.family:
        raise UsageError(
            f"{target} has the family {target.family}, but family is {row.family}; give one of them"
        )
    row = structs.replace(row, family=row.family or target.family)
    if target.port is None:
        return row
    request = make_request(target, RequestOptions(row.protocol_, row.port))
    return structs.replace(row, port=request.port, protocol_=request.protocol)


def _with_service_port(row: Row, meant: Meaning, seen: Mapping[str, Any]) -> Row:
    """Return a row without a port with the first port of its Service, as `ping` takes it. Raises UsageError where UDP or SCTP has none."""
    if row.port is not None or row.protocol == "ICMP":
        return row
    target = meant.target
    key = (
        (target.namespace, target.name.rpartition("/")[2])
        if target.kind in ("svc", "lb", "nodeport")
        else meant.service
    )
    service = service_named(seen, *key) if key is not None else None
    ports = [
        port
        for port in (service["ports"] if service is not None and service["cluster_ips"] else ())
        if row.protocol_ in (None, port["protocol"])
        and (port["node_port"] or target.kind != "nodeport")
    ]
    if ports:
        return structs.replace(row, port=ports[0]["port"], protocol_=ports[0]["protocol"])
    if row.protocol_ is not None and target.kind != "nodeport":
        raise UsageError(
            f"{row.protocol_} needs a port, and {target.bare} is not a Service with one; add port"
        )
    if row.source:
        raise UsageError(
            f"source needs a port, and {target.bare} is not a Service with one; add port"
        )
    return row


def _probe(question: _Question) -> ProbeRequest:
    row = question.row
    protocol: Literal["ICMP", "TCP", "UDP", "SCTP"] = "ICMP" if row.port is None else row.protocol
    return ProbeRequest(
        question.source, protocol, question.address, question.port, row.expected == "allow"
    )


def _of_family(source: Location, title: str, addresses: Sequence[str]) -> str:
    """The destination's address of the source's first family that it has. Raises OSError when they have none in common."""
    for version in source.versions:
        for address in addresses:
            if (":" in address) == (version == 6):
                return address
    raise OSError(
        f"{source.title} ({', '.join(source.addresses)}) and {title} ({', '.join(addresses)}) have no family in common"
    )


def _destinations(target: Target, row: Row, seen: Mapping[str, Any]) -> list[_Destination]:
    """Where a row leads: with `nodeport:*` to every node."""
    if target.kind == "nodeport":
        return [
            _Destination(found.title, found.addresses, found.port)
            for found in node_ports(target, seen, row.port, row.protocol)
        ]
    title, addresses = (target.name, ()) if target.kind == "name" else _destination(target, seen)
    title = str(target) if target.path else title
    return [_Destination(title, addresses, row.port or 0, target.name)]


def _destination(target: Target, seen: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """(title, addresses) of where a row leads."""
    if target.kind == "ip":
        return target.name, (target.name,)
    if target.kind in ("svc", "lb"):
        found = service_named(seen, target.namespace, target.name)
        field, what = (
            ("cluster_ips", "cluster IP")
            if target.kind == "svc"
            else ("load_balancer_ips", "load balancer's address")
        )
        if found is None or not found[field]:
            similar = near(target.name, seen, with_services=True) if found is None else ""
            raise UsageError(
                f"there is no Service {target.namespace}/{target.name} with a {what}{similar}"
            )
        return str(target.bare), tuple(found[field])
    place = resolve(target, seen, is_destination=True)
    return place.title, place.addresses


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
