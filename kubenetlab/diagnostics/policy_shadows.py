"""NetworkPolicies and rules that allow nothing which other policies or rules do not allow.

Selectors are compared as they are written, and not by the pods that they match now: a policy is
redundant only if it stays so with every other set of pods. A comparison that would need more than
one other rule is not made, so that a redundant policy may remain unnoticed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network
from itertools import islice
from typing import TypeVar

from kubenetlab.api.meta import LabelSelector, LabelSelectorRequirement, matches_labels
from kubenetlab.api.object_map import ObjectKey
from kubenetlab.api.policies.network_policy import (
    IPBlock,
    NetworkPolicy,
    NetworkPolicyPeer,
    NetworkPolicyPort,
    PeersAndPorts,
)
from kubenetlab.api.values import ip
from kubenetlab.diagnostics.policy_pods import MAX_COMPARED, Pair, PairIndex

T = TypeVar("T")


def shadowing_policies(
    policies: Sequence[NetworkPolicy],
) -> Mapping[ObjectKey, list[NetworkPolicy]]:
    """Return the policies that could be deleted without effect, each with those that replace it.

    Of two equal policies, the later one is redundant. Policies without rules are left out: they
    isolate pods that do not exist yet.
    """
    indexes: dict[str, PairIndex[NetworkPolicy]] = {}
    """Policies of each namespace."""
    for policy in policies:
        index = indexes.setdefault(policy.namespace, PairIndex())
        index.add(policy.spec.pod_selector.match_labels.items(), policy)
    result: dict[ObjectKey, list[NetworkPolicy]] = {}
    for policy in reversed(policies):
        if not (policy.spec.ingress or policy.spec.egress):
            continue
        selecting = _selecting_all(policy, indexes[policy.namespace])
        others = (other for other in selecting if other.key not in result)
        replacing = _replacing(policy, list(islice(others, MAX_COMPARED)))
        if replacing:
            result[policy.key] = replacing
    return result


def covering_rule(
    rules: Sequence[T], index: int, is_covering: Callable[[T, T], bool]
) -> int | None:
    """Return the number of another rule that covers a rule; None if there is none.

    Of two rules that cover each other, only the later one is covered.

    is_covering: returns True if the first rule covers the second one.
    """
    rule = rules[index]
    for number, other in enumerate(rules):
        if (
            number != index
            and is_covering(other, rule)
            and (number < index or not is_covering(rule, other))
        ):
            return number
    return None


def _selecting_all(
    policy: NetworkPolicy, index: PairIndex[NetworkPolicy]
) -> Iterator[NetworkPolicy]:
    """Yield the other policies of an index that select all pods that a policy selects."""
    selector = policy.spec.pod_selector
    for other in index.matching((*selector.match_labels.items(), *single_values(selector))):
        if other is not policy and selects_all(other.spec.pod_selector, selector):
            yield other


def _replacing(policy: NetworkPolicy, others: Sequence[NetworkPolicy]) -> list[NetworkPolicy]:
    """Return policies that isolate the same pods and allow the same; empty if there are none."""
    used: dict[ObjectKey, NetworkPolicy] = {}
    for direction in policy.directions:
        isolating = [other for other in others if direction in other.directions]
        if not isolating:
            return []
        rules = list(policy.spec.rules(direction))
        if not rules and not any(direction in other.directions for other in used.values()):
            used[isolating[0].key] = isolating[0]
        for rule in rules:
            other = next(
                (
                    other
                    for other in isolating
                    if any(covers(candidate, rule) for candidate in other.spec.rules(direction))
                ),
                None,
            )
            if other is None:
                return []
            used[other.key] = other
    return list(used.values())


def covers(rule: PeersAndPorts, other: PeersAndPorts) -> bool:
    """Return True if a rule allows everything that another one allows."""
    peers, ports = rule
    other_peers, other_ports = other
    has_peers = not peers or (
        bool(other_peers)
        and all(any(_has_peer(peer, inner) for peer in peers) for inner in other_peers)
    )
    return has_peers and (
        not ports
        or (
            bool(other_ports)
            and all(any(_has_port(port, inner) for port in ports) for inner in other_ports)
        )
    )


def _has_peer(peer: NetworkPolicyPeer, other: NetworkPolicyPeer) -> bool:
    """Return True if a peer matches everything that another one matches."""
    if peer.ip_block is not None or other.ip_block is not None:
        return (
            peer.ip_block is not None
            and other.ip_block is not None
            and has_block(peer.ip_block, other.ip_block)
        )
    if peer.namespace_selector is None or other.namespace_selector is None:
        # Without a selector it is the policy's own namespace, whose labels are unknown here.
        is_namespace = (
            other.namespace_selector is None
            if peer.namespace_selector is None
            else selects_all(peer.namespace_selector, LabelSelector())
        )
    else:
        is_namespace = selects_all(peer.namespace_selector, other.namespace_selector)
    return is_namespace and selects_all(
        peer.pod_selector or LabelSelector(), other.pod_selector or LabelSelector()
    )


def has_block(block: IPBlock, other: IPBlock) -> bool:
    """Return True if a range contains all addresses of another one."""
    outer, inner = ip.range_of(block.cidr), ip.range_of(other.cidr)
    if outer is None or inner is None or not ip.is_part(inner, outer):
        return False
    holes = _ranges(block.except_)
    other_holes = _ranges(other.except_)
    return all(
        not (ip.is_part(hole, inner) or ip.is_part(inner, hole))
        or any(ip.is_part(hole, known) for known in other_holes)
        for hole in holes
    )


def _ranges(texts: Iterable[str]) -> list[IPv4Network | IPv6Network]:
    return [range_ for text in texts if (range_ := ip.range_of(text)) is not None]


def _has_port(port: NetworkPolicyPort, other: NetworkPolicyPort) -> bool:
    """Return True if an entry allows all ports of another one."""
    if port.protocol != other.protocol:
        return False
    if port.port is None:
        return True
    if isinstance(port.port, str) or not isinstance(other.port, int):
        return port.port == other.port
    last, other_last = port.end_port or port.port, other.end_port or other.port
    return port.port <= other.port and other_last <= last


def selects_all(selector: LabelSelector, other: LabelSelector) -> bool:
    """Return True if the requirements of `other` imply those of a selector."""
    known = {**other.match_labels, **dict(single_values(other))}
    return matches_labels(selector.match_labels, known) and all(
        _is_implied(requirement, known, other.match_expressions)
        for requirement in selector.match_expressions
    )


def single_values(selector: LabelSelector) -> Iterator[Pair]:
    """Yield the labels that expressions with one value require."""
    for requirement in selector.match_expressions:
        if requirement.operator == "In" and len(requirement.values) == 1:
            yield requirement.key, requirement.values[0]


def _is_implied(
    requirement: LabelSelectorRequirement,
    known: Mapping[str, str],
    requirements: Sequence[LabelSelectorRequirement],
) -> bool:
    """Return True if labels that are known, or other requirements, imply a requirement."""
    key, values = requirement.key, set(requirement.values)
    if key in known:
        return LabelSelector(match_expressions=(requirement,)).matches(known)
    same_key = [other for other in requirements if other.key == key]
    match requirement.operator:
        case "In":
            return any(
                other.operator == "In" and values.issuperset(other.values) for other in same_key
            )
        case "NotIn":
            return any(
                (other.operator == "NotIn" and values.issubset(other.values))
                or (other.operator == "In" and values.isdisjoint(other.values))
                or other.operator == "DoesNotExist"
                for other in same_key
            )
        case "Exists":
            return any(other.operator in ("In", "Exists") for other in same_key)
        case "DoesNotExist":
            return any(other.operator == "DoesNotExist" for other in same_key)
