"""Matches of the rules of policies in iptables, and the names of the sets that they match.

A condition that several matches can meet has several alternatives. A rule of a policy becomes one
rule for each combination of them, and none if a condition can never be met.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Final

from msgspec import Struct

from kubenetlab.api.policies.network_policy import Direction
from kubenetlab.datapath.policy.common import (
    PROTOCOL_NAMES,
    digest,
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
from kubenetlab.datapath.policy.rules import PolicyRule, PortName, PortRange
from kubenetlab.hoststate.rules.ipset import FAMILIES as SET_FAMILIES
from kubenetlab.hoststate.rules.ipset import IpsetObject, Member, Set
from kubenetlab.hoststate.rules.iptables import FAMILIES, ChainEntry, IptablesChain
from kubenetlab.hoststate.rules.rulesets import RuleObject, SubjectRules

MAX_MATCHED_PORTS: Final = 15
"""Maximum number of ports that `multiport` matches; a range counts as two."""
_PEERS: Final[Mapping[Direction, str]] = {"Egress": "dst", "Ingress": "src"}
"""Direction → part of the header with the peer, for matches of sets."""
_PARTS: Final[Mapping[End, str]] = {"source": "src", "destination": "dst"}
_PORT_OPTIONS: Final[Mapping[End, str]] = {"source": "--sports", "destination": "--dports"}
_ICMP: Final = {4: "icmp --icmp-type", 6: "icmp6 --icmpv6-type"}
"""IP version → module for ICMP messages, and its option."""
_ICMPV6: Final = 58

_Match = tuple[str, str]
"""Options before the comment of a rule, with a space at the end, and options after it."""


class FamilyTable(Struct, frozen=True):
    """Table and sets of one address family on a node; creates their objects."""

    version: int
    netns: str = ""

    @property
    def family(self) -> str:
        return FAMILIES[self.version]

    def chain(self, name: str, rules: Sequence[str]) -> IptablesChain:
        return IptablesChain(self.netns, self.family, "filter", name, tuple(rules))

    def entry(self, chain: str, rule: str) -> ChainEntry:
        return ChainEntry(self.netns, self.family, "filter", chain, rule)

    def set_name(self, kind: str, name: str) -> str:
        """Return the name of a set: `cali40s:…`, `cali60s:…`."""
        return f"cali{self.version}0{kind}:{name}"

    def set(self, name: str, type_: str, items: Sequence[str]) -> Iterator[IpsetObject]:
        """Yield a set and its members."""
        yield Set(self.netns, name, f"{type_} family {SET_FAMILIES[self.version]}")
        for item in items:
            yield Member(self.netns, name, item)

    def rules(
        self,
        backend: str,
        subject: str,
        objects: tuple[RuleObject, ...],
        shared: tuple[RuleObject, ...] = (),
    ) -> SubjectRules[RuleObject]:
        return SubjectRules(backend, self.family, subject, objects, shared)


def matches(table: FamilyTable, direction: Direction, entry: PolicyRule) -> Iterator[_Match]:
    """Yield the matches of the packets of a rule, for each alternative."""
    if table.version not in entry.versions:
        return
    peers = [("", peer) for peer in _peers(table, _PEERS[direction], entry)]
    ports = [(port, "") for port in _ports(table, entry)]
    conditions = (list(_alternatives(table, each)) for each in entry.conditions)
    for parts in product(peers, ports, *conditions):
        yield "".join(before for before, _ in parts), "".join(after for _, after in parts)


def ranges_in(version: int, entry: PolicyRule) -> Iterator[tuple[str, ...]]:
    """Yield the ranges of addresses of which the matches of a rule need sets."""
    if version not in entry.versions:
        return
    candidates = [entry.ranges_of(version)]
    for condition in entry.conditions:
        if isinstance(condition, AddressIn):
            candidates.append(condition.ranges_of(version))
        elif isinstance(condition, EndpointIn):
            candidates += (_hosts(version, addresses) for *_, addresses in condition.endpoints)
    yield from (ranges for ranges in candidates if ranges and not is_everything(ranges))


def group_set(table: FamilyTable, group: PodGroup) -> str:
    """Return the name of the set of a group of pods."""
    return table.set_name("s", group_digest(group))


def port_set(table: FamilyTable, port: PortName) -> str:
    """Return the name of the set of the ports with a name."""
    return table.set_name("n", f"{port.protocol.lower()}-{port.name}")


def block_set(table: FamilyTable, ranges: Sequence[str]) -> str:
    """Return the name of the set of ranges of addresses."""
    return table.set_name("b", digest(*ranges))


def _peers(table: FamilyTable, peer: str, entry: PolicyRule) -> Iterator[str]:
    """Yield the matches of the peers of a rule, of which one has to match."""
    if entry.is_any_peer:
        yield ""
        return
    yield from _addresses(table, peer, entry.groups, entry.ranges_of(table.version))


def _addresses(
    table: FamilyTable, part: str, groups: Sequence[PodGroup], ranges: Sequence[str]
) -> Iterator[str]:
    if is_everything(ranges):
        yield ""
        return
    for name in _set_names(table, groups, ranges):
        yield f" -m set --match-set {name} {part}"


def _set_names(
    table: FamilyTable, groups: Sequence[PodGroup], ranges: Sequence[str]
) -> Iterator[str]:
    yield from (group_set(table, each) for each in groups)
    if ranges:
        yield block_set(table, ranges)


def _ports(table: FamilyTable, entry: PolicyRule) -> Iterator[str]:
    """Yield the matches of the ports of a rule, of which one has to match."""
    if entry.is_any_port:
        yield ""
    for protocol, ports in ports_by_protocol(entry).items():
        if not ports:
            yield f"-p {protocol} "
        for part in _multiport_parts(ports):
            yield f"-p {protocol} -m multiport --dports {part} "
    for name in entry.port_names:
        yield f"-m set --match-set {port_set(table, name)} dst,dst "


def _multiport_parts(ports: Sequence[PortRange]) -> Iterator[str]:
    """Yield lists of ports, each as long as one match of `multiport` may be."""
    part: list[str] = []
    used = 0
    for port in ports:
        count = 1 if port.first == port.last else 2
        if used + count > MAX_MATCHED_PORTS:
            yield ",".join(part)
            part, used = [], 0
        part.append(port_text(port, ":"))
        used += count
    if part:
        yield ",".join(part)


def _alternatives(table: FamilyTable, condition: Condition) -> Iterator[_Match]:
    """Yield the matches of which one has to match, so that a condition is met."""
    match condition:
        case AddressIn(end, groups):
            ranges = condition.ranges_of(table.version)
            if not condition.is_negated:
                yield from (("", text) for text in _addresses(table, _PARTS[end], groups, ranges))
            elif not is_everything(ranges):
                names = _set_names(table, groups, ranges)
                yield (
                    "",
                    "".join(f" -m set ! --match-set {name} {_PARTS[end]}" for name in names),
                )
        case PortIn():
            yield from (("", text) for text in _port_alternatives(table, condition))
        case ProtocolIs(number, is_negated):
            name = "ipv6-icmp" if number == _ICMPV6 else PROTOCOL_NAMES.get(number, str(number))
            yield f"{'! ' if is_negated else ''}-p {name} ", ""
        case ICMPIs(type_, code, is_negated):
            module, option = _ICMP[table.version].split()
            message = str(type_) if code is None else f"{type_}/{code}"
            yield "", f" -m {module}{' !' if is_negated else ''} {option} {message}"
        case EndpointIn(endpoints):
            for protocol, port, addresses in endpoints:
                if hosts := _hosts(table.version, addresses):
                    yield (
                        f"-p {protocol.lower()} -m multiport --dports {port} ",
                        f" -m set --match-set {block_set(table, hosts)} dst",
                    )


def _port_alternatives(table: FamilyTable, condition: PortIn) -> Iterator[str]:
    part, option = _PARTS[condition.end], _PORT_OPTIONS[condition.end]
    parts = list(_multiport_parts([PortRange("TCP", *limits) for limits in condition.ranges]))
    names = [f"{port_set(table, name)} {part},{part}" for name in condition.names]
    if condition.is_negated:
        ranges = "".join(f" -m multiport ! {option} {each}" for each in parts)
        yield ranges + "".join(f" -m set ! --match-set {name}" for name in names)
        return
    yield from (f" -m multiport {option} {each}" for each in parts)
    yield from (f" -m set --match-set {name}" for name in names)


def _hosts(version: int, addresses: Sequence[str]) -> tuple[str, ...]:
    """Return the ranges of single addresses, of one IP version."""
    length = 32 if version == 4 else 128
    return tuple(f"{each}/{length}" for each in addresses if (":" in each) == (version == 6))
