"""Layer `policies`: the rules of network policies on each node.

Without policies nodes have no such rules. A node whose agent of the CNI plugin is stopped has the
rules of the policies that the agent knows, if the agent enforces policies.
"""

from __future__ import annotations

from collections.abc import Iterator

from kubenetlab.datapath.layers.layer import DesiredObjects, Inputs, Layer, PlanContext, mode_name
from kubenetlab.datapath.modes import PodNetwork, PolicyEngine
from kubenetlab.datapath.policy_rules import RuleSets
from kubenetlab.datapath.view import NodeView, without_pods
from kubenetlab.hoststate.object import Origin
from kubenetlab.hoststate.rules.rulesets import NodeRules


def _inputs(context: PlanContext) -> Iterator[tuple[str, Inputs]]:
    for node in context.nodes:
        known = context.policies_of(node)
        if known.rules.are_needed:
            network = context.cni_of(node).network(node)
            own = known.rules.of_nodes.get(node.name, ())
            yield node.name, (without_pods(node), known.rules.shared, own, known.engine, network)


def _objects(
    node: NodeView, shared: RuleSets, own: RuleSets, engine: PolicyEngine, network: PodNetwork
) -> tuple[DesiredObjects, ...]:
    objects = (
        *engine.node(node, network),
        *(NodeRules(node.netns, rules, "policies") for rules in shared),
        *(NodeRules(node.netns, rules, "isolated pods") for rules in own),
    )
    origin = Origin(mode_name("policy", engine), f"Node {node.name}")
    return ((objects, origin),) if objects else ()


LAYER = Layer("policies", _inputs, _objects)
