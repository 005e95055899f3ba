"""Layer `bgp router`: BIRD on the fabric's router, if the router has BGP."""

from __future__ import annotations

from collections.abc import Iterator

from kubenetlab.datapath.layers.layer import (
    DesiredObjects,
    Inputs,
    Layer,
    PlanContext,
    by_namespace,
)
from kubenetlab.datapath.network import bgp_router
from kubenetlab.datapath.network.bgp import bgp_mode
from kubenetlab.datapath.network.bgp_router import Neighbor
from kubenetlab.datapath.view import without_pods
from kubenetlab.hoststate.object import Origin


def _inputs(context: PlanContext) -> Iterator[tuple[str, Inputs]]:
    settings = context.cluster.config.fabric.bgp
    if settings is not None:
        yield "", (settings.as_number, bgp_neighbors(context))


def bgp_neighbors(context: PlanContext) -> tuple[Neighbor, ...]:
    """Return the nodes that have sessions with the fabric's router; none if it has no BGP."""
    mode = bgp_mode(context.cni)
    if context.cluster.config.fabric.bgp is None or mode is None:
        return ()
    neighbors = (
        context.cache(("bgp neighbor", node.name), bgp_router.neighbor, mode, without_pods(node))
        for node in context.nodes
    )
    return tuple(each for each in neighbors if each is not None)


def _objects(as_number: int, neighbors: tuple[Neighbor, ...]) -> tuple[DesiredObjects, ...]:
    origin = Origin("fabric", "BGP of the router")
    return tuple(by_namespace(bgp_router.router(as_number, neighbors), origin))


LAYER = Layer("bgp router", _inputs, _objects)
