"""Layer `host ports`: ports of nodes that lead to pods."""

from __future__ import annotations

from collections.abc import Iterator

from kubenetlab.datapath.layers.layer import (
    DesiredObjects,
    Inputs,
    Layer,
    PlanContext,
    by_namespace,
)
from kubenetlab.datapath.network import host_ports
from kubenetlab.datapath.view import NodeView
from kubenetlab.hoststate.object import Origin


def _inputs(context: PlanContext) -> Iterator[tuple[str, Inputs]]:
    for node in context.nodes:
        if context.cni_of(node).network(node).maps_host_ports:
            yield node.name, (node,)


def _objects(node: NodeView) -> tuple[DesiredObjects, ...]:
    return tuple(by_namespace(host_ports.rules(node), Origin("cni portmap", f"Node {node.name}")))


LAYER = Layer("host ports", _inputs, _objects)
