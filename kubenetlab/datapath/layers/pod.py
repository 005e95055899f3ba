"""Layer `pod`: namespaces of pods, and the objects that CNI plugin and kube-proxy add for each."""

from __future__ import annotations

from collections.abc import Iterator

from kubenetlab.datapath import pods
from kubenetlab.datapath.agents.views import knows_pod
from kubenetlab.datapath.layers.layer import (
    DesiredObjects,
    Inputs,
    PlanContext,
    PodLayer,
    by_namespace,
    mode_name,
)
from kubenetlab.datapath.modes import CNI, ServiceProxy
from kubenetlab.datapath.pod_view import PodView
from kubenetlab.datapath.view import NodeView
from kubenetlab.hoststate.object import Object, Origin
from kubenetlab.hoststate.route import Route


def _basis(context: PlanContext, node: NodeView) -> Inputs:
    proxy = context.proxy(node)
    known = context.agent_views.get(node.name, node) if context.routed_by_agent else node
    return known, context.cni_of(node), proxy.mode, proxy.component


def _inputs(
    context: PlanContext,
    node: NodeView,
    known: NodeView | None,
    cni: CNI,
    proxy: ServiceProxy,
    component: str,
) -> Iterator[tuple[str, Inputs]]:
    """Yield the inputs of the node's pods.

    known: view of the agent that adds the node's routes to its pods.
    """
    for view in node.pods:
        successor = node.successor_of(view)
        is_routed = known is node or knows_pod({node.name: known}, node.name, view.uid)
        yield view.netns, (node, view, successor, is_routed, cni, proxy, component)


def _objects(
    node: NodeView,
    pod: PodView,
    successor: PodView | None,
    is_routed: bool,
    cni: CNI,
    proxy: ServiceProxy,
    component: str,
) -> tuple[DesiredObjects, ...]:
    """Return the objects of a pod.

    successor: see `_attached`.
    is_routed: False if the agent that adds the node's routes to the pod has not seen the pod.
    """
    title = f"Pod {pod.full_name}"
    sandbox = by_namespace(pods.sandbox(node, pod), Origin("kubelet", title))
    if not pod.is_attached:
        return tuple(sandbox)
    objects = _attached(node, pod, successor, cni)
    if not is_routed:
        objects = (obj for obj in objects if not _is_route(obj, node))
    return (
        *sandbox,
        *by_namespace(objects, Origin(mode_name("cni", cni), title)),
        *by_namespace(proxy.pod(node, pod), Origin(component, title)),
    )


def _attached(
    node: NodeView, pod: PodView, successor: PodView | None, cni: CNI
) -> Iterator[Object]:
    """Yield the objects of a pod that CNI ADD of another one has not replaced.

    successor: pod of the same node that got the same addresses later. Its route to them, and its
    neighbour entry, take the place of those of `pod`, as with `ip route replace`.
    """
    replaced = (
        {obj.key for obj in cni.pod(node, successor) if obj.netns == node.netns}
        if successor is not None
        else ()
    )
    return (obj for obj in cni.pod(node, pod) if obj.netns != node.netns or obj.key not in replaced)


def _is_route(obj: Object, node: NodeView) -> bool:
    return isinstance(obj, Route) and obj.netns == node.netns


LAYER = PodLayer("pod", _basis, _inputs, _objects)
