"""CNI agent controller: records on which nodes no agent of the CNI plugin runs, and what it knew.

It reads the DaemonSet's pods, faults, nodes, and the objects from which ranges of pod addresses
follow. While a node has no pod of the DaemonSet, or a fault stops it, the node has a StoppedAgent:
the plan then has what the agent last knew. Agents that enforce network policies also share a
PolicySnapshot. Kubernetes has no counterpart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from kubenetlab.api.calico.bgp import PLUGIN_NAMESPACE, BGPConfiguration, BGPPeer
from kubenetlab.api.calico.bgp_filters import BGPFilter
from kubenetlab.api.calico.ip_pools import IPPool
from kubenetlab.api.core import Node, Service
from kubenetlab.api.discovery import EndpointSlice
from kubenetlab.api.environment import Secret
from kubenetlab.api.faults import Fault
from kubenetlab.api.lab import Decisions, NetworkFacts, NodeReport
from kubenetlab.api.meta import ObjectMeta
from kubenetlab.api.plugins.cni_agents import CniAgent, KnownNode, StoppedAgent
from kubenetlab.api.plugins.policy_snapshots import PolicySnapshot
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Change, Cluster, Kind, deletion
from kubenetlab.controllers.cluster.faults import stopping_fault
from kubenetlab.controllers.cluster.policy_snapshots import policy_snapshot
from kubenetlab.controllers.nodes.ipam import ALLOCATORS, network

WATCHES: Final[tuple[Kind, ...]] = (NetworkFacts, Node, Pod, Fault, StoppedAgent)


def reconcile(cluster: Cluster, now: float) -> Iterator[Change]:
    agent = network(cluster).agent
    stopped = cluster.by_key(StoppedAgent)
    if agent is None and not stopped:
        return
    running = _nodes_with_agents(cluster, agent) if agent is not None else set()
    names = {node.name for node in cluster.all(Node)}
    missing = names - running if agent is not None else set()
    for state in stopped.values():
        if state.name not in missing:
            yield deletion(state)
    used = {state.policies for state in stopped.values() if state.name in missing}
    for snapshot in cluster.all(PolicySnapshot):
        if snapshot.name not in used:
            yield deletion(snapshot)
    started = [name for name in missing if ("", name) not in stopped]
    if not started:
        return
    mode, decisions = network(cluster).mode, cluster.get(Decisions, "", "decisions")
    is_decided = decisions is not None and decisions.cni_mode == mode[0]
    choices = decisions.cni_options if decisions is not None and is_decided else mode[1]
    nodes = tuple(_known(cluster, node) for node in cluster.all(Node))
    pools = tuple(sorted(cluster.all(IPPool), key=lambda pool: pool.name))
    has_services = agent is not None and (
        agent.announces_services or not network(cluster).has_proxy
    )
    enforces = agent is not None and agent.enforces_policies
    policies = policy_snapshot(cluster) if enforces else None
    if policies is not None:
        yield policies
    for name in sorted(started):
        if cluster.get(NodeReport, "", name) is None:
            yield StoppedAgent(ObjectMeta(name=name), has_run=False)
        else:
            pods = tuple(pod.uid for pod in _known_pods(cluster, agent, name))
            yield StoppedAgent(
                ObjectMeta(name=name),
                mode=mode,
                choices=choices,
                nodes=nodes,
                pools=pools,
                pods=pods,
                bgp=tuple(cluster.all(BGPConfiguration)),
                bgp_peers=tuple(cluster.all(BGPPeer)),
                secrets=tuple(_known_secrets(cluster)),
                bgp_filters=tuple(cluster.all(BGPFilter)),
                services=tuple(cluster.all(Service)) if has_services else (),
                slices=tuple(cluster.all(EndpointSlice)) if has_services else (),
                policies=policies.name if policies is not None else "",
            )


def is_agent(agent: CniAgent | None, pod: Pod) -> bool:
    """Return True for a pod of the DaemonSet of the CNI plugin's agents."""
    return (
        agent is not None
        and pod.namespace == agent.namespace
        and pod.spec.host_network
        and agent.labels.items() <= pod.labels.items()
    )


def _nodes_with_agents(cluster: Cluster, agent: CniAgent) -> set[str]:
    """Return the names of the nodes on which an agent runs, or is about to start."""
    return {
        pod.spec.node_name
        for pod in cluster.select(agent.namespace, agent.labels)
        if is_agent(agent, pod)
        and not pod.is_terminating
        and not pod.is_finished
        and stopping_fault(cluster, pod) is None
    }


def _known_pods(cluster: Cluster, agent: CniAgent | None, node: str) -> Sequence[Pod]:
    """Return the pods that the agent of a node knows now."""
    knows_all = agent is not None and agent.knows_all_pods
    return cluster.all(Pod) if knows_all else cluster.pods_on(node)


def _known_secrets(cluster: Cluster) -> Iterator[Secret]:
    """Yield the Secrets from which agents have passwords, as far as they exist."""
    sources = [
        *(configuration.spec.node_mesh_password for configuration in cluster.all(BGPConfiguration)),
        *(peer.spec.password for peer in cluster.all(BGPPeer)),
    ]
    references = [source.secret_key_ref for source in sources if source is not None]
    names = {reference.name for reference in references if reference is not None}
    for name in sorted({network(cluster).credential_name, *names}):
        if (secret := cluster.get(Secret, PLUGIN_NAMESPACE, name)) is not None:
            yield secret


def _known(cluster: Cluster, node: Node) -> KnownNode:
    """Return a node as agents know it now."""
    ranges = ALLOCATORS[network(cluster).ipam].ranges(cluster, node)
    return KnownNode(
        node,
        tuple(own.cidrs for own in ranges),
        tuple(own.tunnels for own in ranges),
    )
