"""Verdicts of a set of policies about one peer, as prefixes of protocols and ports.

All stages and rules are resolved here. The result is one table for each peer, in which the longest
prefix that matches a packet has the verdict.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Final, Literal, NamedTuple

import msgspec
from msgspec import Struct

from kubenetlab.api.containers import MAX_PORT, Protocol
from kubenetlab.api.policies.network_policy import Direction
from kubenetlab.datapath.policy.common import isolation_reason, log_prefix, rule_comment
from kubenetlab.datapath.policy.conditions import ICMPIs
from kubenetlab.datapath.policy.members import NamedPort, PodGroup
from kubenetlab.datapath.policy.rules import IsolatingPolicy, PolicyRule, PortName
from kubenetlab.datapath.policy.stages import Stage, stages

PROTOCOLS: Final[tuple[Protocol, ...]] = ("TCP", "UDP", "SCTP")
ICMP_NAMES: Final = {4: "ICMP", 6: "ICMPv6"}
"""IP version → protocol of its messages."""
PORT_BITS: Final = 16
Exemption = Literal["itself", "own node"] | None
"""Reason why NetworkPolicies do not apply: the pod connects to itself by a Service, or to its node.

Verdicts about the pod itself are those about its node, too, unless the policies know it.
"""


class PolicySet(Struct, frozen=True, dict=True):
    """Policies of some pods in one direction."""

    direction: Direction
    policies: tuple[IsolatingPolicy, ...]
    named_ports: tuple[NamedPort, ...] = ()
    """Ports of the pods that rules for ingress refer to by name."""

    @cached_property
    def text(self) -> str:
        """Text that is different for different policies: the maps know them by its digest."""
        content = msgspec.json.encode((self.policies, self.named_ports))
        return f"{self.direction} {hashlib.sha256(content).hexdigest()}"

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        return stages(self.policies, self.direction)

    @cached_property
    def has_tiers(self) -> bool:
        """True if some policies apply to connections of a pod to itself and to its own node."""
        return not all(stage.spares_own_node for stage in self.stages)

    @cached_property
    def knows_own_node(self) -> bool:
        """True if other policies apply to connections to the own node than to the pod itself."""
        return any(stage.for_itself != stage.for_own_node for stage in self.stages)

    @property
    def rules(self) -> Iterator[PolicyRule]:
        return (rule for policy in self.policies for rule in policy.rules)

    @cached_property
    def rules_with_ranges(self) -> tuple[PolicyRule, ...]:
        return tuple(rule for rule in self.rules if rule.ranges)

    @cached_property
    def groups(self) -> tuple[PodGroup, ...]:
        """Groups of pods that rules refer to."""
        return tuple(dict.fromkeys(group for rule in self.rules for group in rule.groups))

    @cached_property
    def destination_names(self) -> tuple[PortName, ...]:
        """Names of ports of other pods that rules refer to."""
        if self.direction == "Ingress":
            return ()
        return tuple(dict.fromkeys(name for rule in self.rules for name in rule.port_names))


class Verdict(NamedTuple):
    """Decision about a packet."""

    is_denied: bool
    rule: str
    """Rule that decides, or the policies that isolate the pod; empty if none does."""


class PortVerdict(NamedTuple):
    """Verdict about one prefix of ports."""

    protocol: str | None
    """TCP, UDP, SCTP, ICMP or ICMPv6; None for every protocol."""
    port: int
    """Port, or type of ICMP messages."""
    prefix_length: int
    """Number of bits of the port that have to match; 0 for every port."""
    verdict: Verdict


class Peer(NamedTuple):
    """Functions that say which rules concern a peer."""

    matches: Callable[[PolicyRule], bool]
    """Return True if the peer is one of the rule's."""
    ports_named: Callable[[PortName], Iterable[int]]
    """Return the numbers of the destination's ports with a name."""


_ALLOWED: Final = Verdict(is_denied=False, rule="")


class _Rule(NamedTuple):
    """A rule that concerns the peer."""

    is_any_port: bool
    ports: Mapping[str, Sequence[tuple[int, int]]]
    """Ports by protocol; types of messages of ICMP."""
    action: str
    verdict: Verdict

    def has(self, protocol: str | None, port: int) -> bool:
        if self.is_any_port:
            return True
        if protocol is None:
            return False
        return any(first <= port <= last for first, last in self.ports.get(protocol, ()))


class _StageRules(NamedTuple):
    """Rules of a stage that concern the peer."""

    rules: tuple[_Rule, ...]
    unmatched: Verdict | None
    """Verdict about packets that no rule matches; None if the next stage follows."""


def port_verdicts(
    policies: PolicySet, peer: Peer, exemption: Exemption = None
) -> tuple[PortVerdict, ...]:
    """Return the verdicts about a peer, the longest prefixes first. They cover every packet."""
    in_order = tuple(_stage_rules(stage, peer, exemption) for stage in policies.stages)

    def decide(protocol: str | None, port: int) -> Verdict:
        for stage in in_order:
            matching = (rule for rule in stage.rules if rule.has(protocol, port))
            decision = next(matching, None)
            if decision is None and stage.unmatched is not None:
                return stage.unmatched
            if decision is not None and decision.action != "Pass":
                return decision.verdict
        return _ALLOWED

    others = decide(None, 0)
    result = [PortVerdict(None, 0, 0, others)]
    for protocol in (*PROTOCOLS, *ICMP_NAMES.values()):
        ranges = (
            limits
            for stage in in_order
            for rule in stage.rules
            for limits in rule.ports.get(protocol, ())
        )
        starts = sorted({0, *(start for first, last in ranges for start in (first, last + 1))})
        starts = [start for start in starts if start <= MAX_PORT]
        sections = [
            (first, following - 1, decide(protocol, first))
            for first, following in zip(starts, (*starts[1:], MAX_PORT + 1), strict=True)
        ]
        result += _prefixes(protocol, sections, others)
    return tuple(sorted(result, key=_length, reverse=True))


def _length(entry: PortVerdict) -> int:
    """Return the length of the whole prefix: the protocol comes before the port."""
    return -1 if entry.protocol is None else entry.prefix_length


def _stage_rules(stage: Stage, peer: Peer, exemption: Exemption) -> _StageRules:
    policies = stage.policies
    if exemption is not None:
        policies = stage.for_itself if exemption == "itself" else stage.for_own_node
    isolating = [policy for policy in policies if policy.isolates]
    unmatched = _ALLOWED if stage.isolates else None
    if isolating:
        unmatched = Verdict(is_denied=True, rule=log_prefix(isolation_reason(isolating)))
    return _StageRules(tuple(_rules(policies, peer)), unmatched)


def _rules(policies: Sequence[IsolatingPolicy], peer: Peer) -> Iterator[_Rule]:
    """Yield the rules of a stage that decide about the peer, in order."""
    for policy in policies:
        for entry in policy.rules:
            if entry.action == "Log" or not peer.matches(entry):
                continue
            ports: dict[str, list[tuple[int, int]]] = {}
            for port in entry.ports:
                ports.setdefault(port.protocol, []).append((port.first, port.last))
            for name in entry.port_names:
                numbers = ((number, number) for number in peer.ports_named(name))
                ports.setdefault(name.protocol, []).extend(numbers)
            comment = rule_comment(policy, entry)
            messages = [each.type for each in entry.conditions if isinstance(each, ICMPIs)]
            for number in messages:
                ports.setdefault(ICMP_NAMES[entry.versions[0]], []).append((number, number))
            verdict = Verdict(entry.action == "Deny", comment)
            yield _Rule(entry.is_any_port and not messages, ports, entry.action, verdict)


def _prefixes(
    protocol: str, sections: Sequence[tuple[int, int, Verdict]], others: Verdict
) -> Iterator[PortVerdict]:
    """Yield the verdicts about a protocol, without those that a shorter prefix has."""
    widths: Counter[Verdict] = Counter()
    for first, last, verdict in sections:
        widths[verdict] += last + 1 - first
    usual = others if others in widths else max(widths, key=lambda verdict: widths[verdict])
    if usual != others:
        yield PortVerdict(protocol, 0, 0, usual)
    for first, last, verdict in sections:
        if verdict != usual:
            for port, length in port_prefixes(first, last):
                yield PortVerdict(protocol, port, length, verdict)


def port_prefixes(first: int, last: int) -> Iterator[tuple[int, int]]:
    """Yield a range of ports as prefixes: the first port, and the number of bits that match."""
    while first <= last:
        bits = (first & -first).bit_length() - 1 if first else PORT_BITS
        while first + (1 << bits) - 1 > last:
            bits -= 1
        yield first, PORT_BITS - bits
        first += 1 << bits
