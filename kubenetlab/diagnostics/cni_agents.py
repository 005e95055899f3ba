"""Diagnostics of nodes that attach no pods: without an agent, or with plugins that fail."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Final

from msgspec import structs

from kubenetlab.api.apps import DaemonSet
from kubenetlab.api.calico.bgp import PLUGIN_NAMESPACE
from kubenetlab.api.core import Node
from kubenetlab.api.environment import Secret
from kubenetlab.api.faults import Fault
from kubenetlab.api.kinds import POLICY_GROUP_KINDS, POLICY_KINDS
from kubenetlab.api.lab import NetworkFacts, NodeReport
from kubenetlab.api.meta import ObjectMeta, Resource
from kubenetlab.api.plugins.cni_agents import CniAgent, StoppedAgent
from kubenetlab.api.plugins.policy_snapshots import PolicySnapshot
from kubenetlab.api.store import Cluster
from kubenetlab.datapath.agents.policies import snapshot_objects
from kubenetlab.diagnostics.model import (
    AGENT_STOPPED,
    PLUGINS_NOT_READY,
    Diagnostic,
    Scope,
    pods_of_nodes,
)
from kubenetlab.diagnostics.templates import Templates

_COMPARED: Final = (*POLICY_KINDS, *POLICY_GROUP_KINDS)
"""Kinds whose changes a message names."""
_SHOWN: Final = 3
"""Maximum number of changed policies that a message names."""


def _stops(fault: Fault, node: str, agent: CniAgent) -> bool:
    """Return True if a fault stops the agent of a node."""
    return any((each.node, each.labels) == (node, agent.labels) for each in fault.spec.stops)


def _restore(cluster: Cluster, agent: CniAgent) -> str:
    """Return what a user does about a node without a pod of the DaemonSet."""
    if cluster.get(DaemonSet, agent.namespace, agent.daemon_set) is None:
        return "the DaemonSet does not exist: apply its manifest again, or make the lab again"
    return f"kubenetlab describe daemonset {agent.daemon_set} -n {agent.namespace}"


def _effect(cluster: Cluster, facts: NetworkFacts, state: StoppedAgent) -> str:
    """Return what the node lacks without its agent."""
    if not state.has_run:
        return "it has no pod network, and is not Ready"
    effect = "it misses every change of the cluster"
    if facts.agent is not None and facts.agent.enforces_policies:
        effect += _effect_on_policies(cluster, state)
    if former := _former_options(facts, state):
        effect += f", and has the former options of the CNI mode: {', '.join(former)}"
    if _has_former_password(cluster, facts, state):
        effect += (
            f", and encrypts with the former password of the Secret {PLUGIN_NAMESPACE}/"
            f"{facts.credential_name}: other nodes drop its packets, and it drops theirs"
        )
    return effect


def _effect_on_policies(cluster: Cluster, state: StoppedAgent) -> str:
    """Return what the node lacks because its agent enforces network policies; empty without any."""
    snapshot = cluster.get(PolicySnapshot, "", state.policies) if state.policies else None
    before = _policies(() if snapshot is None else snapshot_objects(snapshot))
    if not before and not any(map(cluster.by_key, POLICY_KINDS)):
        return ""
    now = _policies(policy for kind in _COMPARED for policy in cluster.all(kind))
    changes = [
        *(f"{name} is new" for name in now if name not in before),
        *(f"{name} has changed" for name in now if name in before and now[name] != before[name]),
        *(f"{name} was deleted" for name in before if name not in now),
    ]
    listed = f": {', '.join(changes[:_SHOWN])}" if changes else ""
    more = f" and {len(changes) - _SHOWN} more" if len(changes) > _SHOWN else ""
    return f", also of network policies and of the pods that they select{listed}{more}"


def _policies(objects: Iterable[Resource]) -> dict[str, Resource]:
    """Return policies, network sets and tiers by kind and name, without the API server's parts.

    Labels of policies have no effect, those of network sets and CIDR groups have.
    """
    return {
        f"{obj.kind} {obj.full_name}": structs.replace(
            obj,
            metadata=ObjectMeta(labels=obj.labels if type(obj) in POLICY_GROUP_KINDS else {}),
        )
        for obj in objects
        if type(obj) in _COMPARED
    }


def _former_options(facts: NetworkFacts, state: StoppedAgent) -> list[str]:
    """Return the options that have changed since the agent was stopped, as they were then."""
    (name, before), (now_name, now) = state.mode, facts.mode
    if name != now_name:
        return []
    return [
        f"{option} {json.dumps(value)}"
        for option, value in before.items()
        if value != now.get(option)
    ]


def _has_former_password(cluster: Cluster, facts: NetworkFacts, state: StoppedAgent) -> bool:
    """Return True if the password of the CNI mode has changed since the agent was stopped."""
    name, (_, key) = facts.credential_name, facts.credential
    before = next((secret for secret in state.secrets if secret.name == name), None)
    now = cluster.get(Secret, PLUGIN_NAMESPACE, name)
    passwords = {secret.decoded(key) if secret is not None else b"" for secret in (before, now)}
    return len(passwords) > 1


def check_cni_agents(cluster: Cluster, templates: Templates) -> Iterator[Diagnostic]:
    """Yield a diagnostic for each node whose agent is stopped, or has never run."""
    facts = cluster.get(NetworkFacts, "", "network") or NetworkFacts()
    agent = facts.agent
    if agent is None:
        return
    for state in cluster.all(StoppedAgent):
        fault = next((each for each in cluster.all(Fault) if _stops(each, state.name, agent)), None)
        hint = f"kubenetlab heal {fault.name}" if fault is not None else _restore(cluster, agent)
        effect = _effect(cluster, facts, state)
        pods = pods_of_nodes(cluster, [state.name])
        yield Diagnostic(
            AGENT_STOPPED,
            Node.kind,
            "",
            state.name,
            (),
            f"no agent of the CNI plugin {facts.plugin} runs on this node "
            f"(DaemonSet {agent.namespace}/{agent.daemon_set}): {effect}",
            (hint,),
            Scope(into=pods, out_of=pods),
        )


def check_plugins(cluster: Cluster, templates: Templates) -> Iterator[Diagnostic]:
    """Yield a diagnostic for each node whose CNI plugins have answered STATUS with an error."""
    for report in cluster.all(NodeReport):
        if report.network_error:
            yield Diagnostic(
                PLUGINS_NOT_READY,
                Node.kind,
                "",
                report.name,
                (),
                f"the node is not Ready and attaches no pods: {report.network_error}",
                (f"kubenetlab describe node {report.name}",),
            )
