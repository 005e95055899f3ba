"""Layer `bgp router`: BIRD on the fabric's router, if the router has BGP."""

from __future__ import annotations

from collections.abc import Iterator

from kubenetlab import names
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
    if settings is None:
        return
    for number in range(1, settings.routers + 1):
        yield str(number), (settings.as_number, bgp_neighbors(context, number), number)


def bgp_neighbors(context: PlanContext, number: int = 1) -> tuple[Neighbor, ...]:
    """Return the nodes that have sessions with a router of the fabric; none if it has no BGP.

    number: 1 for the first router.
    """
    mode = bgp_mode(context.cni)
    if context.cluster.config.fabric.bgp is None or mode is None:
        return ()
    neighbors = (
        context.cache(
            ("bgp neighbor", number, node.name),
            bgp_router.neighbor,
            mode,
            without_pods(node),
            number,
        )
        for node in context.nodes
    )
    return tuple(each for each in neighbors if each is not None)


def _objects(
    as_number: int, neighbors: tuple[Neighbor, ...], number: int
) -> tuple[DesiredObjects, ...]:
    origin = Origin("fabric", f"BGP of {names.ROUTERS[number - 1]}")
    return tuple(by_namespace(bgp_router.router(as_number, neighbors, number), origin))


LAYER = Layer("bgp router", _inputs, _objects)
