"""Layer `uplink`: the router's link to the machine's own network."""

from __future__ import annotations

from collections.abc import Iterator

from kubenetlab.api.config import ClusterConfig
from kubenetlab.api.lab import Uplink
from kubenetlab.datapath import uplink
from kubenetlab.datapath.layers.layer import Inputs, Layer, Scene, Wanted, by_namespace
from kubenetlab.datapath.port_mappings import PublishedPort
from kubenetlab.hoststate.object import Origin


def _inputs(scene: Scene) -> Iterator[tuple[str, Inputs]]:
    if (link := scene.cluster.get(Uplink, "", "uplink")) is not None:
        yield "", (link, scene.published, scene.cluster.config)


def _objects(
    link: Uplink, published: tuple[PublishedPort, ...], config: ClusterConfig
) -> tuple[Wanted, ...]:
    return tuple(
        by_namespace(
            uplink.router(link, published, config), Origin("uplink", "the machine's own network")
        )
    )


LAYER = Layer("uplink", _inputs, _objects)
