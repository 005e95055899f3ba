"""Calico's policies without selectors of namespaces and service accounts.

A selector in a rule becomes a group of pods, and the ranges of the network sets that it matches. A
rule is left out if it cannot match any packet in one of the IP versions, or if it has a match of
HTTP requests, which only Calico's proxy checks.

Source: projectcalico/calico libcalico-go/lib/backend/syncersv1/updateprocessors/{rules,
networkpolicyprocessor,globalnetworkpolicyprocessor}.go, felix/rules/policy.go (3.30).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import inf
from typing import Final, get_args

from msgspec import Struct

from kubenetlab.api.calico.policies import (
    CALICO_POLICY_KINDS,
    DEFAULT_TIER,
    ENDS,
    PROTOCOLS,
    Action,
    CalicoEntityRule,
    CalicoICMP,
    CalicoPolicy,
    CalicoRule,
    GlobalNetworkPolicy,
    GlobalNetworkSet,
    NetworkSet,
    Tier,
    port_range,
)
from kubenetlab.api.calico.selectors import Expression, parse_selector
from kubenetlab.api.containers import Protocol
from kubenetlab.api.core import Namespace
from kubenetlab.api.meta import Labels
from kubenetlab.api.policies.network_policy import Direction, IPBlock
from kubenetlab.api.store import Cluster
from kubenetlab.api.values import ip
from kubenetlab.datapath.policy.calico_labels import (
    entity_selector,
    namespace_labels,
    network_set_labels,
    subject_selector,
)
from kubenetlab.datapath.policy.conditions import (
    AddressIn,
    Condition,
    End,
    EndpointIn,
    ICMPIs,
    PortIn,
    PortName,
    PortRange,
    ProtocolIs,
)
from kubenetlab.datapath.policy.members import PodGroup
from kubenetlab.datapath.policy.rules import (
    DEFAULT,
    IsolatingPolicy,
    PolicyRule,
    PolicyTier,
    RuleAction,
    disjoint_ranges,
    merged_ports,
)

_TRANSPORTS: Final[tuple[Protocol, ...]] = get_args(Protocol)
_ACTIONS: Final[Mapping[Action, RuleAction]] = {
    "Allow": "Accept",
    "Deny": "Deny",
    "Log": "Log",
    "Pass": "Pass",
}
_ICMP_VERSIONS: Final = {PROTOCOLS["ICMP"]: 4, PROTOCOLS["ICMPv6"]: 6}
"""Number of a protocol → IP version of its packets."""
Endpoint = tuple[Protocol, int, tuple[str, ...]]
"""Protocol, port, and the addresses of the endpoints that have it."""


class LabelledRanges(Struct, frozen=True):
    """A network set, with all labels by which selectors match it."""

    labels: Labels
    ranges: tuple[str, ...]


class CalicoObjects(Struct, frozen=True):
    """Objects to which Calico's policies refer."""

    sets: tuple[LabelledRanges, ...]
    tiers: Mapping[str, tuple[PolicyTier, bool]]
    """Name → tier, and True if it denies connections that no rule matches."""
    services: Mapping[tuple[str, str], tuple[Endpoint, ...]]
    """(namespace, name) of the Services that policies name → their endpoints."""


def calico_objects(cluster: Cluster) -> CalicoObjects:
    """Return the objects of a cluster to which its policies of Calico refer."""
    labels = cluster.index(Namespace, namespace_labels)
    return CalicoObjects(
        (
            *(
                LabelledRanges(each.labels, each.spec.nets)
                for each in cluster.all(GlobalNetworkSet)
            ),
            *(
                LabelledRanges(
                    network_set_labels(each.labels, each.namespace, labels), each.spec.nets
                )
                for each in cluster.all(NetworkSet)
            ),
        ),
        {
            DEFAULT_TIER: (DEFAULT, True),
            **{
                tier.name: (
                    PolicyTier(inf if tier.spec.order is None else tier.spec.order, tier.name),
                    tier.spec.default_action == "Deny",
                )
                for tier in cluster.all(Tier)
                if tier.name != DEFAULT_TIER
            },
        },
        {
            key: tuple(_endpoints(cluster, key))
            for key in dict.fromkeys(
                service
                for kind in CALICO_POLICY_KINDS
                for policy in cluster.all(kind)
                for service in policy.services
            )
        },
    )


def _service(entity: CalicoEntityRule, namespace: str) -> tuple[str, str]:
    assert entity.services is not None
    return entity.services.namespace or namespace, entity.services.name


def _endpoints(cluster: Cluster, service: tuple[str, str]) -> Iterator[Endpoint]:
    """Yield the endpoints of a Service, whether they are ready or not."""
    for slice_ in cluster.slices_by_service.get(service, ()):
        if slice_.address_type == "FQDN":
            continue
        addresses = tuple(
            dict.fromkeys(address for each in slice_.endpoints for address in each.addresses)
        )
        for port in slice_.ports:
            if port.port is not None and addresses:
                yield port.protocol, port.port, addresses


def of_calico(policy: CalicoPolicy, objects: CalicoObjects) -> tuple[IsolatingPolicy, ...]:
    """Return a policy in the directions to which it applies; none if it applies to no pod.

    A policy whose tier does not exist does not apply, nor does one for host endpoints alone.
    """
    spec = policy.spec
    tier, isolates = objects.tiers.get(spec.tier, (None, False))
    if tier is None or (
        isinstance(policy, GlobalNetworkPolicy)
        and (policy.spec.pre_dnat or policy.spec.do_not_track)
    ):
        return ()
    return tuple(
        IsolatingPolicy(
            policy.full_name,
            direction,
            PodGroup.selected(subject_selector(policy)),
            tuple(
                _rule(index, rule, policy.namespace, objects)
                for index, rule in enumerate(spec.rules(direction))
                if rule.http is None
            ),
            policy.kind,
            tier,
            inf if spec.order is None else spec.order,
            isolates,
        )
        for direction in _in_order(policy.directions)
    )


def _in_order(directions: Iterable[Direction]) -> list[Direction]:
    return sorted(set(directions), reverse=True)


def _rule(index: int, rule: CalicoRule, namespace: str, objects: CalicoObjects) -> PolicyRule:
    return PolicyRule(
        index,
        is_any_peer=True,
        groups=(),
        ranges=(),
        is_any_port=True,
        ports=(),
        port_names=(),
        action=_ACTIONS[rule.action],
        versions=_versions(rule),
        conditions=tuple(_conditions(rule, namespace, objects)),
    )


def _versions(rule: CalicoRule) -> tuple[int, ...]:
    """Return the IP versions of the packets that can match.

    A list of ranges without any of an IP version matches none of its packets, even if it is
    negated.
    """
    versions = {4, 6} if rule.ip_version is None else {rule.ip_version}
    if (version := _ICMP_VERSIONS.get(rule.protocol_number or 0)) is not None:
        versions &= {version}
    for entity in (rule.source, rule.destination):
        for nets in (entity.nets, entity.not_nets):
            if nets:
                versions &= set(map(ip.version_of, nets))
    return tuple(sorted(versions))


def _conditions(rule: CalicoRule, namespace: str, objects: CalicoObjects) -> Iterator[Condition]:
    destination = rule.destination
    if destination.services is not None:
        yield _service_endpoints(rule, objects.services[_service(destination, namespace)])
    else:
        yield from _protocols(rule)
    yield from _messages(rule.icmp, is_negated=False)
    yield from _messages(rule.not_icmp, is_negated=True)
    for end in ENDS:
        entity = rule.end(end)
        if entity.nets:
            yield AddressIn(end, (), _ranges(entity.nets))
        if entity.not_nets:
            yield AddressIn(end, (), _ranges(entity.not_nets), True)
        if (selector := entity_selector(entity, namespace)) is not None:
            yield _members(end, selector, objects)
        if entity.not_selector:
            yield _members(end, parse_selector(entity.not_selector), objects, is_negated=True)
        if entity.services is not None and end == "source":
            endpoints = objects.services[_service(entity, namespace)]
            addresses = (each for *_, several in endpoints for each in several)
            yield AddressIn(end, (), _ranges(tuple(map(_host_range, addresses))))
        yield from _ports(end, entity.ports, rule, is_negated=False)
        yield from _ports(end, entity.not_ports, rule, is_negated=True)


def _protocols(rule: CalicoRule) -> Iterator[Condition]:
    if rule.protocol_number is not None:
        yield ProtocolIs(rule.protocol_number)
    if (number := rule.not_protocol_number) is not None:
        yield ProtocolIs(number, True)


def _service_endpoints(rule: CalicoRule, endpoints: Iterable[Endpoint]) -> EndpointIn:
    """Return the endpoints of a Service whose ports have the protocol of a rule."""
    return EndpointIn(
        tuple(
            dict.fromkeys(
                each
                for each in endpoints
                if rule.protocol_number in (None, PROTOCOLS[each[0]])
                and rule.not_protocol_number != PROTOCOLS[each[0]]
            )
        )
    )


def _messages(icmp: CalicoICMP | None, *, is_negated: bool) -> Iterator[Condition]:
    if icmp is not None and icmp.type is not None:
        yield ICMPIs(icmp.type, icmp.code, is_negated)


def _members(
    end: End, selector: Expression, objects: CalicoObjects, *, is_negated: bool = False
) -> AddressIn:
    """Return the condition about the pods and the network sets that a selector matches."""
    nets = (net for each in objects.sets if selector.matches(each.labels) for net in each.ranges)
    return AddressIn(end, (PodGroup.selected(selector),), _ranges(tuple(nets)), is_negated)


def _ranges(nets: Sequence[str]) -> tuple[str, ...]:
    return tuple(disjoint_ranges([IPBlock(net) for net in nets]))


def _host_range(address: str) -> str:
    return f"{address}/{32 if ip.version_of(address) == 4 else 128}"


def _ports(
    end: End, ports: Sequence[int | str], rule: CalicoRule, *, is_negated: bool
) -> Iterator[Condition]:
    """Yield the condition about the ports of an end.

    A name means ports of all protocols if the rule names none.
    """
    if not ports:
        return
    numbers = [limits for port in ports if (limits := port_range(port)) is not None]
    merged = merged_ports([PortRange("TCP", *limits) for limits in numbers])
    protocols = [each for each in _TRANSPORTS if rule.protocol_number in (None, PROTOCOLS[each])]
    names = {
        PortName(protocol, str(port))
        for port in ports
        if port_range(port) is None
        for protocol in protocols
    }
    yield PortIn(
        end,
        tuple((each.first, each.last) for each in merged),
        tuple(sorted(names)),
        is_negated,
    )
