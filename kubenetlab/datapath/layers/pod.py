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
from kubenetlab.hoststate.object import Origin


def _inputs(context: PlanContext) -> Iterator[tuple[str, Inputs]]:
    for node in context.nodes:
        proxy = context.proxy(node)
        for view in node.pods:
            yield view.netns, (node, view, context.cni, proxy.mode, proxy.component)


def _objects(
    node: NodeView, pod: PodView, cni: CNI, proxy: ServiceProxy, component: str
) -> tuple[DesiredObjects, ...]:
    title = f"Pod {pod.full_name}"
    sandbox = by_namespace(pods.sandbox(node, pod), Origin("kubelet", title))
    if not pod.is_attached:
        return tuple(sandbox)
    return (
        *sandbox,
        *by_namespace(cni.pod(node, pod), Origin(mode_name("cni", cni), title)),
        *by_namespace(proxy.pod(node, pod), Origin(component, title)),
    )


LAYER = Layer("pod", _inputs, _objects)
