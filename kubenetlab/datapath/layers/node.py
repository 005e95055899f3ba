"""Layer `node`: the machine, the CNI plugin's daemon, and masquerade to the outside."""

from __future__ import annotations

from collections.abc import Iterator

from kubenetlab.api.environment import ConfigMap
from kubenetlab.api.masquerade import CONFIG_MAP, MasqueradeConfig, masquerade_config
from kubenetlab.datapath.agents.views import expecting_no, unannounced
from kubenetlab.datapath.layers.layer import (
    DesiredObjects,
    Inputs,
    Layer,
    PlanContext,
    by_namespace,
    mode_name,
)
from kubenetlab.datapath.modes import CNI
from kubenetlab.datapath.network import fabric
from kubenetlab.datapath.view import NodeView
from kubenetlab.hoststate.object import Origin


def _inputs(context: PlanContext) -> Iterator[tuple[str, Inputs]]:
    masquerade = context.cache(
        "masquerade", _masquerade, context.cluster.get(ConfigMap, *CONFIG_MAP)
    )
    views = context.agent_views
    for node in context.nodes:
        known = views.get(node.name, node)
        yield node.name, (node, known, unannounced(views, node), context.cni_of(node), masquerade)


def _masquerade(config_map: ConfigMap | None) -> MasqueradeConfig | None:
    return masquerade_config(config_map) if config_map is not None else None


def _objects(
    node: NodeView,
    known: NodeView | None,
    unannounced: tuple[str, ...],
    cni: CNI,
    masquerade: MasqueradeConfig | None,
) -> tuple[DesiredObjects, ...]:
    """Return the objects of a node.

    known: the node as the CNI plugin's agent knows it; None if no agent has ever run there.
    unannounced: destinations to which no other node announces a route.
    """
    title = f"Node {node.name}"
    groups = [*by_namespace(fabric.node(node), Origin("fabric", title))]
    if known is not None:
        objects = expecting_no(cni.node(known), unannounced)
        groups += by_namespace(objects, Origin(mode_name("cni", cni), title))
        groups += by_namespace(cni.masquerade(known, masquerade), Origin(cni.masquerader, title))
    return tuple(groups)


LAYER = Layer("node", _inputs, _objects)
