"""Rules of policy engines whose rules have identities of peers instead of selectors.

All nodes share the identities of addresses. Each node has the verdicts of its own pods' policies.
They are computed again only for the policies whose peers have other identities.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

from msgspec import Struct

from kubenetlab.api.lab import Attachment
from kubenetlab.api.object_map import ObjectKey
from kubenetlab.api.store import Cluster
from kubenetlab.datapath.identities import numbers_of
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.datapath.policy.conditions import OwnNode
from kubenetlab.datapath.policy.members import (
    PodGroup,
    Pods,
    groups_of_pods,
    members,
)
from kubenetlab.datapath.policy.peers import (
    PeerTable,
    Ranges,
    has_every_address,
    peer_groups,
    peer_ranges,
    peer_table,
)
from kubenetlab.datapath.policy.policy_sets import Isolated, IsolatedT, Sets, sets_of_pods
from kubenetlab.datapath.policy.rules import IsolatingPolicy, PolicyRule, PortName
from kubenetlab.datapath.policy.verdicts import (
    Exemption,
    Peer,
    PolicySet,
    PortVerdict,
    port_verdicts,
)
from kubenetlab.hoststate.rules.rulesets import RuleObject, SubjectRules
from kubenetlab.versioned import ChangedEntries, VersionedMap

Rules = SubjectRules[RuleObject]
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


class _Inputs(Struct, frozen=True):
    """Identities that the rules of one set of policies refer to."""

    by_group: Mapping[PodGroup, frozenset[int]]
    by_ranges: Mapping[Ranges, frozenset[int]]
    by_name: Mapping[PortName, frozenset[tuple[int, int]]]


class _PodRules(NamedTuple):
    """Rules of a pod, and its node."""

    node: str
    rules: Rules


_AllPodRules = VersionedMap[ObjectKey, _PodRules]
"""Rules of all isolated pods."""
_NodePodRules = VersionedMap[ObjectKey, Rules]
"""Rules of the isolated pods of one node."""


def identity_rules(
    cluster: Cluster,
    cache: PlanCache,
    engine: IdentityEngine,
    versions: tuple[int, ...],
    entries: tuple[IsolatingPolicy, ...],
    pods: Pods,
    isolated: VersionedMap[ObjectKey, IsolatedT],
) -> tuple[VersionedMap[str, Rules], Mapping[str, _NodePodRules]]:
    """Return the rules that all nodes have, by subject, and those of each node's pods.

    entries: the identical tuple while no policy changes.
    """
    numbers = numbers_of(cluster, cache)
    groups = cache.by_identity("groups of peers", partial(peer_groups, entries), entries)
    groups_by_pod = cache.follow(
        "groups of peers by pod",
        partial(groups_of_pods, groups),
        *(members(cache, cluster, pods, group) for group in groups),
        given=groups,
    )
    tables = {
        version: peer_table(cache, version, entries, pods, numbers, groups_by_pod)
        for version in versions
    }
    return (
        cache.by_identity(
            ("rules of peers", engine, versions),
            lambda: VersionedMap(
                (rules.subject, rules)
                for version, table in tables.items()
                for rules in _shared(cache, engine, version, table)
            ),
            *tables.values(),
        ),
        _of_nodes(cluster, cache, engine, tables, numbers, isolated),
    )


def _shared(
    cache: PlanCache, engine: IdentityEngine, version: int, table: PeerTable
) -> Iterator[Rules]:
    """Yield the rules that all nodes have about peers of one IP version."""
    for address, identity in table.addresses.items():
        yield cache(("peer", engine, address), engine.peer, address, identity)
    if table.ranges:
        yield cache(("peer ranges", engine, version), engine.ranges, version, table.ranges)


def _of_nodes(
    cluster: Cluster,
    cache: PlanCache,
    engine: IdentityEngine,
    tables: Mapping[int, PeerTable],
    numbers: VersionedMap[ObjectKey, int],
    isolated: VersionedMap[ObjectKey, IsolatedT],
) -> Mapping[str, _NodePodRules]:
    """Return the rules of each node's pods."""
    attachments = cluster.by_key(Attachment)
    sets = cache.follow("sets of policies of pods", sets_of_pods, isolated)
    distinct = cache.by_identity(
        "sets of policies by text",
        lambda: {each.text: each for of_pod in sets.values() for each in of_pod},
        sets,
    )
    objects = VersionedMap(
        (text, _objects(cache, engine, policies, tables)) for text, policies in distinct.items()
    )
    rules = cache.follow(
        ("rules of endpoints", engine),
        partial(_endpoints, engine, isolated, attachments, numbers, sets, objects),
        objects,
        isolated,
        attachments,
        numbers,
        sets,
    )
    return cache.split("rules of endpoints by node", lambda each: (each.node, each.rules), rules)


def _endpoints(
    engine: IdentityEngine,
    isolated: Mapping[ObjectKey, Isolated],
    attachments: Mapping[ObjectKey, Attachment],
    numbers: Mapping[ObjectKey, int],
    sets: Sets,
    objects: Mapping[str, tuple[RuleObject, ...]],
    former: _AllPodRules | None,
    changed_objects: ChangedEntries[str, object],
    *changes_of_pods: ChangedEntries[ObjectKey, object],
) -> _AllPodRules:
    """Return the rules of each isolated pod; only pods that a change concerns are computed."""
    changed = dict.fromkeys(key for of_map in changes_of_pods for key in of_map)
    if changed_objects:
        for key, several in sets.items():
            if any(policies.text in changed_objects for policies in several):
                changed[key] = None
    known = _AllPodRules() if former is None else former
    changes: dict[ObjectKey, _PodRules | None] = {}
    for key in changed:
        if (each := isolated.get(key)) is None:
            changes[key] = None
            continue
        rules = _endpoint(
            engine,
            each.pod.full_name,
            attachments[key].host_ifname,
            numbers[key],
            sets[key],
            tuple(objects[policies.text] for policies in sets[key]),
        )
        now, before = _PodRules(each.pod.node, rules), known.get(key)
        changes[key] = before if before == now else now
    return known.with_changes(changes)


def _endpoint(
    engine: IdentityEngine,
    name: str,
    link: str,
    number: int,
    sets: tuple[PolicySet, ...],
    shared: tuple[tuple[RuleObject, ...], ...],
) -> Rules:
    """Return the rules of one pod.

    shared: objects of its sets of policies, which other pods may have, too.
    """
    objects, others = engine.endpoint(name, link, number, sets)
    unique = {obj.key: obj for of_set in (*shared, others) for obj in of_set}
    return SubjectRules(objects[0].backend, "", name, objects, tuple(unique.values()))


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
                    for rule in policies.rules_with_ranges
                    if (ranges := peer_ranges(rule, version))
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
    """Return the objects with the verdicts about each peer, and about all others as one."""
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
    """Return the peer with an identity, or all others as one.

    is_own_node: True if the peer is the pod's own node.
    """

    def ports_named(name: PortName) -> Iterable[int]:
        if policies.direction == "Egress":
            return (port for number, port in inputs.by_name[name] if number == identity)
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

    return Peer(matches, ports_named)


def _applies(rule: PolicyRule, version: int, *, is_own_node: bool) -> bool:
    """Return True if packets of an IP version can match a rule, with the own node as peer or not.

    Further conditions are about ICMP messages.
    """
    nodes = (each for each in rule.conditions if isinstance(each, OwnNode))
    return version in rule.versions and all(each.is_negated != is_own_node for each in nodes)
