"""Rules of network policies on nodes where the CNI plugin's agent, which enforces them, is stopped.

Such a node keeps the rules that the agent has written: policies, pods and labels that change later
do not count there. A new pod of the node has no rules, so it is not isolated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import msgspec
from msgspec import Struct

from kubenetlab.api.meta import Resource
from kubenetlab.api.plugins.cni_agents import CniAgent, StoppedAgent
from kubenetlab.api.plugins.policy_snapshots import PolicySnapshot
from kubenetlab.api.store import Cluster
from kubenetlab.controllers.cluster.policy_snapshots import SNAPSHOT_KINDS
from kubenetlab.datapath.cluster_modes import policy_engine_of
from kubenetlab.datapath.modes import PolicyEngine
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.datapath.policy_rules import NO_POLICIES, PolicyRules, policy_rules


class KnownPolicies(Struct, frozen=True):
    """Policies as the component that enforces them on a node knows them."""

    engine: PolicyEngine
    rules: PolicyRules


def former_policies(
    cluster: Cluster, agent: CniAgent | None, engine: PolicyEngine, cache: PlanCache
) -> Mapping[str, KnownPolicies]:
    """Return the policies that stopped agents know, by the node's name.

    engine: that of the cluster. Nodes that other components protect are missing.
    """
    if agent is None or not agent.enforces_policies:
        return {}
    none = KnownPolicies(engine, NO_POLICIES)
    result = {}
    for state in cluster.all(StoppedAgent):
        snapshot = cluster.get(PolicySnapshot, "", state.policies) if state.policies else None
        result[state.name] = (
            cache.by_identity(
                ("former policies", snapshot.name), partial(_policies_of, snapshot), snapshot
            )
            if snapshot is not None
            else none
        )
    return result


def snapshot_objects(snapshot: PolicySnapshot) -> Iterator[Resource]:
    """Yield the objects of a snapshot."""
    kinds = {kind.kind: kind for kind in SNAPSHOT_KINDS}
    for kind, document in snapshot.objects:
        if kind in kinds:
            yield msgspec.convert(document, kinds[kind])


def _policies_of(snapshot: PolicySnapshot) -> KnownPolicies:
    past = Cluster().with_changes(snapshot_objects(snapshot))
    engine = policy_engine_of(past)
    versions = past.config.networking.versions
    return KnownPolicies(engine, policy_rules(past, PlanCache(), engine, versions))
