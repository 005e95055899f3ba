"""Rules of tiers in the engine nftables: each connection has the verdict of the evaluator.

Random ClusterNetworkPolicies and NetworkPolicies decide together. Packets go between pods, to and
from the node of the pods and another one, and to and from a host outside.
"""

from __future__ import annotations

from typing import cast

from hypothesis import given, settings

from kubenetlab.api.store import Cluster
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.datapath.policy import nftables as engine
from kubenetlab.datapath.policy_rules import policy_rules
from kubenetlab.hoststate.rules import nftables as nftables_rules
from kubenetlab.hoststate.rules.nftables import NftObject
from kubenetlab.hoststate.rules.nftables.transactions import transaction_text
from kubenetlab.hoststate.rules.rulesets import NodeRules, RuleSet
from kubenetlab.observe.policies.evaluator import Evaluator
from tests.examples import examples
from tests.kernel.pod_network import Drops, Network, run_ip, write_setting
from tests.kernel.test_nftables import open_loader
from tests.tier_policies import WORLDS, Document, parties_of, with_tiers

LIKE_HOSTS = (
    ("ipv4/icmp_ratelimit", "0"),
    ("ipv6/icmp/ratelimit", "0"),
    ("ipv4/ping_group_range", "0 2147483647"),
)
Rules = NftObject | NodeRules[NftObject]
NODE, OTHER_NODE = "worker", "worker2"


class NetworkWithNodes(Network):
    """A network in which the node of the pods and another one are hosts, too."""

    def __init__(self) -> None:
        super().__init__()
        self.parties = [tuple(parties_of(version)) for version in (4, 6)]
        own, other = (
            [p.address for parties in self.parties for p in parties if not p.pod and p.node == name]
            for name in (NODE, OTHER_NODE)
        )
        for path, value in LIKE_HOSTS:
            write_setting(path, value)
        self._add(len(self.parties[0]), other)
        run_ip("link set lo up", *(f"address add {address} dev lo nodad" for address in own))
        self._open(own, self.home)


def desired_rules(cluster: Cluster, cache: PlanCache) -> list[Rules]:
    """Return the rules of the node on which all pods are."""
    rules = policy_rules(cluster, cache, engine.Mode(), (4, 6))
    result: list[Rules] = []
    for version in (4, 6):
        result += engine.base(engine.FamilyTable.of(version))
    for owner, sets in (("policies", rules.shared), ("pods", rules.of_nodes.get(NODE, ()))):
        result += (NodeRules("", cast("RuleSet[NftObject]", each), owner) for each in sets)
    return result


def test_connections_have_the_verdicts_of_the_evaluator() -> None:
    """Each example is one transaction on top of the previous one."""
    network, loader, cache = NetworkWithNodes(), open_loader("library"), PlanCache()
    loaded: list[Rules] = []

    @settings(max_examples=max(30, examples(100)), deadline=None)
    @given(world=WORLDS)
    def check(world: tuple[list[Document], list[Document]]) -> None:
        nonlocal loaded
        cluster = with_tiers(*world)
        desired = desired_rules(cluster, cache)
        if commands := nftables_rules.transaction(loaded, desired):
            loader.run(transaction_text(commands))
        loaded = desired
        evaluator = Evaluator(cluster)
        for source, destination, traffic, is_answered in network.connections(Drops(loader)):
            verdict = evaluator.verdict(source, destination, traffic)
            assert is_answered == verdict.is_allowed, (source, destination, traffic, verdict)

    check()
    loader.close()
