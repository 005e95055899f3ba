"""Rules of Cilium's policies in the engine ebpf: each connection has the evaluator's verdict.

Random policies of Cilium decide together with NetworkPolicies and ClusterNetworkPolicies. Packets
go between pods, to and from the node of the pods and another one, and to and from a host outside.
"""

from __future__ import annotations

from hypothesis import given, settings

from kubenetlab.observe.policies.evaluator import Evaluator
from tests.cilium_policies import WORLDS, with_cilium
from tests.examples import examples_with_packets
from tests.kernel.pod_network import add_nodes
from tests.kernel.test_policy_rules import loaded_rules, network_of
from tests.policies import node_rules
from tests.tier_policies import Document


def test_connections_have_the_verdicts_of_the_evaluator() -> None:
    """Each example is one change on top of the previous one."""
    network = network_of("ebpf")
    add_nodes(network)
    with loaded_rules("ebpf") as (load, dropped):

        @settings(max_examples=examples_with_packets(100), deadline=None)
        @given(world=WORLDS)
        def check(world: tuple[list[Document], list[Document], list[Document]]) -> None:
            cluster = with_cilium(*world)
            load(node_rules("ebpf", cluster))
            evaluator = Evaluator(cluster)
            for source, destination, traffic, is_answered in network.connections(dropped):
                verdict = evaluator.verdict(source, destination, traffic)
                assert is_answered == verdict.is_allowed, (source, destination, traffic, verdict)

        check()
