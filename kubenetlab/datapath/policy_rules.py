"""Rules of all network policies, in the backends of the cluster's policy engine.

All nodes share the rules of policies and of groups of pods; each node also isolates its own pods.
Rules are computed again only for the policies, groups and pods that a change concerns.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final, TypeVar

from msgspec import Struct

from kubenetlab.api.calico.policies import CALICO_POLICY_KINDS
from kubenetlab.api.core import Namespace
from kubenetlab.api.meta import Resource
from kubenetlab.api.object_map import ObjectKey
from kubenetlab.api.policies.cilium_rules import CILIUM_KINDS
from kubenetlab.api.policies.network_policy import NetworkPolicy
from kubenetlab.api.policies.tiers import TIER_KINDS
from kubenetlab.api.store import Cluster
from kubenetlab.datapath.cluster_modes import enforced_kinds
from kubenetlab.datapath.identities import numbers_of
from kubenetlab.datapath.modes import PolicyEngine
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.datapath.policy.calico import calico_objects, of_calico
from kubenetlab.datapath.policy.cilium import of_cilium
from kubenetlab.datapath.policy.cilium_peers import cilium_objects
from kubenetlab.datapath.policy.identity_rules import IdentityEngine, identity_rules
from kubenetlab.datapath.policy.members import (
    PodGroup,
    Pods,
    PolicyPod,
    groups_of_pods,
    members,
    policy_pods,
)
from kubenetlab.datapath.policy.rules import IsolatingPolicy, PortName, isolating
from kubenetlab.datapath.policy.tiers import addressees, in_tier
from kubenetlab.hoststate.rules.rulesets import RuleObject, RuleSet, Subject, SubjectRules
from kubenetlab.versioned import ChangedEntries, VersionedMap

K = TypeVar("K")
_Rules = tuple[SubjectRules[RuleObject], ...]
_Policies = VersionedMap[tuple[str, str, str], tuple[IsolatingPolicy, ...]]
"""Directions of policies by (kind, namespace, name)."""
RuleSets = tuple[RuleSet[RuleObject], ...]
"""One rule set for each backend that has rules."""


class IsolatedPod(Struct, frozen=True):
    """A pod, and the policies that isolate it."""

    pod: PolicyPod
    policies: tuple[IsolatingPolicy, ...]


_IsolatedPods = VersionedMap[ObjectKey, IsolatedPod]


class PolicyRules(Struct, frozen=True):
    """Rules of all policies of a cluster."""

    are_needed: bool
    """False if there is no policy, or none is enforced."""
    shared: RuleSets
    """Rules of policies and groups, on every node."""
    of_nodes: Mapping[str, RuleSets]
    """Node → rules that isolate its pods; nodes without isolated pods may be missing."""
    isolated: Mapping[ObjectKey, IsolatedPod]
    """Pods that at least one policy isolates, by namespace and name."""
    identities: Mapping[ObjectKey, int] = {}
    """Identities by which rules know pods; empty if rules have selectors."""


NO_POLICIES: Final = PolicyRules(False, (), {}, {})


def policy_rules(
    cluster: Cluster, cache: PlanCache, engine: PolicyEngine, versions: tuple[int, ...]
) -> PolicyRules:
    """Return the rules that an engine wants for the policies of a cluster.

    versions: IP versions of the pods.
    """
    kinds = enforced_kinds(cluster.config.networking, engine)
    if not any(map(cluster.by_key, kinds)):
        return NO_POLICIES
    policies = _policies(cluster, cache, kinds)
    pods = policy_pods(cluster, cache)
    return cache.by_identity(
        ("policy rules", engine, versions),
        partial(_all, cluster, cache, engine, versions, policies, pods),
        policies,
        pods,
        cluster.by_key(Namespace),
    )


def _policies(cluster: Cluster, cache: PlanCache, kinds: tuple[type[Resource], ...]) -> _Policies:
    """Return the policies of all kinds that are enforced."""
    by_kind: dict[str, VersionedMap[ObjectKey, tuple[IsolatingPolicy, ...]]] = {}
    if NetworkPolicy in kinds:
        by_kind[NetworkPolicy.kind] = cache.each(
            ("isolating policies", NetworkPolicy), isolating, cluster.by_key(NetworkPolicy)
        )
    peers = addressees(cluster)
    for kind in TIER_KINDS:
        if kind in kinds:
            by_kind[kind.kind] = cache.each(
                ("isolating policies", kind), in_tier, cluster.by_key(kind), peers
            )
    if any(kind in kinds and cluster.by_key(kind) for kind in CALICO_POLICY_KINDS):
        objects = calico_objects(cluster)
        for calico_kind in CALICO_POLICY_KINDS:
            by_kind[calico_kind.kind] = cache.each(
                ("isolating policies", calico_kind),
                of_calico,
                cluster.by_key(calico_kind),
                objects,
            )
    if any(kind in kinds and cluster.by_key(kind) for kind in CILIUM_KINDS):
        known = cilium_objects(cluster)
        for cilium_kind in CILIUM_KINDS:
            by_kind[cilium_kind.kind] = cache.each(
                ("isolating policies", cilium_kind), of_cilium, cluster.by_key(cilium_kind), known
            )
    return cache.follow(
        ("all policies", tuple(by_kind)), partial(_merged, tuple(by_kind)), *by_kind.values()
    )


def _merged(
    kinds: tuple[str, ...],
    former: _Policies | None,
    *news: ChangedEntries[ObjectKey, tuple[IsolatingPolicy, ...]],
) -> _Policies:
    """Return the policies of several kinds as one mapping."""
    changes = {
        (kind, *key): now
        for kind, of_kind in zip(kinds, news, strict=True)
        for key, (_, now) in of_kind.items()
    }
    return (_Policies() if former is None else former).with_changes(changes)


def _all(
    cluster: Cluster,
    cache: PlanCache,
    engine: PolicyEngine,
    versions: tuple[int, ...],
    policies: _Policies,
    pods: Pods,
) -> PolicyRules:
    entries = cache.same(
        "isolating policies",
        "",
        tuple(entry for directions in policies.values() for entry in directions),
    )
    isolated = _isolated_pods(cluster, cache, entries, pods)
    if isinstance(engine, IdentityEngine):
        return _by_identity(
            cache,
            engine,
            isolated,
            numbers_of(cluster, cache),
            *identity_rules(cluster, cache, engine, versions, entries, pods, isolated),
        )
    shared = cache.follow(
        "sets of policies",
        _sets,
        cache.each("rules of policies", _policy, policies, engine, versions),
        VersionedMap(_groups(cluster, cache, engine, versions, entries, pods)),
        VersionedMap(_named_ports(cache, engine, versions, entries, pods)),
        given=engine,
    )
    by_node = cache.split("isolated by node", lambda each: (each.pod.node, each), isolated)
    of_nodes = {
        node: tuple(
            cache.follow(
                ("sets of isolated pods", node),
                _sets,
                cache.each(("rules of isolated pods", node), _pod, on_node, engine, versions),
                given=engine,
            ).values()
        )
        for node, on_node in by_node.items()
    }
    return PolicyRules(True, tuple(shared.values()), of_nodes, isolated)


def _by_identity(
    cache: PlanCache,
    engine: IdentityEngine,
    isolated: _IsolatedPods,
    identities: Mapping[ObjectKey, int],
    shared: VersionedMap[str, SubjectRules[RuleObject]],
    of_nodes: Mapping[str, VersionedMap[ObjectKey, SubjectRules[RuleObject]]],
) -> PolicyRules:
    """Return the rules of an engine that identifies peers."""

    def sets(key: object, rules: VersionedMap[K, SubjectRules[RuleObject]]) -> RuleSets:
        current = cache.each(("as rules", key), lambda each: (each,), rules)
        return tuple(cache.follow(key, _sets, current, given=engine).values())

    return PolicyRules(
        True,
        sets("sets of policies", shared),
        {node: sets(("sets of isolated pods", node), rules) for node, rules in of_nodes.items()},
        isolated,
        identities,
    )


def _policy(
    directions: tuple[IsolatingPolicy, ...], engine: PolicyEngine, versions: tuple[int, ...]
) -> _Rules:
    return tuple(
        rules
        for entry in directions
        for version in versions
        for rules in engine.policy(version, entry)
    )


def _groups(
    cluster: Cluster,
    cache: PlanCache,
    engine: PolicyEngine,
    versions: tuple[int, ...],
    entries: tuple[IsolatingPolicy, ...],
    pods: Pods,
) -> Mapping[PodGroup, _Rules]:
    """Return the rules about each group of pods that policies name as peers."""

    def build(group: PodGroup, of_group: Pods) -> _Rules:
        chosen = _sorted(of_group)
        return tuple(
            rules for version in versions for rules in engine.group(version, group, chosen)
        )

    groups = dict.fromkeys(
        group for entry in entries for rule in entry.rules for group in rule.all_groups
    )
    return {
        group: cache.by_identity(
            ("rules of group", engine, versions, group),
            partial(build, group, of_group),
            of_group,
        )
        for group in groups
        for of_group in (members(cache, cluster, pods, group),)
    }


def _named_ports(
    cache: PlanCache,
    engine: PolicyEngine,
    versions: tuple[int, ...],
    entries: tuple[IsolatingPolicy, ...],
    pods: Pods,
) -> Mapping[PortName, _Rules]:
    """Return the rules about each name of ports in policies."""

    def build(name: PortName, having_it: Pods) -> _Rules:
        chosen = _sorted(having_it)
        return tuple(
            rules for version in versions for rules in engine.named_ports(version, name, chosen)
        )

    names = dict.fromkeys(
        name for entry in entries for rule in entry.rules for name in rule.all_port_names
    )
    return {
        name: cache.by_identity(
            ("rules of port", engine, versions, name), partial(build, name, having_it), having_it
        )
        for name in names
        for having_it in (cache.follow(("pods with port", name), partial(_having, name), pods),)
    }


def _sorted(pods: Pods) -> tuple[PolicyPod, ...]:
    """Return pods by their names, so that the rules do not depend on the order of changes."""
    return tuple(pod for _, pod in sorted(pods.items()))


def _having(
    name: PortName, former: Pods | None, changes: ChangedEntries[ObjectKey, PolicyPod]
) -> Pods:
    """Return the pods that have a port with a name."""
    return (Pods() if former is None else former).with_changes(
        {
            key: pod
            if pod is not None
            and any(
                (port, protocol) == (name.name, name.protocol)
                for port, protocol, _ in pod.named_ports
            )
            else None
            for key, (_, pod) in changes.items()
        }
    )


def _isolated_pods(
    cluster: Cluster, cache: PlanCache, entries: tuple[IsolatingPolicy, ...], pods: Pods
) -> _IsolatedPods:
    """Return the pods that policies isolate. Pods for which nothing changed are the same values."""
    numbers: dict[PodGroup, list[int]] = {}
    for number, entry in enumerate(entries):
        numbers.setdefault(entry.subjects, []).append(number)
    subjects = tuple(numbers)
    groups = cache.follow(
        "groups of isolated pods",
        partial(groups_of_pods, subjects),
        *(members(cache, cluster, pods, group) for group in subjects),
        given=subjects,
    )

    def build(
        former: _IsolatedPods | None,
        changed_groups: ChangedEntries[ObjectKey, tuple[PodGroup, ...]],
        changed_pods: ChangedEntries[ObjectKey, PolicyPod],
        changed_policies: ChangedEntries[str, tuple[IsolatingPolicy, ...]],
    ) -> _IsolatedPods:
        known = _IsolatedPods() if former is None else former
        of_groups: dict[tuple[PodGroup, ...], tuple[IsolatingPolicy, ...]] = {}
        changes: dict[ObjectKey, IsolatedPod | None] = {}
        others = groups if changed_policies else changed_pods
        for key in dict.fromkeys((*changed_groups, *others)):
            if (several := groups.get(key)) is None:
                changes[key] = None
                continue
            if several not in of_groups:
                chosen = sorted(number for group in several for number in numbers[group])
                of_groups[several] = tuple(entries[number] for number in chosen)
            now = IsolatedPod(pods[key], of_groups[several])
            changes[key] = before if (before := known.get(key)) == now else now
        return known.with_changes(changes)

    policies = cache("isolating policies as one value", _as_one_value, entries)
    return cache.follow("isolated pods", build, groups, pods, policies)


def _as_one_value(
    entries: tuple[IsolatingPolicy, ...],
) -> VersionedMap[str, tuple[IsolatingPolicy, ...]]:
    return VersionedMap({"": entries})


def _pod(isolated: IsolatedPod, engine: PolicyEngine, versions: tuple[int, ...]) -> _Rules:
    return tuple(
        rules
        for version in versions
        for rules in engine.isolated_pod(version, isolated.pod, isolated.policies)
    )


def _sets(
    former: Mapping[str, RuleSet[RuleObject]] | None, *news: ChangedEntries[object, _Rules]
) -> Mapping[str, RuleSet[RuleObject]]:
    """Return the rule sets by backend, without empty ones."""
    changes: dict[str, dict[Subject, SubjectRules[RuleObject] | None]] = {}
    for side in (0, 1):
        for of_map in news:
            for pair in of_map.values():
                for rules in pair[side] or ():
                    changes.setdefault(rules.backend, {})[rules.key] = rules if side else None
    sets = dict(former or {})
    for backend, changed in changes.items():
        sets[backend] = sets.get(backend, RuleSet(backend, VersionedMap())).with_changes(changed)
    return {backend: rules for backend, rules in sets.items() if rules.by_subject}
