"""Rules of Cilium's policies that have no effect beside other rules.

Selectors and ranges are compared as they are written, and not by the pods that they match now.
Rules about requests, TLS or authentication are compared with none: they may have other effects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from kubenetlab.api.containers import MAX_PORT
from kubenetlab.api.meta import LabelSelector, LabelSelectorRequirement
from kubenetlab.api.policies.cilium_labels import (
    NAMESPACE_KEY,
    is_of_pods,
    names_namespace,
    requirements,
    reserved_peers,
    split_key,
)
from kubenetlab.api.policies.cilium_network_policy import (
    CiliumCIDRRule,
    CiliumEgressDenyRule,
    CiliumEgressRule,
    CiliumFQDNSelector,
    CiliumIngressRule,
    CiliumPortProtocol,
    CiliumPortRule,
    CiliumService,
)
from kubenetlab.api.policies.cilium_rules import (
    AnyCiliumRule,
    has_peers,
    has_traffic,
    icmp_fields,
    icmp_type,
    numbers_of,
    ports,
    protocols_of,
)
from kubenetlab.api.policies.network_policy import IPBlock
from kubenetlab.api.values import ip
from kubenetlab.diagnostics.policy_shadows import has_block, selects_all


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


def subjects_selector(selector: LabelSelector, namespace: str) -> LabelSelector:
    """Return a selector of subjects as requirements of plain keys, with the namespace.

    namespace: that of the policy; empty for all namespaces.
    """
    found = _plain(selector)
    if not namespace:
        return found
    own = LabelSelectorRequirement(NAMESPACE_KEY, "In", (namespace,))
    labels = {split_key(key)[1] for key in selector.match_labels}
    others = (
        each
        for each in found.match_expressions
        if not (each.key == NAMESPACE_KEY and NAMESPACE_KEY in labels)
    )
    return LabelSelector(match_expressions=(*others, own))


def peer_selector(selector: LabelSelector, namespace: str) -> LabelSelector:
    """Return a selector of peers as requirements of plain keys, with the namespace if implied."""
    found = _plain(selector)
    if not namespace or names_namespace(selector):
        return found
    own = LabelSelectorRequirement(NAMESPACE_KEY, "In", (namespace,))
    return LabelSelector(match_expressions=(*found.match_expressions, own))


def _plain(selector: LabelSelector) -> LabelSelector:
    """Return a selector with one key for each label of pods, whatever source its keys name."""
    return LabelSelector(
        match_expressions=tuple(
            LabelSelectorRequirement(
                split_key(each.key)[1] if is_of_pods(split_key(each.key)[0]) else each.key,
                each.operator,
                each.values,
            )
            for each in requirements(selector)
        )
    )


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


def covering_rule(rules: Sequence[AnyCiliumRule], namespace: str, index: int) -> int | None:
    """Return the number of another rule of a list that contains a rule; None if there is none.

    Of two equal rules, only the later one is covered.
    """
    for number, other in enumerate(rules):
        if (
            number != index
            and covers(other, namespace, rules[index], namespace)
            and (number < index or not covers(rules[index], namespace, other, namespace))
        ):
            return number
    return None
