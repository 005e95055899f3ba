"""Rules of tiers in the policy engines: each connection has the verdict of the evaluator.

Random ClusterNetworkPolicies and NetworkPolicies decide together. Packets go between pods, to and
from the node of the pods and another one, and to and from a host outside.
"""

from __future__ import annotations

from hypothesis import given, settings

from kubenetlab.observe.policies.evaluator import Evaluator
from tests.examples import examples_with_packets
from tests.kernel.pod_network import add_nodes
from tests.kernel.test_policy_rules import ENGINES, loaded_rules, network_of
from tests.policies import node_rules
from tests.tier_policies import WORLDS, Document, with_tiers


@ENGINES
def test_connections_have_the_verdicts_of_the_evaluator(engine: str) -> None:
    """Each example is one change on top of the previous one."""
    network = network_of(engine)
    add_nodes(network)
    with loaded_rules(engine) as (load, dropped):

        @settings(max_examples=examples_with_packets(100), deadline=None)
        @given(world=WORLDS)
        def check(world: tuple[list[Document], list[Document]]) -> None:
            cluster = with_tiers(*world)
            load(node_rules(engine, cluster))
            evaluator = Evaluator(cluster)
            for source, destination, traffic, is_answered in network.connections(dropped):
                verdict = evaluator.verdict(source, destination, traffic)
                assert is_answered == verdict.is_allowed, (source, destination, traffic, verdict)

        check()
