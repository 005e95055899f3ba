"""Rules of Calico's policies: chains of both engines, and changes computed incrementally."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenetlab.api.store import Cluster
from kubenetlab.datapath import modes
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.datapath.policy_rules import PolicyRules, policy_rules
from kubenetlab.hoststate.rules.iptables import IptablesChain
from kubenetlab.hoststate.rules.nftables import Chain
from kubenetlab.hoststate.rules.rulesets import members
from tests.calico_policies import WORLDS, with_calico
from tests.policies import node_rules
from tests.tier_policies import Document

ENGINES = pytest.mark.parametrize("engine", ["nftables", "iptables"])


def rules_of(cluster: Cluster, engine: str, cache: PlanCache) -> PolicyRules:
    return policy_rules(cluster, cache, modes.load("policy", engine, {}), (4, 6))


def as_text(rules: PolicyRules) -> object:
    """Return all rules in an order of their own."""
    sets = {"shared": rules.shared, **rules.of_nodes}
    return {
        (place, each.backend): sorted(map(repr, each.by_subject.values()))
        for place, several in sets.items()
        for each in several
    }


@ENGINES
@given(worlds=st.lists(WORLDS, min_size=2, max_size=3))
def test_changes_give_the_same_rules_as_a_new_computation(
    engine: str, worlds: list[tuple[list[Document], list[Document], list[Document]]]
) -> None:
    """Policies, network sets and tiers replace each other, and are gone in the end."""
    cache = PlanCache()
    for world in (*worlds, ([], [], [])):
        cluster = with_calico(*world)
        incremental = rules_of(cluster, engine, cache)
        assert as_text(incremental) == as_text(rules_of(cluster, engine, PlanCache()))


def chains(engine: str, policies: Sequence[Document]) -> dict[str, tuple[str, ...]]:
    """Return the chains for IPv4 on the node, by name."""
    return {
        obj.name: tuple(map(str, obj.rules))
        for obj in members(node_rules(engine, with_calico([], [], policies)))
        if isinstance(obj, Chain | IptablesChain) and obj.family in ("ip", "ipv4", "iptables")
    }


def policy(**spec: object) -> list[Document]:
    return [{"namespace": "", "spec": {"selector": "app == 'db'", **spec}}]


def test_a_pass_leaves_the_tier() -> None:
    """In iptables by a mark, in nftables by a return to the chain with the look-ups."""
    passing = policy(ingress=[{"action": "Pass", "protocol": "TCP"}, {"action": "Deny"}])
    by_name = chains("iptables", passing)
    (of_pod,) = (rules for name, rules in by_name.items() if name.startswith("cali-tw-"))
    assert of_pod[-1].startswith("-m mark --mark 0x0/0x20000 ")
    assert of_pod[-1].endswith("-j DROP")
    (of_policy,) = (rules for name, rules in by_name.items() if name.startswith("cali-pi-"))
    assert of_policy[1] == "-m mark --mark 0x20000/0x20000 -j RETURN"
    by_name = chains("nftables", passing)
    (isolated,) = (rules for name, rules in by_name.items() if name.startswith("isolated-"))
    assert isolated[0].startswith("meta l4proto tcp return")


def test_a_log_has_a_group_of_its_own() -> None:
    """Its packets are not counted as drops."""
    logging = policy(ingress=[{"action": "Log"}, {"action": "Allow"}])
    for engine, text in (("iptables", "--nflog-group 101"), ("nftables", "group 101")):
        rules = [rule for several in chains(engine, logging).values() for rule in several]
        assert sum(text in rule for rule in rules) == 1


def test_conditions_with_alternatives_become_several_rules() -> None:
    """More ports than a match of iptables can have, a name, and a selector with network sets."""
    ports = [*range(100, 132, 2), "http"]
    rule = {
        "action": "Allow",
        "protocol": "TCP",
        "source": {"selector": "role == 'partner' || app == 'web'"},
        "destination": {"ports": ports},
    }
    (of_policy,) = (
        rules
        for name, rules in chains("iptables", policy(ingress=[rule])).items()
        if name.startswith("cali-pi-")
    )
    assert len(of_policy) == 2 * 3 + 1
    negated = {**rule, "destination": {"notPorts": ports}, "source": {}}
    (of_policy,) = (
        rules
        for name, rules in chains("iptables", policy(ingress=[negated])).items()
        if name.startswith("cali-pi-")
    )
    assert of_policy[0].count("-m multiport ! --dports") == 2
    assert "-m set ! --match-set cali40n:tcp-http dst,dst" in of_policy[0]
