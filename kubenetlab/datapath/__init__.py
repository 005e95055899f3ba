"""The plan: the kernel objects that every component of a cluster wants, made of the store by layers (`layers/`).

Layers see nodes as NodeViews. Equal inputs give the very same value as before, so an unchanged namespace is not compared again.
"""

from __future__ import annotations

from kubenetlab.api.core import Event
from kubenetlab.api.kinds import STORED
from kubenetlab.api.lab import Decisions, NodeReport, PodRuntimeStatus
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster
from kubenetlab.controllers.killing import awaited
from kubenetlab.controllers.startup_order import is_anybody_starting
from kubenetlab.datapath import containers
from kubenetlab.datapath.hooks import hooks
from kubenetlab.datapath.layers import LAYERS
from kubenetlab.datapath.layers.layer import Scene, Wanted, pods_of
from kubenetlab.datapath.layers.programs import setups_of
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.datapath.probes import ProbeSpec, probes
from kubenetlab.datapath.view import NodeView, PodView, by_itself, node_views
from kubenetlab.errors import BugError
from kubenetlab.hoststate.object import Key, Object, Origin
from kubenetlab.hoststate.sandbox import Settings, Sysctl
from kubenetlab.hoststate.state import Contents, HostState, contents_of

_PLANNED_FROM = tuple(kind for kind in STORED if kind not in (Event, NodeReport, PodRuntimeStatus))


def basis(cluster: Cluster) -> tuple[object, ...]:
    """Return what `plan` and `plan_probes` follow from: while these are the very same objects, so is the plan.

    Events and reports of nodes change often and concern the controllers alone, except for whether any container is still starting.
    """
    return (*cluster.snapshot(_PLANNED_FROM), is_anybody_starting(cluster))


def plan(cluster: Cluster, decisions: Decisions, memo: PlanCache | None = None) -> HostState:
    """Return every kernel object that the lab should have, namespace by namespace.

    Raises BugError when two layers want the same object differently. A single setting takes precedence over a namespace's general
    settings.
    """
    memo = memo or PlanCache()
    scene = Scene(cluster, decisions, memo)
    wanted: dict[str, list[Wanted]] = {}
    for layer in LAYERS:
        for subject, inputs in layer.inputs(scene):
            for objects, origin in memo((layer.name, subject), layer.objects, *inputs):
                wanted.setdefault(objects[0].netns, []).append((objects, origin))
    merged = {
        netns: memo(("contents", netns), _merge, netns, tuple(groups))
        for netns, groups in wanted.items()
    }
    return HostState(
        {netns: contents for netns, (contents, _) in merged.items()},
        {netns: origins for netns, (_, origins) in merged.items()},
    )


def plan_probes(
    cluster: Cluster, decisions: Decisions, memo: PlanCache
) -> dict[str, tuple[ProbeSpec, ...]]:
    """Return the probes and hooks that kubelets run now, by sandbox."""
    desired: dict[str, tuple[ProbeSpec, ...]] = {}
    for node in node_views(cluster, decisions):
        for view, pod in pods_of(cluster, node, memo):
            netns, setups = view.netns, setups_of(memo, cluster, pod, view, decisions)
            killed = tuple(awaited(cluster, pod))
            desired[netns] = memo(
                ("probes", netns), _probes, by_itself(node), view, pod, setups, killed
            )
    return {netns: specs for netns, specs in desired.items() if specs}


def _probes(
    node: NodeView, view: PodView, pod: Pod, setups: containers.Setups, killed: tuple[str, ...]
) -> tuple[ProbeSpec, ...]:
    return (*probes(node, view, pod, setups, killed), *hooks(node, view, pod, setups, killed))


def _merge(netns: str, groups: tuple[Wanted, ...]) -> tuple[Contents, dict[Key, Origin]]:
    origins: dict[Key, Origin] = {}
    found: dict[Key, Object] = {}
    for objects, origin in groups:
        for obj in objects:
            other = found.get(obj.key)
            if other is not None and other != obj:
                raise BugError(
                    f"{netns}: {origins[obj.key]} wants “{other}”, {origin} wants “{obj}”"
                )
            found[obj.key] = obj
            origins[obj.key] = origin
    if said := {obj.path for obj in found.values() if isinstance(obj, Sysctl)}:
        found |= {key: obj.without(said) for key, obj in found.items() if isinstance(obj, Settings)}
    return contents_of(found.values()), origins
