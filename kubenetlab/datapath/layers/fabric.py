"""Layer `fabric`: the switch, the router, the internet and its hosts."""

from __future__ import annotations

from collections.abc import Iterator

from kubenetlab import names
from kubenetlab.api.config import DEFAULT_MTU, ExternalHost
from kubenetlab.datapath.layers.layer import (
    DesiredObjects,
    Inputs,
    Layer,
    PlanContext,
    by_namespace,
)
from kubenetlab.datapath.network import fabric
from kubenetlab.datapath.network.fabric import Segment
from kubenetlab.datapath.network.port_mappings import PublishedPort
from kubenetlab.hoststate.object import Origin


def _inputs(context: PlanContext) -> Iterator[tuple[str, Inputs]]:
    config = context.cluster.config
    segments = fabric.segments(context.nodes)
    routers = config.fabric.routers
    yield "", (config.external, config.networking.versions, segments, context.published, routers)


def _objects(
    external: tuple[ExternalHost, ...],
    versions: tuple[int, ...],
    segments: tuple[Segment, ...],
    published: tuple[PublishedPort, ...],
    routers: int,
) -> tuple[DesiredObjects, ...]:
    internet = {names.SWITCH_BRIDGE: ("0a:58:00:00:00:02", DEFAULT_MTU)}
    groups = [
        (
            tuple(fabric.switch(names.FABRIC_SWITCH, fabric.bridges_of(segments))),
            Origin("fabric", "the wire between the nodes"),
        ),
        (
            tuple(fabric.switch(names.INTERNET_SWITCH, internet)),
            Origin("fabric", "the internet"),
        ),
        *(
            group
            for number in range(1, routers + 1)
            for group in by_namespace(
                fabric.router(versions, segments, number),
                Origin("fabric", "the router" if number == 1 else f"router {number}"),
            )
        ),
    ]
    # Only the first host gets the published ports: it stands for the machine on which kind's nodes
    # are containers.
    for index, host in enumerate(external):
        objects = fabric.external(host, versions, () if index else published)
        groups += by_namespace(objects, Origin("fabric", f"external host {host.name}"))
    return tuple(groups)


LAYER = Layer("fabric", _inputs, _objects)
