"""Layer `load balancers`: the router's routes to addresses of Services."""

from __future__ import annotations

from collections.abc import Iterator

from kubenetlab.datapath.layers.bgp_router import bgp_neighbors
from kubenetlab.datapath.layers.layer import (
    DesiredObjects,
    Inputs,
    Layer,
    PlanContext,
    by_namespace,
)
from kubenetlab.datapath.network import load_balancers
from kubenetlab.hoststate.object import Origin


def _inputs(context: PlanContext) -> Iterator[tuple[str, Inputs]]:
    addresses = tuple(
        (address, node.segment) for node in context.nodes for address in node.addresses
    )
    # Where nodes announce an address by BGP, the router has its route from them.
    announced = [prefix for neighbor in bgp_neighbors(context) for prefix in neighbor.services]
    hops = load_balancers.next_hops(context.cluster, context.proxy_views, announced)
    yield "", (hops, addresses)


def _objects(
    hops: tuple[load_balancers.AddressNextHops, ...], nodes: tuple[tuple[str, int], ...]
) -> tuple[DesiredObjects, ...]:
    return tuple(
        by_namespace(
            load_balancers.routes(hops, nodes),
            Origin("load balancer", "Services of type LoadBalancer"),
        )
    )


LAYER = Layer("load balancers", _inputs, _objects)
