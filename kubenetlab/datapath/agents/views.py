"""Knowledge of the CNI plugin's agent of each node, from which the plan computes its objects.

An agent that runs knows everything that its node's view has. One that is stopped knows what it knew
then (`StoppedAgent`), so the objects that it has written stay, and later changes are missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from msgspec import structs

from kubenetlab.api.lab import Decisions, NetworkFacts
from kubenetlab.api.plugins.cni_agents import KnownNode, StoppedAgent
from kubenetlab.api.store import Cluster
from kubenetlab.controllers.nodes.ipam import network
from kubenetlab.controllers.nodes.ipam.allocator import NodeRanges
from kubenetlab.datapath import modes
from kubenetlab.datapath.bgp_view import bgp_node, bgp_view
from kubenetlab.datapath.modes import CNI
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.datapath.services.addresses import service_addresses
from kubenetlab.datapath.view import Family, NodeView, Peer, cni_password, families
from kubenetlab.hoststate.daemons import Daemon
from kubenetlab.hoststate.object import Object

AgentViews = Mapping[str, NodeView | None]
"""Name of a node whose agent is stopped → the view of the agent; None if none has ever run."""


def agent_views(cluster: Cluster, nodes: Sequence[NodeView], cache: PlanCache) -> AgentViews:
    """Return the views of stopped agents; all other agents know the view of their node."""
    stopped = cluster.by_key(StoppedAgent)
    if not stopped:
        return {}
    return cache.by_identity(
        "agent views",
        lambda: _agent_views(cluster, nodes, cluster.all(StoppedAgent)),
        nodes,
        stopped,
    )


def _agent_views(
    cluster: Cluster, nodes: Sequence[NodeView], stopped: Sequence[StoppedAgent]
) -> AgentViews:
    by_name = {node.name: node for node in nodes}
    return {
        state.name: _last_view(cluster, by_name[state.name], state) if state.has_run else None
        for state in stopped
        if state.name in by_name
    }


def _last_view(cluster: Cluster, node: NodeView, state: StoppedAgent) -> NodeView:
    """Return what a stopped agent knows."""
    facts = _facts(cluster, state)
    agent = facts.agent
    announced = agent is not None and agent.announces_services
    past = Cluster().with_changes(
        (
            *state.bgp,
            *state.bgp_peers,
            *state.bgp_filters,
            *state.services,
            *state.slices,
            *state.secrets,
        )
    )
    bgp = bgp_view(past)
    known = {
        other.name: Peer(other.name, _families(cluster, facts, other), bgp_node(other.node, bgp))
        for other in state.nodes
    }
    me = known.get(node.name, Peer(node.name, node.families, node.bgp))
    return structs.replace(
        node,
        families=me.families,
        peers=tuple(peer for name, peer in known.items() if name != node.name),
        pods=tuple(pod for pod in node.pods if pod.uid in state.pods),
        ip_pools=state.pools,
        bgp=me.bgp,
        bgp_view=bgp,
        password=cni_password(past, facts),
        services=service_addresses(past) if announced else (),
    )


def _facts(cluster: Cluster, state: StoppedAgent) -> NetworkFacts:
    """Return the properties of the CNI mode with the options that a stopped agent knows."""
    now, (name, options) = network(cluster), state.mode
    if name != now.mode[0] or options == now.mode[1]:
        return now
    facts = modes.load("cni", name, options).facts
    return structs.replace(facts, mode=state.mode, has_proxy=now.has_proxy)


def agent_modes(cluster: Cluster, decisions: Decisions) -> Mapping[str, CNI]:
    """Return the CNI mode with other options that stopped agents know, by the node's name."""
    name, proxy_mode = decisions.cni_mode, modes.proxy_mode(cluster.config.networking)[0]
    return {
        state.name: modes.load("cni", name, state.choices).beside(proxy_mode)
        for state in cluster.all(StoppedAgent)
        if state.has_run and state.mode[0] == name and state.choices != decisions.cni_options
    }


def _families(cluster: Cluster, facts: NetworkFacts, known: KnownNode) -> tuple[Family, ...]:
    ranges = [
        NodeRanges(cidrs, tunnels)
        for cidrs, tunnels in zip(known.ranges, known.tunnels, strict=True)
    ]
    return families(cluster.config, facts, known.node, ranges)


def knows_pod(views: AgentViews, node: str, uid: str) -> bool:
    """Return True if the agent of a node has been running since a pod of the node exists."""
    if node not in views:
        return True
    view = views[node]
    return view is not None and any(pod.uid == uid for pod in view.pods)


def unannounced(views: AgentViews, node: NodeView) -> tuple[str, ...]:
    """Return the destinations to which other nodes announce no route to a node.

    Their agents are stopped, and do not know the node or the destination.
    """
    missing: list[str] = []
    for peer in node.peers:
        if peer.name not in views:
            continue
        view = views[peer.name]
        announced: set[str] = set()
        if view is not None and any(other.name == node.name for other in view.peers):
            announced = set(_destinations(view.families))
        missing += [each for each in _destinations(peer.families) if each not in announced]
    return tuple(missing)


def _destinations(families: Sequence[Family]) -> Iterator[str]:
    for family in families:
        yield family.pod_cidr
        yield from family.ranges


def expecting_no(objects: Iterator[Object], destinations: Sequence[str]) -> Iterator[Object]:
    """Yield objects; their daemons do not have to provide routes to these destinations."""
    for obj in objects:
        if isinstance(obj, Daemon) and destinations:
            provides = tuple(route for route in obj.provides if route not in destinations)
            yield structs.replace(obj, provides=provides)
        else:
            yield obj
