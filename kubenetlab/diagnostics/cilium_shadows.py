"""Rules of Cilium's policies that have no effect beside other rules.

Selectors and ranges are compared as they are written, and not by the pods that they match now.
Rules about requests, TLS or authentication are compared with none: they may have other effects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from msgspec import Struct

from kubenetlab.api.containers import MAX_PORT
from kubenetlab.api.meta import LabelSelector
from kubenetlab.api.policies.cilium_labels import (
    NAMESPACE_KEY,
    peer_selector,
    reserved_peers,
    subjects_selector,
)
from kubenetlab.api.policies.cilium_network_policy import (
    CiliumCIDRRule,
    CiliumEgressDenyRule,
    CiliumEgressRule,
    CiliumFQDNSelector,
    CiliumIngressRule,
    CiliumPolicy,
    CiliumPortProtocol,
    CiliumPortRule,
    CiliumService,
)
from kubenetlab.api.policies.cilium_rules import (
    AnyCiliumRule,
    CiliumSection,
    has_peers,
    has_traffic,
    icmp_fields,
    icmp_type,
    numbers_of,
    ports,
    protocols_of,
    sections,
    specifications,
)
from kubenetlab.api.policies.network_policy import IPBlock
from kubenetlab.api.text.decode import format_path
from kubenetlab.api.values import ip
from kubenetlab.diagnostics.policy_pods import MAX_COMPARED, Pair, PairIndex
from kubenetlab.diagnostics.policy_shadows import (
    covering_rule,
    has_block,
    selects_all,
    single_values,
)


class Entity(Struct, frozen=True):
    """Peers without labels."""

    name: str


class Nodes(Struct, frozen=True):
    """Nodes by their labels."""

    selector: LabelSelector


class CIDRGroups(Struct, frozen=True):
    """Ranges of groups."""

    entry: CiliumCIDRRule


class ServicePeers(Struct, frozen=True):
    """Pods and addresses behind Services."""

    namespace: str
    """Namespace of a policy, which is the default one of Services by name."""
    service: CiliumService


Peer = LabelSelector | Entity | Nodes | IPBlock | CIDRGroups | ServicePeers | CiliumFQDNSelector
_INSIDE = (LabelSelector, Nodes)
"""Peers that are part of the entity cluster."""
_OUTSIDE = (IPBlock, CIDRGroups, CiliumFQDNSelector)
"""Peers that are part of the entity world."""
_PARTS = {
    "world": ("world-ipv4", "world-ipv6"),
    "cluster": ("host", "remote-node", "kube-apiserver"),
}
"""Entity → entities whose peers it has as well."""


def is_comparable(rule: AnyCiliumRule) -> bool:
    """Return True if a rule is about peers, ports and ICMP alone."""
    if isinstance(rule, CiliumEgressRule | CiliumEgressDenyRule):
        other = (rule.to_requires, rule.to_groups)
    else:
        other = (rule.from_requires, rule.from_groups)
    if any(each is not None for each in other):
        return False
    if not isinstance(rule, CiliumIngressRule | CiliumEgressRule):
        return True
    is_open = rule.authentication is None or rule.authentication.mode == "disabled"
    return is_open and not any(map(_is_about_requests, rule.to_ports))


def _is_about_requests(entry: CiliumPortRule) -> bool:
    others = (entry.rules, entry.terminating_tls, entry.originating_tls, entry.listener)
    return bool(entry.server_names) or any(each is not None for each in others)


def means_nothing(rule: AnyCiliumRule) -> bool:
    """Return True if a rule matches no connection, as it is written."""
    if has_peers(rule) is False:
        return True
    return has_traffic(rule) and not any(ports(rule)) and not any(icmp_fields(rule))


def covers(rule: AnyCiliumRule, namespace: str, other: AnyCiliumRule, of_other: str) -> bool:
    """Return True if a rule matches every connection that another one matches.

    namespace, of_other: namespaces of the policies with the rules; empty for all namespaces.
    """
    if not (is_comparable(rule) and is_comparable(other)) or means_nothing(rule):
        return False
    return _has_peers_of(rule, namespace, other, of_other) and _has_traffic_of(rule, other)


def _has_peers_of(rule: AnyCiliumRule, namespace: str, other: AnyCiliumRule, of_other: str) -> bool:
    if has_peers(rule) is None:
        return True
    own = list(_peers(rule, namespace))
    if Entity("all") in own:
        return True
    return has_peers(other) is True and all(
        any(_has_peer(peer, inner) for peer in own) for inner in _peers(other, of_other)
    )


def _peers(rule: AnyCiliumRule, namespace: str) -> Iterator[Peer]:
    if isinstance(rule, CiliumEgressRule | CiliumEgressDenyRule):
        endpoints, nodes, names = rule.to_endpoints, rule.to_nodes, rule.to_entities
        cidrs, entries = rule.to_cidr, rule.to_cidr_set
        yield from (ServicePeers(namespace, each) for each in rule.to_services or ())
    else:
        endpoints, nodes, names = rule.from_endpoints, rule.from_nodes, rule.from_entities
        cidrs, entries = rule.from_cidr, rule.from_cidr_set
    if isinstance(rule, CiliumEgressRule):
        yield from rule.to_fqdns or ()
    for selector in endpoints or ():
        reserved = reserved_peers(selector)
        if reserved is None:
            yield peer_selector(selector, namespace)
        else:
            # A combination that no peer has is an entity that no other one contains.
            yield from map(Entity, reserved or ("none",))
    yield from map(Nodes, nodes or ())
    yield from map(Entity, names or ())
    for cidr in cidrs or ():
        length = 32 if ip.version_of(cidr) == 4 else 128
        yield IPBlock(cidr if "/" in cidr else f"{cidr}/{length}")
    for entry in entries or ():
        yield IPBlock(entry.cidr, entry.except_) if entry.cidr else CIDRGroups(entry)


def _has_peer(peer: Peer, other: Peer) -> bool:
    """Return True if a peer contains another one."""
    if peer == other:
        return True
    match peer, other:
        case Entity(name), Entity(inner):
            return inner in _PARTS.get(name, ())
        case Entity("cluster"), _:
            return isinstance(other, _INSIDE)
        case Entity("world"), _:
            return isinstance(other, _OUTSIDE)
        case LabelSelector(), LabelSelector():
            return selects_all(peer, other)
        case Nodes(selector), Nodes(inner_selector):
            return selects_all(selector, inner_selector)
        case IPBlock(), IPBlock():
            return has_block(peer, other)
        case CIDRGroups(entry), CIDRGroups(inner_entry):
            is_same = (entry.cidr_group_ref, entry.cidr_group_selector) == (
                inner_entry.cidr_group_ref,
                inner_entry.cidr_group_selector,
            )
            return is_same and set(entry.except_) <= set(inner_entry.except_)
        case CiliumFQDNSelector(), CiliumFQDNSelector():
            return peer.match_pattern == "*"
    return False


def _has_traffic_of(rule: AnyCiliumRule, other: AnyCiliumRule) -> bool:
    """Return True if the ports, or the types of ICMP messages, of a rule contain those of another.

    A rule without both means all traffic.
    """
    if not has_traffic(rule):
        return True
    own = list(ports(rule))
    messages = {(each.family, icmp_type(each)) for each in icmp_fields(rule)}
    return (
        has_traffic(other)
        and all(any(_has_port(port, inner) for port in own) for inner in ports(other))
        and messages.issuperset((each.family, icmp_type(each)) for each in icmp_fields(other))
    )


def _has_port(port: CiliumPortProtocol, other: CiliumPortProtocol) -> bool:
    if not set(protocols_of(other)) <= set(protocols_of(port)):
        return False
    limits, inner = numbers_of(port), numbers_of(other)
    if limits is None or inner is None:
        return limits == (0, MAX_PORT) or (
            limits == inner and port.port.lower() == other.port.lower()
        )
    return limits[0] <= inner[0] and inner[1] <= limits[1]


class PolicyList(Struct, frozen=True):
    """A list of rules of a policy."""

    policy: CiliumPolicy
    section: CiliumSection
    subjects: LabelSelector

    @property
    def title(self) -> str:
        return f"{self.policy.title} {format_path(self.section.path)}"


class PolicyLists:
    """Lists of rules of all policies, by the labels that their subjects must have."""

    def __init__(self, policies: Sequence[CiliumPolicy]) -> None:
        self._of_policies: dict[str, list[PolicyList]] = {}
        self._index: PairIndex[PolicyList] = PairIndex()
        for policy in policies:
            own = self._of_policies.setdefault(policy.title, [])
            for section in sections(policy):
                subjects = subjects_selector(section.subjects, policy.namespace)
                own.append(PolicyList(policy, section, subjects))
                self._index.add(_pairs(subjects), own[-1])

    def of(self, policy: CiliumPolicy) -> Sequence[PolicyList]:
        """Return the lists of a policy."""
        return self._of_policies[policy.title]

    def containing(
        self, each: PolicyList, is_wanted: Callable[[PolicyList], bool]
    ) -> Iterator[PolicyList]:
        """Yield lists of the same direction whose subjects contain those of a list."""
        found = (
            other
            for other in self._index.matching(_pairs(each.subjects))
            if other.section.direction == each.section.direction
            and is_wanted(other)
            and selects_all(other.subjects, each.subjects)
        )
        return islice(found, MAX_COMPARED)


def _pairs(subjects: LabelSelector) -> list[Pair]:
    """Return the labels that a selector requires, those of pods before the namespace."""
    return sorted(single_values(subjects), key=lambda pair: pair[0] == NAMESPACE_KEY)


def redundancy(each: PolicyList, index: int, lists: PolicyLists) -> str:
    """Return the reason why a rule has no effect; empty if it may have one."""
    section, rule, namespace = each.section, each.section.rules[index], each.policy.namespace
    if means_nothing(rule) or not is_comparable(rule):
        return ""
    number = covering_rule(
        section.rules, index, lambda one, other: covers(one, namespace, other, namespace)
    )
    if number is not None:
        other_rule = format_path((*section.path, number))
        if section.is_deny:
            return f"it denies nothing that {other_rule} does not deny"
        return f"it allows nothing that {other_rule} does not allow"
    if not section.is_deny:
        for other in lists.containing(each, lambda other: other.section.is_deny):
            number = _number_of(other, each.policy, rule)
            if number is not None:
                where = format_path((*other.section.path, number))
                if other.policy is not each.policy:
                    where = f"{other.policy.title} {where}"
                return f"it has no effect: {where} denies all that it allows"
    return ""


def _number_of(each: PolicyList, policy: CiliumPolicy, rule: AnyCiliumRule) -> int | None:
    """Return the number of the first rule of a list that contains a rule of a policy."""
    return next(
        (
            number
            for number, candidate in enumerate(each.section.rules)
            if covers(candidate, each.policy.namespace, rule, policy.namespace)
        ),
        None,
    )


def shadowing(policies: Sequence[CiliumPolicy], lists: PolicyLists) -> dict[str, list[str]]:
    """Return titles of policies without effect, each with the titles of those that replace it.

    Of two equal policies, the later one is redundant. Policies without rules are left out: they
    isolate pods that do not exist yet.
    """
    result: dict[str, list[str]] = {}
    for policy in reversed(policies):
        own = lists.of(policy)
        has_nodes = any(rule.node_selector is not None for _, rule in specifications(policy))
        if has_nodes or not any(each.section.rules for each in own):
            continue
        replacing: list[str] = []
        for each in own:
            found = _replacing(each, lists, result)
            if found is None:
                break
            replacing += found
        else:
            if replacing:
                result[policy.title] = list(dict.fromkeys(replacing))
    return result


def _replacing(
    each: PolicyList, lists: PolicyLists, redundant: dict[str, list[str]]
) -> list[str] | None:
    """Return titles of policies that make a list redundant; None if it may have an effect."""

    def is_other(other: PolicyList) -> bool:
        return other.policy is not each.policy and other.policy.title not in redundant

    section = each.section
    result: list[str] = []
    if section.isolates:
        isolating = lists.containing(each, lambda other: is_other(other) and other.section.isolates)
        if (first := next(isolating, None)) is None:
            return None
        result.append(first.policy.title)
    candidates: list[PolicyList] | None = None
    for rule in section.rules:
        if means_nothing(rule):
            continue
        if candidates is None:
            # A rule that denies makes one that allows redundant as well.
            candidates = list(
                lists.containing(
                    each,
                    lambda other: is_other(other) and other.section.is_deny >= section.is_deny,
                )
            )
        other = next(
            (other for other in candidates if _number_of(other, each.policy, rule) is not None),
            None,
        )
        if other is None:
            return None
        result.append(other.policy.title)
    return result
