"""Network policies of a lab and the objects that they select, as its API shows them."""

from __future__ import annotations

from kubenetlab.api.kinds import POLICY_KINDS
from kubenetlab.api.lab import Decisions
from kubenetlab.api.store import Cluster
from kubenetlab.datapath import cluster_modes
from kubenetlab.datapath.agents.policies import former_policies
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.datapath.pod_networks import pod_network
from kubenetlab.datapath.policy.drop_reasons import long_reasons
from kubenetlab.datapath.policy_rules import policy_rules
from kubenetlab.datapath.proxy.local_traffic import LocalTrafficOptions
from kubenetlab.observe.policies.objects import PolicyReply, render_policy_objects


def policy_objects(cluster: Cluster, *, always: bool = False) -> PolicyReply:
    """Return the policies, with the pods, namespaces and nodes.

    always: return the other objects without policies, too; else there are none then.
    """
    if not always and not any(cluster.all(kind) for kind in POLICY_KINDS):
        return {"enforced": [], "local_ranges": [], "objects": []}
    return render_policy_objects(cluster, _enforced(cluster), _local_ranges(cluster))


def drop_reasons(cluster: Cluster, decisions: Decisions, cache: PlanCache) -> dict[str, str]:
    """Return text in logs → reason, for each reason of dropped packets that logs cut.

    Nodes whose agent is stopped have reasons of former policies.
    """
    engine = cluster_modes.policy_engine_of(cluster)
    agent = cluster_modes.decided_cni(cluster.config, decisions).facts.agent
    former = former_policies(cluster, agent, engine, cache)
    rules = (
        policy_rules(cluster, cache, engine, cluster.config.networking.versions),
        *(known.rules for known in former.values()),
    )
    return long_reasons(pod.policies for each in rules for pod in each.isolated.values())


def _enforced(cluster: Cluster) -> list[str]:
    """Return the kinds of policies that the lab enforces."""
    decisions = cluster.get(Decisions, "", "decisions")
    if decisions is not None and decisions.netfilter_bypass:
        return []
    kinds = cluster_modes.enforced_kinds_of(cluster)
    return [kind.kind for kind in POLICY_KINDS if kind in kinds]


def _local_ranges(cluster: Cluster) -> tuple[str, ...]:
    """Return the ranges of pods whose source kube-proxy keeps in traffic to cluster IPs."""
    proxy = cluster_modes.service_proxy(cluster.config.networking)
    if isinstance(proxy, LocalTrafficOptions) and proxy.masquerade_all:
        return ()
    mode, nodes = pod_network(cluster)
    return mode.network(nodes[0]).cluster_cidrs if nodes else ()
