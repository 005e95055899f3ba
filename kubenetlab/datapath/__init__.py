"""The plan: the kernel objects that every component of a cluster wants, computed by layers.

Layers (`layers/`) see nodes as NodeViews. Equal inputs return the identical value as before, so an
unchanged namespace is not compared again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Final

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
from kubenetlab.datapath.layers import LAYERS, POD_LAYERS
from kubenetlab.datapath.layers.layer import DesiredObjects, PlanContext, basis_of_pods, pods_of
from kubenetlab.datapath.layers.programs import setups_of
from kubenetlab.datapath.modes import CNI, PodNetwork
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.datapath.pod_view import PodView
from kubenetlab.datapath.probes import ProbeSpec, probes
from kubenetlab.datapath.startup import is_any_pod_starting
from kubenetlab.datapath.view import (
    NodeView,
    node_views,
    same_decisions,
    without_pods,
    without_pods_and_peers,
)
from kubenetlab.errors import BugError
from kubenetlab.hoststate.object import Key, Object, Origin
from kubenetlab.hoststate.sandbox import Settings, Sysctl
from kubenetlab.hoststate.state import Contents, HostState, contents_of

__all__ = ["PlanCache", "plan"]

_Merged = tuple[Contents, dict[Key, Origin]]
"""Objects of one namespace, and the origin of each by its key."""
_Groups = tuple[DesiredObjects, ...]
"""Objects of one namespace, in the order of layers."""
_MERGED_TYPES: Final = (Settings, Sysctl)
"""Types of objects that depend on other ones of the same namespace."""

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
    groups = _by_netns(group for layer in LAYERS for group in layer.plan(context))
    pods: dict[str, _Merged] = {}
    for node in context.nodes:
        of_pods = _groups_of_pods(context, node)
        shared = cache.same("shared with pods", node.name, of_pods.keys() & groups.keys())
        for netns in shared:
            groups[netns] += of_pods[netns]
        pods |= cache.by_identity(
            ("contents of pods", node.name),
            partial(_merge_pods, cache, of_pods, shared),
            of_pods,
            shared,
        )
    merged = {netns: _merged(cache, netns, of_netns) for netns, of_netns in groups.items()}
    merged |= pods
    _break(context, merged)
    return HostState(
        {netns: contents for netns, (contents, _) in merged.items()},
        {netns: origins for netns, (_, origins) in merged.items()},
        _guarded(context),
    )


def _groups_of_pods(context: PlanContext, node: NodeView) -> Mapping[str, _Groups]:
    """Return the objects of a node's pods; the identical value while nothing has changed."""
    parts = [layer.plan(context, node) for layer in POD_LAYERS]
    return context.cache.by_identity(
        ("groups of pods", node.name),
        lambda: _by_netns(group for part in parts for group in part),
        *parts,
    )


def _by_netns(groups: Iterable[DesiredObjects]) -> dict[str, _Groups]:
    result: dict[str, list[DesiredObjects]] = {}
    for group in groups:
        result.setdefault(group[0][0].netns, []).append(group)
    return {netns: tuple(of_netns) for netns, of_netns in result.items()}


def _merge_pods(
    cache: PlanCache, groups: Mapping[str, _Groups], shared: AbstractSet[str]
) -> dict[str, _Merged]:
    """Return the contents of the namespaces in which no other layer has objects."""
    return {
        netns: _merged(cache, netns, of_netns)
        for netns, of_netns in groups.items()
        if netns not in shared
    }


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
    decisions = same_decisions(decisions, cache)
    cni = decided_cni(cluster.config, decisions)
    desired: dict[str, tuple[ProbeSpec, ...]] = {}
    for node in node_views(cluster, decisions, cache):
        desired |= cache.by_identity(
            ("probes of a node", node.name),
            partial(_probes_of_node, cluster, node, decisions, cni, cache),
            cluster.by_key(PodRuntimeStatus),
            *basis_of_pods(cluster, node, decisions, cache),
        )
    return desired


def _probes_of_node(
    cluster: Cluster, node: NodeView, decisions: Decisions, cni: CNI, cache: PlanCache
) -> dict[str, tuple[ProbeSpec, ...]]:
    desired: dict[str, tuple[ProbeSpec, ...]] = {}
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


def _merged(cache: PlanCache, netns: str, groups: _Groups) -> _Merged:
    """Return the objects of one namespace, and the origin of each by its key."""

    def build(former: tuple[_Groups, _Merged] | None) -> _Merged:
        updated = _with_replaced_objects(*former, groups) if former is not None else None
        return updated or _merge(netns, groups)

    return cache.from_former(("contents", netns), build, groups)


def _with_replaced_objects(before: _Groups, merged: _Merged, groups: _Groups) -> _Merged | None:
    """Return merged objects after some groups got other objects with the same keys.

    Return None if more than that has changed.
    """
    contents, origins = merged
    if len(before) != len(groups) or sum(len(objects) for objects, _ in groups) != len(contents):
        return None  # as well if several layers want the same object
    replaced: dict[Key, Object] = {}
    for old, new in zip(before, groups, strict=True):
        if old is new:
            continue
        if old[1] != new[1] or len(old[0]) != len(new[0]):
            return None
        for obj, other in zip(old[0], new[0], strict=True):
            if obj.key != other.key or obj.rank != other.rank or isinstance(obj, _MERGED_TYPES):
                return None
            replaced[other.key] = other
    return {**contents, **replaced}, origins


def _merge(netns: str, groups: _Groups) -> _Merged:
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
