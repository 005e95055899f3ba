"""Rules of policy engines whose rules have identities of peers instead of selectors.

All nodes share the identities of addresses. Each node has the verdicts of its own pods' policies.
They are computed again only for the policies whose peers have other identities.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Protocol, TypeVar, runtime_checkable

from msgspec import Struct

from kubenetlab.api.lab import Attachment
from kubenetlab.api.object_map import ObjectKey
from kubenetlab.api.policies.network_policy import Direction
from kubenetlab.api.store import Cluster
from kubenetlab.datapath.identities import numbers_of
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.datapath.policy.conditions import OwnNode
from kubenetlab.datapath.policy.members import NamedPort, PodGroup, Pods, PolicyPod, members
from kubenetlab.datapath.policy.peers import (
    PeerTable,
    Ranges,
    has_every_address,
    peer_ranges,
    peer_table,
)
from kubenetlab.datapath.policy.rules import IsolatingPolicy, PolicyRule, PortName
from kubenetlab.datapath.policy.verdicts import (
    Exemption,
    Peer,
    PolicySet,
    PortVerdict,
    port_verdicts,
)
from kubenetlab.hoststate.rules.rulesets import RuleObject, SubjectRules

T = TypeVar("T")
Rules = SubjectRules[RuleObject]
_DIRECTIONS: tuple[Direction, ...] = ("Egress", "Ingress")
EVERY_OTHER = 0
"""Identity that stands for all peers without verdicts of their own."""


class PeerVerdicts(Struct, frozen=True):
    """Verdicts of a set of policies about one peer."""

    version: int
    identity: int
    exemption: Exemption
    ports: tuple[PortVerdict, ...]


@runtime_checkable
class IdentityEngine(Protocol):
    """A policy engine whose rules have identities of peers instead of selectors."""

    def peer(self, address: str, identity: int) -> Rules:
        """Return the rules by which an address of a pod has an identity."""

    def ranges(self, version: int, ranges: tuple[tuple[str, int], ...]) -> Rules:
        """Return the rules by which all other addresses of ranges have an identity."""

    def verdicts(
        self, policies: PolicySet, verdicts: tuple[PeerVerdicts, ...]
    ) -> tuple[RuleObject, ...]:
        """Return the objects with the verdicts of some policies, which pods may share."""

    def endpoint(
        self, name: str, link: str, identity: int, sets: tuple[PolicySet, ...]
    ) -> tuple[tuple[RuleObject, ...], tuple[RuleObject, ...]]:
        """Return the objects that apply sets of policies to a pod, and those that pods may share.

        name: `namespace/name`. link: its link on the node. identity: that of its labels.
        """


class Isolated(Protocol):
    """A pod, and the policies that isolate it."""

    @property
    def pod(self) -> PolicyPod: ...

    @property
    def policies(self) -> tuple[IsolatingPolicy, ...]: ...


class _Inputs(Struct, frozen=True):
    """Identities that the rules of one set of policies refer to."""

    by_group: Mapping[PodGroup, frozenset[int]]
    by_ranges: Mapping[Ranges, frozenset[int]]
    by_name: Mapping[PortName, frozenset[tuple[int, int]]]


def identity_rules(
    cluster: Cluster,
    cache: PlanCache,
    engine: IdentityEngine,
    versions: tuple[int, ...],
    entries: tuple[IsolatingPolicy, ...],
    pods: Pods,
    isolated: Mapping[ObjectKey, Isolated],
) -> tuple[dict[str, Rules], dict[str, dict[ObjectKey, Rules]]]:
    """Return the rules that all nodes have, by subject, and those of each node's pods."""
    numbers = numbers_of(cluster, cache)
    of_groups = {
        group: members(cache, cluster, pods, group)
        for group in dict.fromkeys(
            group for entry in entries for rule in entry.rules for group in rule.groups
        )
    }
    tables = {
        version: peer_table(version, entries, pods, numbers, of_groups) for version in versions
    }
    return (
        {
            rules.subject: rules
            for version, table in tables.items()
            for rules in _shared(cache, engine, version, table)
        },
        _of_nodes(cluster, cache, engine, tables, numbers, isolated),
    )


def _shared(
    cache: PlanCache, engine: IdentityEngine, version: int, table: PeerTable
) -> Iterator[Rules]:
    for address, identity in table.addresses.items():
        yield cache(("peer", engine, address), engine.peer, address, identity)
    if table.ranges:
        yield cache(("peer ranges", engine, version), engine.ranges, version, table.ranges)


def _of_nodes(
    cluster: Cluster,
    cache: PlanCache,
    engine: IdentityEngine,
    tables: Mapping[int, PeerTable],
    numbers: Mapping[ObjectKey, int],
    isolated: Mapping[ObjectKey, Isolated],
) -> dict[str, dict[ObjectKey, Rules]]:
    tables = {version: _interned(cache, version, table) for version, table in tables.items()}
    attachments = cluster.by_key(Attachment)
    known: dict[tuple[int, tuple[NamedPort, ...]], tuple[PolicySet, ...]] = {}
    objects: dict[str, tuple[RuleObject, ...]] = {}
    result: dict[str, dict[ObjectKey, Rules]] = {}
    for key, each in isolated.items():
        sets = cache.by_identity(("sets of policies", key), partial(_sets, each, known), each)
        for policies in sets:
            if policies.text not in objects:
                objects[policies.text] = _objects(cache, engine, policies, tables)
        shared = tuple(objects[policies.text] for policies in sets)
        result.setdefault(each.pod.node, {})[key] = cache(
            ("endpoint", engine, key),
            partial(_endpoint, engine),
            each.pod.full_name,
            attachments[key].host_ifname,
            numbers[key],
            sets,
            shared,
        )
    return result


def _endpoint(
    engine: IdentityEngine,
    name: str,
    link: str,
    number: int,
    sets: tuple[PolicySet, ...],
    shared: tuple[tuple[RuleObject, ...], ...],
) -> Rules:
    objects, others = engine.endpoint(name, link, number, sets)
    unique = {obj.key: obj for of_set in (*shared, others) for obj in of_set}
    return SubjectRules(objects[0].backend, "", name, objects, tuple(unique.values()))


def _sets(
    isolated: Isolated, known: dict[tuple[int, tuple[NamedPort, ...]], tuple[PolicySet, ...]]
) -> tuple[PolicySet, ...]:
    """Return the policies of a pod in each direction.

    known: those of other pods, by the identity of the policies and the ports of the pod.
    """
    key = id(isolated.policies), isolated.pod.named_ports
    if key not in known:
        found = (
            _policy_set(direction, isolated.policies, isolated.pod.named_ports)
            for direction in _DIRECTIONS
        )
        known[key] = tuple(policies for policies in found if policies is not None)
    return known[key]


def _policy_set(
    direction: Direction, policies: Iterable[IsolatingPolicy], ports: tuple[NamedPort, ...]
) -> PolicySet | None:
    """Return the policies of a pod in one direction; None without any."""
    own = tuple(policy for policy in policies if policy.direction == direction)
    names = {name for policy in own for rule in policy.rules for name in rule.port_names}
    known = {(name.name, name.protocol) for name in names} if direction == "Ingress" else set()
    used = tuple(port for port in ports if port[:2] in known)
    return PolicySet(direction, own, used) if own else None


def _interned(cache: PlanCache, version: int, table: PeerTable) -> PeerTable:
    """Return a table with the identical values as before, where they are equal."""

    def same(kind: str, values: Mapping[T, frozenset[int]]) -> Mapping[T, frozenset[int]]:
        return {key: cache((kind, version, key), _itself, now) for key, now in values.items()}

    return PeerTable(
        table.addresses,
        table.ranges,
        same("identities of group", table.by_group),
        same("identities of ranges", table.by_ranges),
        table.by_name,
    )


def _itself(value: T) -> T:
    return value


def _objects(
    cache: PlanCache,
    engine: IdentityEngine,
    policies: PolicySet,
    tables: Mapping[int, PeerTable],
) -> tuple[RuleObject, ...]:
    """Return the objects of some policies, computed again if the identities of peers changed."""
    inputs = tuple(
        (
            version,
            _Inputs(
                {group: table.by_group[group] for group in policies.groups},
                {
                    ranges: table.by_ranges[ranges]
                    for rule in policies.rules
                    if rule.ranges and (ranges := peer_ranges(rule, version))
                },
                {name: table.by_name[name] for name in policies.destination_names},
            ),
        )
        for version, table in tables.items()
    )
    key = "verdicts", engine, policies.text
    return cache(key, partial(_verdicts, engine, policies), inputs)


def _verdicts(
    engine: IdentityEngine, policies: PolicySet, inputs: tuple[tuple[int, _Inputs], ...]
) -> tuple[RuleObject, ...]:
    found: list[PeerVerdicts] = []
    for version, of_version in inputs:
        peers = frozenset[int]().union(
            *of_version.by_group.values(),
            *of_version.by_ranges.values(),
            ({identity for of_name in of_version.by_name.values() for identity, _ in of_name}),
        )
        for exemption in _exemptions(policies):
            is_own_node = exemption == "own node"
            other = _peer(policies, version, of_version, EVERY_OTHER, is_own_node=is_own_node)
            others = port_verdicts(policies, other, exemption)
            found.append(PeerVerdicts(version, EVERY_OTHER, exemption, others))
            for identity in sorted(peers):
                peer = _peer(policies, version, of_version, identity, is_own_node=is_own_node)
                own = port_verdicts(policies, peer, exemption)
                if own != others:
                    found.append(PeerVerdicts(version, identity, exemption, own))
    return engine.verdicts(policies, tuple(found))


def _exemptions(policies: PolicySet) -> Iterator[Exemption]:
    """Yield the exemptions for which there are verdicts, and None."""
    yield None
    if policies.has_tiers:
        yield "itself"
    if policies.has_tiers and policies.knows_own_node:
        yield "own node"


def _peer(
    policies: PolicySet, version: int, inputs: _Inputs, identity: int, *, is_own_node: bool
) -> Peer:
    named: Callable[[PortName], Iterable[int]]
    if policies.direction == "Egress":

        def named(name: PortName) -> Iterable[int]:
            return (port for number, port in inputs.by_name[name] if number == identity)

    else:

        def named(name: PortName) -> Iterable[int]:
            return (
                number
                for own, protocol, number in policies.named_ports
                if (own, protocol) == (name.name, name.protocol)
            )

    def matches(rule: PolicyRule) -> bool:
        ranges = peer_ranges(rule, version)
        return _applies(rule, version, is_own_node=is_own_node) and (
            has_every_address(rule, version)
            or any(identity in inputs.by_group[group] for group in rule.groups)
            or bool(ranges and identity in inputs.by_ranges[ranges])
        )

    return Peer(matches, named)


def _applies(rule: PolicyRule, version: int, *, is_own_node: bool) -> bool:
    """Return True if packets of an IP version can match a rule, with the own node as peer or not.

    Further conditions are about ICMP messages.
    """
    nodes = (each for each in rule.conditions if isinstance(each, OwnNode))
    return version in rule.versions and all(each.is_negated != is_own_node for each in nodes)
