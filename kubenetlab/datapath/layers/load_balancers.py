"""Layer `load balancers`: the router's routes to addresses of Services."""

from __future__ import annotations

from collections.abc import Iterator

from kubenetlab.datapath import loadbalancers
from kubenetlab.datapath.layers.layer import Inputs, Layer, Scene, Wanted, by_namespace
from kubenetlab.hoststate.object import Origin


def _inputs(scene: Scene) -> Iterator[tuple[str, Inputs]]:
    addresses = tuple(address for node in scene.nodes for address in node.addresses)
    yield "", (loadbalancers.ways_in(scene.cluster), addresses)


def _objects(ways: tuple[loadbalancers.Way, ...], nodes: tuple[str, ...]) -> tuple[Wanted, ...]:
    return tuple(
        by_namespace(
            loadbalancers.routes(ways, nodes),
            Origin("load balancer", "Services of type LoadBalancer"),
        )
    )


LAYER = Layer("load balancers", _inputs, _objects)
