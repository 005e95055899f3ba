"""Layer `uplink`: the router's link to the machine's own network."""

from __future__ import annotations

from collections.abc import Iterator

from kubenetlab.api.config import ClusterConfig
from kubenetlab.api.lab import Uplink
from kubenetlab.datapath.layers.layer import (
    DesiredObjects,
    Inputs,
    Layer,
    PlanContext,
    by_namespace,
)
from kubenetlab.datapath.network import uplink
from kubenetlab.datapath.network.port_mappings import PublishedPort
from kubenetlab.hoststate.object import Origin


def _inputs(context: PlanContext) -> Iterator[tuple[str, Inputs]]:
    if (link := context.cluster.get(Uplink, "", "uplink")) is not None:
        yield "", (link, context.published, context.cluster.config)


def _objects(
    link: Uplink, published: tuple[PublishedPort, ...], config: ClusterConfig
) -> tuple[DesiredObjects, ...]:
    return tuple(
        by_namespace(
            uplink.router(link, published, config), Origin("uplink", "the machine's own network")
        )
    )


LAYER = Layer("uplink", _inputs, _objects)
