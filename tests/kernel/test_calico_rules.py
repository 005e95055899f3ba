"""Rules of Calico's policies in the policy engines: each connection has the evaluator's verdict.

Random policies of Calico in several tiers decide together with NetworkPolicies and
ClusterNetworkPolicies. Packets go between pods, to and from the node of the pods and another one,
and to and from a host outside.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from kubenetlab.hoststate.rules import nftables as nftables_rules
from kubenetlab.hoststate.rules.nftables import NftObject
from kubenetlab.hoststate.rules.rulesets import members
from kubenetlab.observe.policies.evaluator import Evaluator
from tests.calico_policies import WORLDS, with_calico
from tests.examples import examples, examples_with_packets
from tests.kernel.pod_network import add_nodes
from tests.kernel.test_nft_messages import Side, load_both
from tests.kernel.test_policy_rules import NETFILTER_ENGINES, loaded_rules, network_of
from tests.policies import node_rules
from tests.tier_policies import Document


@NETFILTER_ENGINES
def test_connections_have_the_verdicts_of_the_evaluator(engine: str) -> None:
    """Each example is one change on top of the previous one."""
    network = network_of(engine)
    add_nodes(network)
    with loaded_rules(engine) as (load, dropped):

        @settings(max_examples=examples_with_packets(100), deadline=None)
        @given(world=WORLDS)
        def check(world: tuple[list[Document], list[Document], list[Document]]) -> None:
            cluster = with_calico(*world)
            load(node_rules(engine, cluster))
            evaluator = Evaluator(cluster)
            for source, destination, traffic, is_answered in network.connections(dropped):
                verdict = evaluator.verdict(source, destination, traffic)
                assert is_answered == verdict.is_allowed, (source, destination, traffic, verdict)

        check()


@pytest.mark.first_kernel
def test_messages_and_commands_give_identical_kernel_state() -> None:
    by_library, by_messages = Side(), Side()
    loaded: list[NftObject] = []

    @settings(max_examples=examples(50), deadline=None)
    @given(world=WORLDS)
    def check(world: tuple[list[Document], list[Document], list[Document]]) -> None:
        nonlocal loaded
        rules = node_rules("nftables", with_calico(*world))
        desired = [obj for obj in members(rules) if isinstance(obj, NftObject)]
        if commands := nftables_rules.transaction(loaded, desired):
            load_both(commands, by_library, by_messages)
            assert by_messages.has(desired) == by_library.has(desired)
        loaded = desired

    check()
