"""Checks of truth tables: probe every row from every source it names, and give a verdict.

Every probe is a real packet from inside the source's network namespace.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Final, Literal, TypeVar

from msgspec import Struct, structs

from kubenetlab.errors import UsageError
from kubenetlab.observe.checks.replies import check_reply
from kubenetlab.observe.checks.row_destinations import (
    RowDestination,
    address_of_family,
    row_destinations,
    with_service_port,
)
from kubenetlab.observe.checks.truth_table import EXPECTED_OUTCOMES, Row, TruthTable, with_target
from kubenetlab.observe.checks.verdicts import (
    NOT_DENIED,
    RowProbe,
    RowVerdict,
    state_of,
    verdict_of,
    with_family,
)
from kubenetlab.observe.connections import Ends
from kubenetlab.observe.drop_logs import logging_nodes
from kubenetlab.observe.policies.paths import Protocol
from kubenetlab.observe.policies.reasons import PlaceOf, lookup_denials, no_place, reasons
from kubenetlab.observe.policies.verdicts import PolicyVerdicts
from kubenetlab.observe.prober import ProbeRequest, run
from kubenetlab.observe.targets.grammar import Target
from kubenetlab.observe.targets.locations import Location
from kubenetlab.observe.targets.meanings import resolve_name
from kubenetlab.observe.targets.resolution import named_places, read

if TYPE_CHECKING:
    from kubenetlab.observe.inspection import Inspection
    from kubenetlab.programs.support.http import Network

T = TypeVar("T")
_MAX_EXCHANGES: Final = 100
"""Maximum number of concurrent look-ups of names, and of concurrent requests."""

_Entry = RowVerdict | RowProbe | Coroutine[None, None, RowVerdict | RowProbe]
"""Verdict or probe of a row; a coroutine returns it after a look-up of a name."""


class _Check(Struct, frozen=True):
    """Inputs of the check of one table."""

    table: TruthTable
    seen: Inspection
    network_of: Callable[[Location], Network]
    ends: Ends
    policies: PolicyVerdicts | None
    place_of: PlaceOf


def check(
    table: TruthTable,
    places: Sequence[str],
    seen: Inspection,
    network_of: Callable[[Location], Network],
    *,
    policies: PolicyVerdicts | None = None,
    place_of: PlaceOf = no_place,
    explains_all: bool = False,
    deadline_s: float = 1.0,
) -> list[RowVerdict]:
    """Return one verdict for every row, source and destination, in order.

    places: file:line of each row. seen: document of `inspect`.
    network_of: returns the network of a source, with its name resolution and its sockets.
    policies: network policies that the lab enforces; None without any.
    explains_all: name the policies of rows that hold, too, which takes longer than their packets.
    """
    inputs = _Check(table, seen, network_of, Ends(seen), policies, place_of)
    entries: list[RowVerdict | RowProbe] = asyncio.run(
        _gathered(
            entry
            for row, place in zip(table.probes, places, strict=True)
            for entry in _entries(inputs, row, place)
        )
    )
    plain = [entry for entry in entries if isinstance(entry, RowProbe) and not entry.reads_reply]
    nodes = logging_nodes(seen) if policies is not None else ()
    results = iter(run([_request(probe) for probe in plain], deadline_s=deadline_s, nodes=nodes))
    verdicts: list[RowVerdict | Coroutine[None, None, RowVerdict]] = []
    for entry in entries:
        if isinstance(entry, RowVerdict):
            verdicts.append(entry)
        elif entry.reads_reply:
            verdicts.append(check_reply(table, entry, network_of, deadline_s))
        else:
            result = next(results)
            holds = result.outcome in EXPECTED_OUTCOMES[entry.row.expected]
            state = state_of(holds, result.outcome)
            verdicts.append(verdict_of(table, entry, result.outcome, state, result.ms))
    return [
        _with_policies(inputs, entry, verdict)
        if explains_all or verdict.state == "fails"
        else verdict
        for entry, verdict in (
            (entry, structs.replace(verdict, note=_note(inputs, entry, verdict)))
            for entry, verdict in zip(entries, asyncio.run(_gathered(verdicts)), strict=True)
        )
    ]


def _note(inputs: _Check, entry: RowVerdict | RowProbe, verdict: RowVerdict) -> str:
    """Return a note about a denial that is not the work of a policy; empty for others.

    Without policies, rows are about something else.
    """
    policies = inputs.policies
    if policies is None or isinstance(entry, RowVerdict) or verdict.state != "holds":
        return ""
    if entry.row.expected not in ("deny", "drop"):
        return ""
    connection = (entry.source, entry.address, entry.port, _protocol(entry))
    is_allowed = policies.decision(*connection) == "allowed" and policies.may_leave(*connection)
    return NOT_DENIED if is_allowed else ""


def _protocol(probe: RowProbe) -> Protocol:
    return probe.row.protocol if probe.port else "ICMP"


def _with_policies(inputs: _Check, entry: RowVerdict | RowProbe, verdict: RowVerdict) -> RowVerdict:
    """Return the verdict of a probe with the policies that decide about its connection."""
    if inputs.policies is None or isinstance(entry, RowVerdict):
        return verdict
    deciding = reasons(
        inputs.policies, entry.source, entry.address, entry.port, _protocol(entry), inputs.place_of
    )
    return structs.replace(verdict, policies=tuple(deciding))


async def _gathered(entries: Iterable[T | Coroutine[None, None, T]]) -> list[T]:
    """Return the entries, with the results of coroutines in place of them."""
    slots = asyncio.Semaphore(_MAX_EXCHANGES)

    async def result_of(coroutine: Coroutine[None, None, T]) -> T:
        async with slots:
            return await coroutine

    started = [
        asyncio.ensure_future(result_of(entry)) if isinstance(entry, Coroutine) else entry
        for entry in entries
    ]
    return [await entry if isinstance(entry, asyncio.Future) else entry for entry in started]


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


def _entries(inputs: _Check, row: Row, place: str) -> Sequence[_Entry]:
    """Return the probes of one row, and verdicts where no probe is needed or possible."""
    seen = inputs.seen
    try:
        sources = named_places(read(row.from_, seen), seen)
        target = read(row.to, seen)
        resolved_row = with_target(row, target)
        if row.resolves is not None:
            return [_check_name(inputs, resolved_row, place, source, target) for source in sources]
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

    The target is the one that a bare name stands for. A pod of `each:` is not its own destination.
    Raises UsageError if the target is missing or ambiguous, or if a source lacks the family.
    """
    version = {"IPv4": 4, "IPv6": 6, None: None}[row.family]
    restricted = [source.of_version(version) for source in sources]
    meanings: dict[tuple[bool, str], list[tuple[Target, Row, RowDestination]]] = {}
    for source in restricted:
        key = source.kind == "pod", source.namespace
        if key not in meanings:
            meant = resolve_name(target, inputs.seen, source)
            own_row = with_service_port(row, meant, inputs.seen)
            meanings[key] = [
                (meant.target.bare, own_row, destination)
                for destination in row_destinations(meant.target, own_row, inputs.seen)
            ]
    destinations = [
        (source, *meaning)
        for source in restricted
        for meaning in meanings[source.kind == "pod", source.namespace]
        if target.kind != "each" or meaning[2].title != source.title
    ]
    if not destinations:
        raise UsageError(f"{target} is no other pod than {row.from_}")
    return destinations


def _probe_or_failure(
    inputs: _Check,
    row: Row,
    place: str,
    source: Location,
    meant: Target,
    destination: RowDestination,
    path: str,
) -> _Entry:
    """Return the probe to a destination, or the verdict if the source finds no address of it."""
    ends = inputs.ends
    name = (
        f"{ends.stable_name(source)} → {ends.stable_target(meant, destination.title)}"
        f"{_port(row)}{f' GET {path}' if path else ''}"
    )

    def probe(address: str) -> RowProbe:
        return RowProbe(
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

    def failure(error: OSError) -> RowVerdict:
        return RowVerdict(
            inputs.table.name,
            source.title,
            with_family(destination.title, row),
            row.expected,
            error.strerror or str(error),
            "fails",
            place,
            name=name,
            connection=ends.of_row(source, meant, row.port),
            policies=tuple(lookup_denials(inputs.policies, source, str(error), inputs.place_of)),
        )

    async def resolved() -> RowVerdict | RowProbe:
        network = inputs.network_of(source)
        try:
            return probe(await network.resolve(destination.name, source.versions))
        except OSError as error:
            return failure(error)

    if not destination.addresses:
        return resolved()
    try:
        return probe(address_of_family(source, destination.title, destination.addresses))
    except OSError as error:
        return failure(error)


def _request(probe: RowProbe) -> ProbeRequest:
    row = probe.row
    protocol: Literal["ICMP", "TCP", "UDP", "SCTP"] = "ICMP" if row.port is None else row.protocol
    return ProbeRequest(probe.source, protocol, probe.address, probe.port, row.expected == "allow")


def _port(row: Row) -> str:
    return with_family(f":{row.port}/{row.protocol}" if row.port is not None else "", row)


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
    denying: list[str] = []
    try:
        address = await network.resolve(name, versions)
        found, has_address = f"resolves to {address}", True
    except OSError as error:
        found, has_address = error.strerror or str(error), False
        denying = lookup_denials(inputs.policies, source, found, inputs.place_of)
    connection = inputs.ends.of_row(
        source, Target("name", "", name) if target.kind == "word" else target.bare, None
    )
    return RowVerdict(
        inputs.table.name,
        source.title,
        name,
        "resolves" if row.resolves else "does not resolve",
        found,
        state_of(has_address == row.resolves),
        place,
        name=f"{inputs.ends.stable_name(source)} → name/{name}",
        connection=connection,
        policies=tuple(denying),
    )
