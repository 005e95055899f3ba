"""The plan: the kernel objects that every component of a cluster wants, computed by layers.

Layers (`layers/`) see nodes as NodeViews. Equal inputs return the identical value as before, so an
unchanged namespace is not compared again.
"""

from __future__ import annotations

from kubenetlab.api.core import Event
from kubenetlab.api.kinds import STORED
from kubenetlab.api.lab import Decisions, NodeReport, PodRuntimeStatus
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster
from kubenetlab.controllers.cluster.cni_agents import is_agent
from kubenetlab.controllers.kubelet.killing import pending_kills
from kubenetlab.datapath import containers, faults
from kubenetlab.datapath.agents.health import AgentHealth, agent_plan
from kubenetlab.datapath.cluster_modes import decided_cni
from kubenetlab.datapath.hooks import hooks
from kubenetlab.datapath.layers import LAYERS
from kubenetlab.datapath.layers.layer import DesiredObjects, PlanContext, pods_of
from kubenetlab.datapath.layers.programs import setups_of
from kubenetlab.datapath.modes import PodNetwork
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.datapath.pod_view import PodView
from kubenetlab.datapath.probes import ProbeSpec, probes
from kubenetlab.datapath.startup import is_any_pod_starting
from kubenetlab.datapath.view import NodeView, node_views, without_pods, without_pods_and_peers
from kubenetlab.errors import BugError
from kubenetlab.hoststate.object import Key, Object, Origin
from kubenetlab.hoststate.sandbox import Settings, Sysctl
from kubenetlab.hoststate.state import Contents, HostState, contents_of

__all__ = ["PlanCache", "plan"]

_Merged = tuple[Contents, dict[Key, Origin]]
"""Objects of one namespace, and the origin of each by its key."""

_PLANNED_FROM = tuple(kind for kind in STORED if kind not in (Event, NodeReport, PodRuntimeStatus))


def plan_inputs(cluster: Cluster, cache: PlanCache) -> tuple[object, ...]:
    """Return the objects of the store from which `plan` and `plan_probes` are computed.

    While every element is identical to the previous call's, the plan is unchanged. Events and
    reports of nodes change often and concern only the controllers, except whether a container is
    starting.
    """
    objects = (cluster.by_key(kind) for kind in _PLANNED_FROM)
    return (*objects, is_any_pod_starting(cluster, cache))


def plan(cluster: Cluster, decisions: Decisions, cache: PlanCache | None = None) -> HostState:
    """Return every kernel object that the lab should have, namespace by namespace.

    Settings named by a `Sysctl` are left out of the general `Settings` of the same namespace.
    Raises BugError when two layers want different versions of the same object.
    """
    cache = cache or PlanCache()
    context = PlanContext(cluster, decisions, cache)
    groups_by_netns: dict[str, list[DesiredObjects]] = {}
    for layer in LAYERS:
        for subject, inputs in layer.inputs(context):
            for objects, origin in cache((layer.name, subject), layer.objects, *inputs):
                groups_by_netns.setdefault(objects[0].netns, []).append((objects, origin))
    merged = {
        netns: cache(("contents", netns), _merge, netns, tuple(groups))
        for netns, groups in groups_by_netns.items()
    }
    _break(context, merged)
    return HostState(
        {netns: contents for netns, (contents, _) in merged.items()},
        {netns: origins for netns, (_, origins) in merged.items()},
        _guarded(context),
    )


def _guarded(context: PlanContext) -> frozenset[str]:
    """Return the namespaces of the pods that must not be connected before the policies' rules."""
    isolated, nodes = context.policy_rules.isolated, context.nodes
    if not isolated:
        return frozenset()
    return context.cache.by_identity(
        ("guarded", len(nodes)),
        lambda: frozenset(
            view.netns
            for node in nodes
            for view in node.pods
            if (view.namespace, view.name) in isolated
        ),
        isolated,
        *nodes,
    )


def _break(context: PlanContext, merged: dict[str, _Merged]) -> None:
    """Replace the objects that faults of nodes change."""
    nodes = {node.name: node for node in context.nodes}
    for fault, fault_type in faults.active_faults(context.cluster):
        node = nodes.get(fault.spec.node)
        if node is None:
            continue
        origin = Origin(f"fault {fault.spec.fault}", f"Node {node.name}")
        network, view = context.cni_of(node).network(node), without_pods(node)
        for netns in fault_type.namespaces(node):
            merged[netns] = context.cache(
                ("broken", fault.name, netns),
                _broken,
                netns,
                merged[netns],
                fault_type,
                view,
                network,
                origin,
            )


def _broken(
    netns: str,
    merged: _Merged,
    fault: faults.BreakOptions,
    node: NodeView,
    network: PodNetwork,
    origin: Origin,
) -> _Merged:
    """Return the objects of a namespace as a fault changes them."""
    desired, origins = merged
    objects = contents_of(fault.objects(netns, tuple(desired.values()), node, network))
    changed = {key: origin for key, obj in objects.items() if desired.get(key) != obj}
    return objects, {**origins, **changed}


def plan_probes(
    cluster: Cluster, decisions: Decisions, cache: PlanCache
) -> dict[str, tuple[ProbeSpec, ...]]:
    """Return the probes and lifecycle hooks that the kubelets run now, by sandbox."""
    desired: dict[str, tuple[ProbeSpec, ...]] = {}
    cni = decided_cni(cluster.config, decisions)
    for node in node_views(cluster, decisions, cache):
        for view, pod in pods_of(cluster, node, cache):
            netns, setups = view.netns, setups_of(cache, cluster, pod, view, decisions)
            killed = tuple(pending_kills(cluster, pod))
            plan = agent_plan(node, cni, cache) if is_agent(cni.facts.agent, pod) else None
            desired[netns] = cache(
                ("probes", netns),
                _probes,
                without_pods_and_peers(node),
                view,
                pod,
                setups,
                killed,
                plan.health if plan is not None else None,
            )
    return {netns: specs for netns, specs in desired.items() if specs}


def _probes(
    node: NodeView,
    view: PodView,
    pod: Pod,
    setups: containers.Setups,
    killed: tuple[str, ...],
    health: AgentHealth | None,
) -> tuple[ProbeSpec, ...]:
    return (
        *probes(node, view, pod, setups, killed, health),
        *hooks(node, view, pod, setups, killed),
    )


def _merge(netns: str, groups: tuple[DesiredObjects, ...]) -> _Merged:
    """Return the objects of one namespace, and the origin of each by its key."""
    origins: dict[Key, Origin] = {}
    objects_by_key: dict[Key, Object] = {}
    for objects, origin in groups:
        for obj in objects:
            existing = objects_by_key.get(obj.key)
            if existing is not None and existing != obj:
                raise BugError(
                    f"{netns}: {origins[obj.key]} wants “{existing}”, {origin} wants “{obj}”"
                )
            objects_by_key[obj.key] = obj
            origins[obj.key] = origin
    if own_paths := {obj.path for obj in objects_by_key.values() if isinstance(obj, Sysctl)}:
        objects_by_key |= {
            key: obj.without(own_paths)
            for key, obj in objects_by_key.items()
            if isinstance(obj, Settings)
        }
    return contents_of(objects_by_key.values()), origins
