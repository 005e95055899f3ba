"""Matches of the rules of policies in nftables.

A condition that several matches can meet has several alternatives. A rule of a policy becomes one
rule for each combination of them, and none if a condition can never be met.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, product
from typing import Final

from kubenetlab.api.containers import MAX_PORT
from kubenetlab.api.policies.network_policy import Direction
from kubenetlab.datapath.policy.common import (
    PROTOCOL_NAMES,
    group_digest,
    is_everything,
    port_text,
    ports_by_protocol,
)
from kubenetlab.datapath.policy.conditions import (
    AddressIn,
    Condition,
    End,
    EndpointIn,
    ICMPIs,
    PortIn,
    ProtocolIs,
)
from kubenetlab.datapath.policy.members import PodGroup
from kubenetlab.datapath.policy.rules import PolicyRule, PortName
from kubenetlab.hoststate.rules.nftables import NFT_FAMILIES
from kubenetlab.hoststate.rules.nftables.statements import (
    AnyStatement,
    InSet,
    Match,
    MatchPair,
    OneOf,
)

ENDS: Final[Mapping[Direction, tuple[str, str]]] = {
    "Egress": ("saddr", "daddr"),
    "Ingress": ("daddr", "saddr"),
}
"""Direction → (part of the header with the pod to which policies apply, part with its peer)."""
_ADDRESSES: Final[Mapping[End, str]] = {"source": "saddr", "destination": "daddr"}
_PORTS: Final[Mapping[End, str]] = {"source": "th sport", "destination": "th dport"}
_ICMP: Final = {4: "icmp", 6: "icmpv6"}

_Statements = tuple[AnyStatement, ...]


def matches(version: int, direction: Direction, entry: PolicyRule) -> Iterator[_Statements]:
    """Yield the statements that match the packets of a rule, for each alternative."""
    if version not in entry.versions:
        return
    family = NFT_FAMILIES[version]
    peers = list(_peers(f"{family} {ENDS[direction][1]}", version, entry))
    ports = list(_ports(family, entry))
    conditions = (list(_alternatives(version, each)) for each in entry.conditions)
    for parts in product(peers, ports, *conditions):
        yield _with_pair(tuple(chain.from_iterable(parts)))


def _with_pair(statements: _Statements) -> _Statements:
    """Return statements in which one match compares both ports, if each is a single one."""
    source, destination = (
        next((each for each in statements if _is_single_port(each, selector)), None)
        for selector in ("th sport", "th dport")
    )
    if not isinstance(source, Match) or not isinstance(destination, Match):
        return statements
    pair = MatchPair(source, destination)
    return tuple(pair if each is source else each for each in statements if each is not destination)


def _is_single_port(statement: AnyStatement, selector: str) -> bool:
    return (
        isinstance(statement, Match)
        and statement.selector == selector
        and "-" not in statement.value
    )


def group_set(group: PodGroup) -> str:
    """Return the name of the set of a group of pods."""
    return f"pods-{group_digest(group)}"


def port_set(port: PortName) -> str:
    """Return the name of the set of the ports with a name."""
    return f"port-{port.name}-{port.protocol.lower()}"


def _peers(selector: str, version: int, entry: PolicyRule) -> Iterator[_Statements]:
    """Yield the matches of the peers of a rule, of which one has to match."""
    if entry.is_any_peer:
        yield ()
    yield from _addresses(selector, entry.groups, entry.ranges_of(version))


def _addresses(
    selector: str, groups: Sequence[PodGroup], ranges: Sequence[str]
) -> Iterator[_Statements]:
    for each in groups:
        yield (InSet((selector,), group_set(each)),)
    if is_everything(ranges):
        yield ()
    elif ranges:
        yield (OneOf(selector, tuple(ranges)),)


def _ports(family: str, entry: PolicyRule) -> Iterator[_Statements]:
    """Yield the matches of the ports of a rule, of which one has to match."""
    if entry.is_any_port:
        yield ()
    for protocol, ports in ports_by_protocol(entry).items():
        is_protocol = Match("meta l4proto", protocol)
        if ports:
            yield (is_protocol, OneOf("th dport", tuple(port_text(port, "-") for port in ports)))
        else:
            yield (is_protocol,)
    for name in entry.port_names:
        yield (_named_port(family, "destination", name),)


def _named_port(family: str, end: End, name: PortName, *, is_negated: bool = False) -> InSet:
    keys = (f"{family} {_ADDRESSES[end]}", "meta l4proto", _PORTS[end])
    return InSet(keys, port_set(name), is_negated)


def _alternatives(version: int, condition: Condition) -> Iterator[_Statements]:
    """Yield the statements of which one has to match, so that a condition is met."""
    family = NFT_FAMILIES[version]
    match condition:
        case AddressIn():
            selector = f"{family} {_ADDRESSES[condition.end]}"
            ranges = condition.ranges_of(version)
            if not condition.is_negated:
                yield from _addresses(selector, condition.groups, ranges)
            elif not is_everything(ranges):
                sets = (InSet((selector,), group_set(each), True) for each in condition.groups)
                yield (*sets, *([OneOf(selector, ranges, True)] if ranges else ()))
        case PortIn():
            yield from _port_alternatives(family, condition)
        case ProtocolIs(number, is_negated):
            yield (Match("meta l4proto", PROTOCOL_NAMES.get(number, str(number)), is_negated),)
        case ICMPIs():
            yield from _icmp_alternatives(_ICMP[version], condition)
        case EndpointIn(endpoints):
            for protocol, port, every_address in endpoints:
                addresses = tuple(each for each in every_address if (":" in each) == (version == 6))
                if addresses:
                    yield (
                        OneOf(f"{family} daddr", addresses),
                        Match("meta l4proto", protocol.lower()),
                        Match("th dport", str(port)),
                    )


def _port_alternatives(family: str, condition: PortIn) -> Iterator[_Statements]:
    selector = _PORTS[condition.end]
    if not condition.is_negated:
        if condition.ranges:
            yield (_one_of(selector, condition.ranges),)
        for name in condition.names:
            yield (_named_port(family, condition.end, name),)
        return
    sets = tuple(
        _named_port(family, condition.end, name, is_negated=True) for name in condition.names
    )
    if not condition.ranges:
        yield sets
    elif others := tuple(_others(condition.ranges)):
        yield (_one_of(selector, others), *sets)


def _one_of(selector: str, ranges: Sequence[tuple[int, int]]) -> Match | OneOf:
    texts = tuple(map(_range_text, ranges))
    return Match(selector, texts[0]) if len(texts) == 1 else OneOf(selector, texts)


def _others(ranges: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the ranges of the ports that are in none of some ranges, which are in order."""
    first = 0
    for start, end in ranges:
        if first < start:
            yield first, start - 1
        first = end + 1
    if first <= MAX_PORT:
        yield first, MAX_PORT


def _range_text(limits: tuple[int, int]) -> str:
    first, last = limits
    return str(first) if first == last else f"{first}-{last}"


def _icmp_alternatives(protocol: str, condition: ICMPIs) -> Iterator[_Statements]:
    type_, code = (f"{protocol} {field}" for field in ("type", "code"))
    of_type = Match(type_, str(condition.type))
    if not condition.is_negated:
        has_code = condition.code is not None
        yield (MatchPair(of_type, Match(code, str(condition.code))) if has_code else of_type,)
        return
    yield (Match(type_, str(condition.type), True),)
    if condition.code is not None:
        yield (of_type, Match(code, str(condition.code), True))
