"""Layer `balanced ports`: load balancers that terminate connections (`ipMode: Proxy`)."""

from __future__ import annotations

from collections.abc import Iterator

from kubenetlab.datapath.layers.layer import (
    DesiredObjects,
    Inputs,
    Layer,
    PlanContext,
    by_namespace,
)
from kubenetlab.datapath.network import balanced_ports
from kubenetlab.hoststate.object import Origin


def _inputs(context: PlanContext) -> Iterator[tuple[str, Inputs]]:
    yield "", (balanced_ports.balanced_ports(context.cluster, context.proxy_views),)


def _objects(ports: tuple[balanced_ports.BalancedPort, ...]) -> tuple[DesiredObjects, ...]:
    return tuple(
        by_namespace(
            balanced_ports.rules(ports), Origin("load balancer", "Services with ipMode Proxy")
        )
    )


LAYER = Layer("balanced ports", _inputs, _objects)
