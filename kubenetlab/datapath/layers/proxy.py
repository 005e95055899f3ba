"""Layer `proxy`: the rules of Services on each node, by the view of the node's kube-proxy."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import structs

from kubenetlab.datapath.layers.layer import (
    DesiredObjects,
    Inputs,
    Layer,
    PlanContext,
    by_namespace,
)
from kubenetlab.datapath.modes import PodNetwork, ServiceProxy
from kubenetlab.datapath.service_rules import service_rules
from kubenetlab.datapath.view import NodeView, without_pods
from kubenetlab.hoststate.object import Object, Origin
from kubenetlab.hoststate.rules.rulesets import NodeRules, RuleObject, RuleSet


def _inputs(context: PlanContext) -> Iterator[tuple[str, Inputs]]:
    for node in context.nodes:
        proxy = context.proxy(node)
        rules = service_rules(context.cache, proxy.mode, proxy.view, node, proxy.network)
        yield node.name, (without_pods(node), rules, proxy.mode, proxy.network, proxy.component)


def _objects(
    node: NodeView,
    rules: tuple[RuleSet[RuleObject] | Object, ...],
    proxy: ServiceProxy,
    network: PodNetwork,
    component: str,
) -> tuple[DesiredObjects, ...]:
    of_services = (
        NodeRules(node.netns, entry)
        if isinstance(entry, RuleSet)
        else structs.replace(entry, netns=node.netns)
        for entry in rules
    )
    origin = Origin(component, f"Node {node.name}")
    return tuple(by_namespace((*proxy.node(node, network), *of_services), origin))


LAYER = Layer("proxy", _inputs, _objects)
