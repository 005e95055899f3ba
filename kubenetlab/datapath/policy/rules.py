"""Rules of policies without selectors: groups of pods, ranges of addresses, and ports.

A connection of a pod passes, in each direction, the policies that apply to the pod. They are in
tiers, which come one after another (`stages.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from ipaddress import IPv4Network, IPv6Network, collapse_addresses
from typing import Final, Literal, TypeVar

from msgspec import Struct

from kubenetlab.api.containers import MAX_PORT
from kubenetlab.api.policies.cilium_rules import CILIUM_KINDS
from kubenetlab.api.policies.cluster_network_policy import Action
from kubenetlab.api.policies.network_policy import (
    Direction,
    IPBlock,
    NetworkPolicy,
    NetworkPolicyPeer,
    NetworkPolicyPort,
)
from kubenetlab.api.values import ip
from kubenetlab.datapath.policy.conditions import Condition, groups_in, port_names_in
from kubenetlab.datapath.policy.conditions import PortName as PortName
from kubenetlab.datapath.policy.conditions import PortRange as PortRange
from kubenetlab.datapath.policy.members import PodGroup

N = TypeVar("N", IPv4Network, IPv6Network)
RuleAction = Action | Literal["Log"]
"""Action of a rule. Log: the packet is logged, and the next rule follows."""

_CILIUM_KINDS: Final = tuple(kind.kind for kind in CILIUM_KINDS)
NETWORK_POLICY_ORDER: Final = 1000.0
"""Place of NetworkPolicies in their tier, as in Calico."""


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
    action: RuleAction = "Accept"
    """Rules of NetworkPolicies always accept."""
    versions: tuple[int, ...] = (4, 6)
    """IP versions of the packets that can match."""
    conditions: tuple[Condition, ...] = ()
    """Further conditions, all of which have to be met."""

    @property
    def all_groups(self) -> tuple[PodGroup, ...]:
        """Groups of pods to which the rule refers."""
        return (*self.groups, *groups_in(self.conditions))

    @property
    def all_port_names(self) -> tuple[PortName, ...]:
        """Named ports to which the rule refers."""
        return (*self.port_names, *port_names_in(self.conditions))

    def ranges_of(self, version: int) -> tuple[str, ...]:
        """Return the ranges of one IP version."""
        return ip.of_version(self.ranges, version)


class PolicyTier(Struct, frozen=True, order=True):
    """Place of policies in the order of evaluation."""

    order: float
    """Tiers with lower numbers come first."""
    name: str


ADMIN: Final = PolicyTier(1_000, "Admin")
DEFAULT: Final = PolicyTier(1_000_000, "default")
"""Tier of NetworkPolicies, and of other policies that belong to no tier."""
BASELINE: Final = PolicyTier(10_000_000, "Baseline")


class IsolatingPolicy(Struct, frozen=True):
    """One direction of a policy."""

    name: str
    """`namespace/name`; the name alone if it belongs to no namespace."""
    direction: Direction
    subjects: PodGroup
    """Pods to which the policy applies."""
    rules: tuple[PolicyRule, ...]
    """Rules, in order. The first that matches decides in the tier, unless it only logs."""
    kind: str = NetworkPolicy.kind
    """Kind of the object."""
    tier: PolicyTier = DEFAULT
    priority: float = NETWORK_POLICY_ORDER
    """Place in the order of the tier; the lowest comes first."""
    isolates: bool = True
    """True if connections of the subjects that no rule of the tier matches are denied."""

    @property
    def title(self) -> str:
        """Name for comments of rules, with the kind if it is not NetworkPolicy."""
        return self.name if self.spares_own_node else f"{self.kind} {self.name}"

    @property
    def spares_own_node(self) -> bool:
        """True if connections of a pod to itself and to its own node are not isolated."""
        return self.kind == NetworkPolicy.kind

    @property
    def spares_itself(self) -> bool:
        """True if connections of a pod to itself, by a Service, are not isolated."""
        return self.spares_own_node or self.kind in _CILIUM_KINDS

    @property
    def passes(self) -> bool:
        """True if a rule leads to the next tier."""
        return any(rule.action == "Pass" for rule in self.rules)


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
                for index, (peers, ports) in enumerate(policy.spec.rules(direction))
            ),
        )
        for direction in sorted(set(policy.directions), reverse=True)
    )


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
