"""Peers of Cilium's rules as groups of pods and ranges of addresses.

Hosts outside are all addresses but those of pods and nodes, and so are the ranges of `fromCIDR` and
similar fields. Only the pod's own node depends on the node on which a rule is evaluated, so it is a
condition.

Source: docs.cilium.io/en/stable/security/policy/layer3 (1.18).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from ipaddress import ip_network
from typing import Final

from msgspec import Struct

from kubenetlab.api.core import Node, Service
from kubenetlab.api.meta import Labels, LabelSelector, LabelSelectorRequirement
from kubenetlab.api.policies.cilium_cidr_group import CiliumCIDRGroup, refers_to
from kubenetlab.api.policies.cilium_labels import matches_host_name, reserved_peers
from kubenetlab.api.policies.cilium_network_policy import (
    CiliumCIDRRule,
    CiliumEgressDenyRule,
    CiliumEgressRule,
    CiliumPolicy,
    CiliumService,
)
from kubenetlab.api.policies.cilium_rules import (
    CONTROL_PLANE_LABEL,
    AnyCiliumRule,
    has_peers,
)
from kubenetlab.api.policies.network_policy import IPBlock
from kubenetlab.api.store import Cluster
from kubenetlab.api.values import ip
from kubenetlab.datapath.policy import cilium_groups
from kubenetlab.datapath.policy.conditions import Condition, OwnNode
from kubenetlab.datapath.policy.members import PodGroup
from kubenetlab.datapath.policy.rules import disjoint_ranges
from kubenetlab.datapath.policy.tiers import PolicyHost, PolicyNode, addressees

_EVERYWHERE: Final = ("0.0.0.0/0", "::/0")


class PolicyService(Struct, frozen=True):
    """A Service as rules see it."""

    namespace: str
    name: str
    labels: Labels
    selector: Labels
    addresses: tuple[str, ...]
    """Addresses of its endpoints, if it has no selector."""


class CIDRGroup(Struct, frozen=True):
    """A CiliumCIDRGroup as rules see it."""

    name: str
    labels: Labels
    ranges: tuple[str, ...]


class CiliumObjects(Struct, frozen=True):
    """Objects to which Cilium's policies refer, besides pods."""

    nodes: tuple[PolicyNode, ...]
    """Nodes, with the addresses of their links for pods."""
    hosts: tuple[PolicyHost, ...]
    services: tuple[PolicyService, ...]
    inside: tuple[str, ...]
    """Disjoint ranges with the addresses of all pods and nodes."""
    cidr_groups: tuple[CIDRGroup, ...] = ()

    @property
    def node_ranges(self) -> tuple[str, ...]:
        return tuple(host_range(address) for node in self.nodes for address in node.addresses)


class Peers(Struct, frozen=True):
    """Peers of a rule, or some of them."""

    is_any: bool = False
    groups: tuple[PodGroup, ...] = ()
    ranges: tuple[str, ...] = ()
    conditions: tuple[Condition, ...] = ()


def cilium_objects(cluster: Cluster) -> CiliumObjects:
    """Return the objects of a cluster to which its policies of Cilium refer."""
    known = addressees(cluster)
    cidrs = {node.name: node.spec.pod_cidrs for node in cluster.all(Node)}
    nodes = tuple(
        PolicyNode(node.labels, (*node.addresses, *map(_first, cidrs[node.name])))
        for node in cluster.all(Node)
    )
    inside = (
        *map(str, cluster.config.networking.pod_networks),
        *(cidr for several in cidrs.values() for cidr in several),
        *(host_range(address) for node in nodes for address in node.addresses),
    )
    return CiliumObjects(
        nodes,
        known.hosts,
        tuple(
            PolicyService(
                service.namespace,
                service.name,
                service.labels,
                service.spec.selector,
                () if service.spec.selector else tuple(_addresses_behind(cluster, service)),
            )
            for service in cluster.all(Service)
        ),
        tuple(disjoint_ranges([IPBlock(cidr) for cidr in inside])),
        tuple(
            CIDRGroup(group.name, group.labels, group.spec.external_cidrs)
            for group in cluster.all(CiliumCIDRGroup)
        ),
    )


def _first(cidr: str) -> str:
    """Return the first address of a node's range of pods, which is that of cilium_host."""
    return str(ip_network(cidr)[1])


def _addresses_behind(cluster: Cluster, service: Service) -> Iterator[str]:
    for slice_ in cluster.slices_by_service.get((service.namespace, service.name), ()):
        if slice_.address_type != "FQDN":
            for endpoint in slice_.endpoints:
                yield from endpoint.addresses


def peers_of(policy: CiliumPolicy, rule: AnyCiliumRule, objects: CiliumObjects) -> Iterator[Peers]:
    """Yield the peers of a rule; none if it matches no connection."""
    named = has_peers(rule)
    if named is None:
        yield Peers(is_any=True)
    if not named:
        return
    if isinstance(rule, CiliumEgressRule | CiliumEgressDenyRule):
        yield from _endpoints(policy, rule.to_endpoints or (), objects)
        yield from _entities(rule.to_entities or (), objects)
        yield from _nodes(rule.to_nodes or (), objects)
        yield from _ranges(rule.to_cidr or (), rule.to_cidr_set or (), objects)
        yield from _services(policy, rule.to_services or (), objects)
        if isinstance(rule, CiliumEgressRule) and rule.to_fqdns:
            yield _outside(_addresses_of_names(rule, objects), objects)
    else:
        yield from _endpoints(policy, rule.from_endpoints or (), objects)
        yield from _entities(rule.from_entities or (), objects)
        yield from _nodes(rule.from_nodes or (), objects)
        yield from _ranges(rule.from_cidr or (), rule.from_cidr_set or (), objects)


def _endpoints(
    policy: CiliumPolicy, selectors: Iterable[LabelSelector], objects: CiliumObjects
) -> Iterator[Peers]:
    groups = []
    for selector in selectors:
        reserved = reserved_peers(selector)
        if reserved is not None:
            yield from _entities(reserved, objects)
        elif (group := cilium_groups.peers(selector, policy.namespace)) is not None:
            groups.append(group)
    if groups:
        yield Peers(groups=tuple(dict.fromkeys(groups)))


def _nodes(selectors: Iterable[LabelSelector], objects: CiliumObjects) -> Iterator[Peers]:
    return (Peers(ranges=_ranges_of_nodes(objects, selector)) for selector in selectors)


def _ranges(
    cidrs: Iterable[str], rules: Iterable[CiliumCIDRRule], objects: CiliumObjects
) -> Iterator[Peers]:
    blocks = [IPBlock(cidr if "/" in cidr else host_range(cidr)) for cidr in cidrs]
    blocks += (
        IPBlock(cidr, _excepted(cidr, rule.except_))
        for rule in rules
        for cidr in _cidrs_of(rule, objects)
    )
    if blocks:
        yield _outside(disjoint_ranges(blocks), objects)


def _cidrs_of(rule: CiliumCIDRRule, objects: CiliumObjects) -> Iterator[str]:
    """Yield the range of an entry, or those of the groups to which it refers."""
    if rule.cidr:
        yield rule.cidr
        return
    for group in objects.cidr_groups:
        if refers_to(rule, group.name, group.labels):
            yield from group.ranges


def _excepted(cidr: str, parts: Iterable[str]) -> tuple[str, ...]:
    """Return the exceptions from a range: those of a group may lie outside of its ranges."""
    return tuple(part for part in parts if ip.version_of(part) == ip.version_of(cidr))


def _entities(names: Iterable[str], objects: CiliumObjects) -> Iterator[Peers]:
    for name in names:
        yield from _entity(name, objects)


def _entity(name: str, objects: CiliumObjects) -> Iterator[Peers]:
    """Yield the peers of an entity. Some entities have no peers in a lab."""
    match name:
        case "all":
            yield Peers(is_any=True)
        case "world":
            yield _outside(_EVERYWHERE, objects)
        case "world-ipv4":
            yield _outside(_EVERYWHERE[:1], objects)
        case "world-ipv6":
            yield _outside(_EVERYWHERE[1:], objects)
        case "cluster":
            yield Peers(groups=(cilium_groups.ALL_PODS,), ranges=objects.node_ranges)
        case "host":
            yield Peers(is_any=True, conditions=(OwnNode(),))
        case "remote-node":
            yield Peers(ranges=objects.node_ranges, conditions=(OwnNode(True),))
        case "kube-apiserver":
            is_control_plane = LabelSelectorRequirement(CONTROL_PLANE_LABEL, "Exists")
            selector = LabelSelector(match_expressions=(is_control_plane,))
            yield Peers(ranges=_ranges_of_nodes(objects, selector))


def _outside(ranges: Iterable[str], objects: CiliumObjects) -> Peers:
    """Return the hosts outside of the cluster with addresses in some ranges."""
    return Peers(ranges=_without(tuple(ranges), objects.inside))


@lru_cache(256)
def _without(ranges: tuple[str, ...], inside: tuple[str, ...]) -> tuple[str, ...]:
    """Return the parts of ranges that are in none of the disjoint ranges `inside`."""
    blocks = [
        IPBlock(cidr, tuple(part for part in inside if ip.version_of(part) == ip.version_of(cidr)))
        for cidr in ranges
    ]
    return tuple(disjoint_ranges(blocks))


def _ranges_of_nodes(objects: CiliumObjects, selector: LabelSelector) -> tuple[str, ...]:
    return tuple(
        host_range(address)
        for node in objects.nodes
        if selector.matches(node.labels)
        for address in node.addresses
    )


def _addresses_of_names(rule: CiliumEgressRule, objects: CiliumObjects) -> Iterator[str]:
    for host in objects.hosts:
        if any(
            matches_host_name(each.match_name, each.match_pattern, host.name)
            for each in rule.to_fqdns or ()
        ):
            yield from map(host_range, host.addresses)


def _services(
    policy: CiliumPolicy, entries: Sequence[CiliumService], objects: CiliumObjects
) -> Iterator[Peers]:
    """Yield the pods that Services select, and the endpoints of Services without a selector."""
    for entry in entries:
        for service in objects.services:
            named, selected = entry.k8s_service, entry.k8s_service_selector
            is_named = named is not None and (
                (named.namespace or policy.namespace, named.service_name)
                == (service.namespace, service.name)
            )
            is_selected = (
                selected is not None
                and selected.namespace in ("", service.namespace)
                and selected.selector.matches(service.labels)
            )
            if not (is_named or is_selected):
                continue
            if service.selector:
                group = cilium_groups.peers(LabelSelector(service.selector), service.namespace)
                yield Peers(groups=() if group is None else (group,))
            else:
                yield _outside(map(host_range, service.addresses), objects)


def host_range(address: str) -> str:
    """Return the range of a single address."""
    return f"{address}/{32 if ip.version_of(address) == 4 else 128}"
