"""Cilium's policies without selectors: groups of pods, ranges of addresses, and ports.

Rules that deny come first in the tier of NetworkPolicies, rules that allow are united with those of
NetworkPolicies. Selectors by Cilium's labels become selectors of pods and of namespaces
(`cilium_groups.py`), entities become groups and ranges (`cilium_peers.py`).

Source: cilium/cilium pkg/policy (1.18).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from kubenetlab.api.policies.cilium_network_policy import CiliumPolicy
from kubenetlab.api.policies.cilium_rules import (
    AnyCiliumRule,
    CiliumSection,
    icmp_fields,
    icmp_type,
    numbers_of,
    ports,
    protocols_of,
    sections,
)
from kubenetlab.api.policies.network_policy import IPBlock
from kubenetlab.datapath.policy import cilium_groups
from kubenetlab.datapath.policy.cilium_peers import CiliumObjects, peers_of
from kubenetlab.datapath.policy.conditions import (
    Condition,
    ICMPIs,
    PortName,
    PortRange,
    ProtocolIs,
)
from kubenetlab.datapath.policy.rules import (
    NETWORK_POLICY_ORDER,
    IsolatingPolicy,
    PolicyRule,
    disjoint_ranges,
    merged_ports,
)

DENY_ORDER: Final = -1.0
"""Place of rules that deny in their tier: before all that allow."""
_ICMP: Final = {"IPv4": (4, 1), "IPv6": (6, 58)}
"""Family of ICMP messages → IP version, and number of the protocol."""


def of_cilium(policy: CiliumPolicy, objects: CiliumObjects) -> tuple[IsolatingPolicy, ...]:
    """Return the lists of rules of a policy; none if it applies to no pod."""
    return tuple(
        IsolatingPolicy(
            f"{policy.full_name}{section.suffix}",
            section.direction,
            subjects,
            tuple(
                each
                for index, rule in enumerate(section.rules)
                for each in _rules(policy, section, index, rule, objects)
            ),
            policy.kind,
            priority=DENY_ORDER if section.is_deny else NETWORK_POLICY_ORDER,
            isolates=section.isolates,
        )
        for section in sections(policy)
        if (subjects := cilium_groups.subjects(section.subjects, policy.namespace)) is not None
    )


def _rules(
    policy: CiliumPolicy,
    section: CiliumSection,
    index: int,
    rule: AnyCiliumRule,
    objects: CiliumObjects,
) -> Iterator[PolicyRule]:
    """Yield the rules for one rule: one for each type of ICMP messages and kind of peers."""
    for peers in peers_of(policy, rule, objects):
        for versions, conditions in _messages(rule):
            yield PolicyRule(
                index,
                peers.is_any,
                peers.groups,
                tuple(disjoint_ranges([IPBlock(cidr) for cidr in peers.ranges])),
                is_any_port=not rule.to_ports,
                ports=tuple(merged_ports([*_numbers(rule)])),
                port_names=tuple(sorted(set(_names(rule)))),
                action="Deny" if section.is_deny else "Accept",
                versions=versions,
                conditions=(*peers.conditions, *conditions),
            )


def _messages(
    rule: AnyCiliumRule,
) -> Iterator[tuple[tuple[int, ...], tuple[Condition, ...]]]:
    """Yield IP versions and conditions for each type of ICMP messages; one without any."""
    if not rule.icmps:
        yield (4, 6), ()
    for field in icmp_fields(rule):
        version, protocol = _ICMP[field.family]
        if (number := icmp_type(field)) is not None:
            yield (version,), (ProtocolIs(protocol), ICMPIs(number))


def _numbers(rule: AnyCiliumRule) -> Iterator[PortRange]:
    for entry in ports(rule):
        if (limits := numbers_of(entry)) is not None:
            yield from (PortRange(protocol, *limits) for protocol in protocols_of(entry))


def _names(rule: AnyCiliumRule) -> Iterator[PortName]:
    for entry in ports(rule):
        if numbers_of(entry) is None:
            name = entry.port.lower()
            yield from (PortName(protocol, name) for protocol in protocols_of(entry))
