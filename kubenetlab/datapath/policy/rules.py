"""Rules of policies without selectors: groups of pods, ranges of addresses, and ports.

The connections of a pod in one direction pass three stages: the policies of the tier Admin, the
NetworkPolicies that isolate the pod, and the policies of the tier Baseline (`stages`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from ipaddress import IPv4Network, IPv6Network, collapse_addresses
from typing import TypeVar

from msgspec import Struct

from kubenetlab.api.containers import MAX_PORT, Protocol
from kubenetlab.api.policies.cluster_network_policy import Action, Tier
from kubenetlab.api.policies.network_policy import (
    Direction,
    IPBlock,
    NetworkPolicy,
    NetworkPolicyPeer,
    NetworkPolicyPort,
)
from kubenetlab.api.values import ip
from kubenetlab.datapath.policy.members import PodGroup

N = TypeVar("N", IPv4Network, IPv6Network)


class PortRange(Struct, frozen=True, order=True):
    """Ports of the destination, by number."""

    protocol: Protocol
    first: int
    last: int

    @property
    def is_all(self) -> bool:
        return (self.first, self.last) == (0, MAX_PORT)


class PortName(Struct, frozen=True, order=True):
    """Port of the destination pod, by name."""

    protocol: Protocol
    name: str


class PolicyRule(Struct, frozen=True):
    """Connections that match a peer and a port, and the action for them."""

    index: int
    """Number of the rule in its list, from 0."""
    is_any_peer: bool
    """True if all hosts are peers."""
    groups: tuple[PodGroup, ...]
    """Pods that are peers."""
    ranges: tuple[str, ...]
    """Ranges of addresses that are peers, of both IP versions."""
    is_any_port: bool
    """True if all ports and protocols are allowed, also those without ports."""
    ports: tuple[PortRange, ...]
    port_names: tuple[PortName, ...]
    action: Action = "Accept"
    """Rules of NetworkPolicies always accept."""

    def ranges_of(self, version: int) -> tuple[str, ...]:
        """Return the ranges of one IP version."""
        return tuple(cidr for cidr in self.ranges if ip.version_of(cidr) == version)


class IsolatingPolicy(Struct, frozen=True):
    """One direction of a NetworkPolicy, which isolates pods, or of a policy of a tier."""

    name: str
    """`namespace/name`; the name alone in a tier."""
    direction: Direction
    subjects: PodGroup
    """Pods to which the policy applies."""
    rules: tuple[PolicyRule, ...]
    """Rules; in a tier the first that matches decides."""
    kind: str = "NetworkPolicy"
    """Kind of the object."""
    tier: Tier | None = None
    """Tier of the policy; None for a NetworkPolicy."""
    priority: int = 0
    """Place in the order of the tier; the lowest comes first."""

    @property
    def title(self) -> str:
        """Name for comments of rules, with the kind if it is not NetworkPolicy."""
        return self.name if self.tier is None else f"{self.kind} {self.name}"


class Stages(Struct, frozen=True):
    """Policies of one pod in one direction, by the stages in which they are evaluated."""

    admin: tuple[IsolatingPolicy, ...]
    """In order: Accept and Deny decide, Pass and no match lead to the next stage."""
    isolating: tuple[IsolatingPolicy, ...]
    """NetworkPolicies. If there are any, a connection that none of them allows is denied."""
    baseline: tuple[IsolatingPolicy, ...]
    """In order: Deny denies, anything else is allowed. Empty if NetworkPolicies isolate the pod."""


def stages(policies: Iterable[IsolatingPolicy], direction: Direction) -> Stages:
    """Return the stages of a pod to which some policies apply, given in any order."""
    by_tier: dict[Tier | None, list[IsolatingPolicy]] = {}
    for policy in policies:
        if policy.direction == direction:
            by_tier.setdefault(policy.tier, []).append(policy)
    isolating = tuple(by_tier.get(None, ()))
    return Stages(
        _in_order(by_tier.get("Admin", ())),
        isolating,
        () if isolating else _in_order(by_tier.get("Baseline", ())),
    )


def _in_order(policies: Iterable[IsolatingPolicy]) -> tuple[IsolatingPolicy, ...]:
    """Return policies of a tier in order; names decide between equal priorities."""
    return tuple(sorted(policies, key=lambda policy: (policy.priority, policy.name, policy.kind)))


def isolating(policy: NetworkPolicy) -> tuple[IsolatingPolicy, ...]:
    """Return a policy in the directions in which it isolates pods."""
    subjects = PodGroup.of(policy.namespace, policy.spec.pod_selector)
    return tuple(
        IsolatingPolicy(
            f"{policy.namespace}/{policy.name}",
            direction,
            subjects,
            tuple(
                _rule(policy.namespace, index, peers, ports)
                for index, (peers, ports) in enumerate(_rules(policy, direction))
            ),
        )
        for direction in sorted(set(policy.directions), reverse=True)
    )


def _rules(
    policy: NetworkPolicy, direction: Direction
) -> Iterator[tuple[Sequence[NetworkPolicyPeer], Sequence[NetworkPolicyPort]]]:
    if direction == "Ingress":
        yield from ((rule.from_, rule.ports) for rule in policy.spec.ingress)
    else:
        yield from ((rule.to, rule.ports) for rule in policy.spec.egress)


def _rule(
    namespace: str,
    index: int,
    peers: Sequence[NetworkPolicyPeer],
    ports: Sequence[NetworkPolicyPort],
) -> PolicyRule:
    groups = (
        PodGroup.of(namespace, peer.pod_selector, peer.namespace_selector)
        for peer in peers
        if peer.ip_block is None
    )
    blocks = [peer.ip_block for peer in peers if peer.ip_block is not None]
    numbers, names = [], []
    for port in ports:
        if isinstance(port.port, str):
            names.append(PortName(port.protocol, port.port))
        else:
            first = port.port or 0
            last = MAX_PORT if port.port is None else port.end_port or first
            numbers.append(PortRange(port.protocol, first, last))
    return PolicyRule(
        index,
        not peers,
        tuple(dict.fromkeys(groups)),
        tuple(disjoint_ranges(blocks)),
        not ports,
        tuple(merged_ports(numbers)),
        tuple(sorted(set(names))),
    )


def disjoint_ranges(blocks: Sequence[IPBlock]) -> Iterator[str]:
    """Yield the union of blocks, each without its exceptions, as disjoint ranges."""
    of_version = {
        version: [block for block in blocks if ip.version_of(block.cidr) == version]
        for version in (4, 6)
    }
    yield from _union(of_version[4], partial(IPv4Network, strict=False))
    yield from _union(of_version[6], partial(IPv6Network, strict=False))


def _union(blocks: Sequence[IPBlock], parse: Callable[[str], N]) -> Iterator[str]:
    parts: list[N] = []
    for block in blocks:
        remaining = [parse(block.cidr)]
        for hole in map(parse, block.except_):
            remaining = [rest for part in remaining for rest in _difference(part, hole)]
        parts += remaining
    yield from map(str, collapse_addresses(parts))


def _difference(whole: N, hole: N) -> Iterator[N]:
    """Yield the parts of a range that are not in another one."""
    if hole.subnet_of(whole):
        yield from whole.address_exclude(hole)
    elif not whole.subnet_of(hole):
        yield whole


def merged_ports(ranges: Sequence[PortRange]) -> Iterator[PortRange]:
    """Yield the union of ranges of ports as disjoint ranges, in order."""
    current: PortRange | None = None
    for entry in sorted(ranges):
        if current is None:
            current = entry
        elif entry.protocol == current.protocol and entry.first <= current.last + 1:
            last = max(current.last, entry.last)
            current = PortRange(current.protocol, current.first, last)
        else:
            yield current
            current = entry
    if current is not None:
        yield current
