"""Agents of CNI plugins as pods: what they log, and what their readiness probes check.

Both follow from the objects that the CNI mode wants on the node, so they hold for every mode.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct

from kubenetlab.api.lab import PodRuntimeStatus
from kubenetlab.api.plugins.cni_agents import CniAgent
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster
from kubenetlab.datapath.modes import CNI
from kubenetlab.datapath.network import bird
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.datapath.program_config import ProgramConfig
from kubenetlab.datapath.view import NodeView, without_pods
from kubenetlab.hoststate.encryption.wireguard import WireguardPeer
from kubenetlab.hoststate.fdb import FdbEntry
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.route import RT_TABLE_MAIN, Route
from kubenetlab.programs import CNI_AGENT
from kubenetlab.programs.cni_agent import HEALTH, HEALTHY, STATE


class AgentHealth(Struct, frozen=True):
    """State of a node's kernel, and of BIRD, with which an agent is healthy."""

    title: str
    """Name of the agent's program in messages."""
    control: str = ""
    """Path of the control socket of BIRD, whose sessions must be established; empty without it."""
    vteps: tuple[tuple[str, str, str], ...] = ()
    """(link, MAC address, address of the node) of each forwarding entry of a VXLAN link."""
    routes: tuple[str, ...] = ()
    """Destinations of routes to pods of other nodes, in the main table."""
    keys: tuple[tuple[str, str, str], ...] = ()
    """(link, public key, address of the node) of each WireGuard peer."""


class AgentPlan(Struct, frozen=True):
    """The agent of one node."""

    health: AgentHealth
    written: dict[str, str]
    """Objects that concern other nodes, for the log: title by key."""
    healthy: str
    """Message of the log when the agent becomes healthy."""


def agent_plan(node: NodeView, cni: CNI, cache: PlanCache) -> AgentPlan | None:
    """Return the agent of a node; None if the CNI mode has no agents."""
    agent = cni.facts.agent
    if agent is None:
        return None
    return cache(("agent", node.name), _agent_plan, without_pods(node), cni, agent)


def _agent_plan(node: NodeView, cni: CNI, agent: CniAgent) -> AgentPlan:
    objects = tuple(cni.node(node))
    ranges = {
        destination
        for peer in node.peers
        for family in peer.families
        for destination in (family.pod_cidr, *family.ranges)
    }
    routes = [obj for obj in objects if isinstance(obj, Route) and obj.destination in ranges]
    health = AgentHealth(
        agent.title,
        bird.CONTROL_PATH if any(map(bird.is_bird, objects)) else "",
        tuple((obj.link, obj.mac, obj.node) for obj in objects if isinstance(obj, FdbEntry)),
        tuple(route.destination for route in routes if route.table == RT_TABLE_MAIN),
        tuple(
            (obj.link, obj.public_key, obj.address)
            for obj in objects
            if isinstance(obj, WireguardPeer)
        ),
    )
    names = {family.address: peer.name for peer in node.peers for family in peer.families}
    return AgentPlan(health, dict(_written(objects, routes, names)), _healthy(objects, health))


def _written(
    objects: Iterable[Object], routes: Iterable[Route], names: dict[str, str]
) -> Iterator[tuple[str, str]]:
    """Yield (key, title) of each object that concerns another node."""
    for address in bird.neighbors(objects):
        yield f"bgp {address}", f"BGP peer {address}{_of(names, address)}"
    for obj in objects:
        if isinstance(obj, FdbEntry):
            title = f"VTEP {obj.node} on {obj.link}{_of(names, obj.node)}"
            yield f"vtep {obj.link} {obj.mac} {obj.node}", title
        elif isinstance(obj, WireguardPeer):
            title = f"WireGuard peer {obj.address} on {obj.link}{_of(names, obj.address)}"
            yield f"wireguard {obj.link} {obj.public_key}", title
    for route in routes:
        yield f"route {route.destination}", str(route)


def _of(names: dict[str, str], address: str) -> str:
    return f" (node {names[address]})" if address in names else ""


def _healthy(objects: Iterable[Object], health: AgentHealth) -> str:
    parts = []
    if sessions := bird.neighbors(objects):
        parts.append(f"BGP sessions established with {', '.join(sessions)}")
    if learned := bird.learned_routes(objects):
        parts.append(f"routes learned to {', '.join(learned)}")
    if health.vteps:
        parts.append(f"{len(health.vteps)} VTEPs present")
    if health.keys:
        parts.append(f"{len(health.keys)} WireGuard peers present")
    if health.routes:
        parts.append(f"{len(health.routes)} routes to other nodes present")
    return f"Ready: {'; '.join(parts)}" if parts else "Ready: there are no other nodes"


def agent_config(cluster: Cluster, pod: Pod, plan: AgentPlan) -> ProgramConfig:
    """Return the configuration of an agent's program: what it logs."""
    container = plan_container(pod)
    runtime = cluster.get(PodRuntimeStatus, pod.namespace, pod.name)
    status = pod.container_status(container)
    health: str | None = None
    if status is not None and status.ready:
        health = ""
    elif runtime is not None and runtime.pod_uid == pod.uid:
        report = runtime.probes.get(f"{container}/readiness")
        health = report.message if report is not None and not report.ok else None
    options = {STATE: plan.written, HEALTH: health, HEALTHY: plan.healthy}
    return ProgramConfig(CNI_AGENT, options)


def plan_container(pod: Pod) -> str:
    """Return the name of the container that runs the agent."""
    return pod.spec.containers[0].name
