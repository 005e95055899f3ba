"""Layer `pod`: namespaces of pods, and the objects that CNI plugin and kube-proxy add for each."""

from __future__ import annotations

from collections.abc import Iterator

from kubenetlab.datapath import pods
from kubenetlab.datapath.layers.layer import (
    DesiredObjects,
    Inputs,
    Layer,
    PlanContext,
    by_namespace,
    mode_name,
)
from kubenetlab.datapath.modes import CNI, ServiceProxy
from kubenetlab.datapath.view import NodeView, PodView
from kubenetlab.hoststate.object import Object, Origin


def _inputs(context: PlanContext) -> Iterator[tuple[str, Inputs]]:
    for node in context.nodes:
        proxy = context.proxy(node)
        for view in node.pods:
            successor = node.successor_of(view)
            yield view.netns, (node, view, successor, context.cni, proxy.mode, proxy.component)


def _objects(
    node: NodeView,
    pod: PodView,
    successor: PodView | None,
    cni: CNI,
    proxy: ServiceProxy,
    component: str,
) -> tuple[DesiredObjects, ...]:
    title = f"Pod {pod.full_name}"
    sandbox = by_namespace(pods.sandbox(node, pod), Origin("kubelet", title))
    if not pod.is_attached:
        return tuple(sandbox)
    return (
        *sandbox,
        *by_namespace(_attached(node, pod, successor, cni), Origin(mode_name("cni", cni), title)),
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


LAYER = Layer("pod", _inputs, _objects)
