"""Cilium's policies without selectors: the same verdicts as by their definition."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given

from kubenetlab.api.policies.cilium_rules import CILIUM_KINDS
from kubenetlab.api.policies.network_policy import Direction
from kubenetlab.api.store import Cluster
from kubenetlab.datapath.policy.cilium import of_cilium
from kubenetlab.datapath.policy.cilium_peers import cilium_objects
from kubenetlab.datapath.policy.conditions import Condition, ICMPIs, OwnNode, ProtocolIs
from kubenetlab.datapath.policy.rules import IsolatingPolicy, PolicyRule
from kubenetlab.datapath.policy.stages import stages
from kubenetlab.observe.policies.evaluator import Evaluator, Party, Traffic
from tests.cilium_policies import WORLDS, with_cilium
from tests.policies import TRAFFIC
from tests.tier_policies import Document, parties_of
from tests.unit.datapath.policy.test_tiers import TierRules

_PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132}


class CiliumStages(TierRules):
    """Verdicts by the stages of each pod, with Cilium's policies."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        known = cilium_objects(cluster)
        self._policies += [
            entry
            for kind in CILIUM_KINDS
            for policy in cluster.all(kind)
            for entry in of_cilium(policy, known)
        ]

    def _is_direction_allowed(
        self,
        direction: Direction,
        subject: Party,
        peer: Party,
        destination: Party,
        traffic: Traffic,
    ) -> bool:
        applying = [policy for policy in self._policies if self._selects(policy, subject)]
        is_own_node = not peer.pod and subject.node == peer.node
        for stage in stages(applying, direction):
            policies = stage.for_own_node if is_own_node else stage.policies
            actions = (
                rule.action
                for policy in policies
                for rule in policy.rules
                if self._matches(rule, peer, destination, traffic)
                and self._meets(rule, destination, traffic, is_own_node=is_own_node)
            )
            isolates = any(policy.isolates for policy in policies)
            if (decided := next(actions, "Deny" if isolates else "Pass")) != "Pass":
                return decided == "Accept"
            if stage.isolates:
                return True
        return True

    def _meets(
        self, rule: PolicyRule, destination: Party, traffic: Traffic, *, is_own_node: bool
    ) -> bool:
        version = ip_address(destination.address).version
        protocol = _PROTOCOLS.get(traffic.protocol, 1 if version == 4 else 58)

        def is_met(condition: Condition) -> bool:
            match condition:
                case OwnNode(is_negated):
                    return is_own_node != is_negated
                case ProtocolIs(number):
                    return number == protocol
                case ICMPIs(number):
                    return number == (8 if version == 4 else 128)
            raise AssertionError(condition)

        return version in rule.versions and all(map(is_met, rule.conditions))


@given(world=WORLDS)
def test_stages_have_the_verdicts_of_the_definition(
    world: tuple[list[Document], list[Document], list[Document]],
) -> None:
    """All pairs of pods, nodes and a host outside, in both IP versions."""
    cluster = with_cilium(*world)
    evaluator, by_rules = Evaluator(cluster), CiliumStages(cluster)
    for version in (4, 6):
        parties = parties_of(version)
        for source in parties:
            for destination in parties:
                if not source.pod and source.node == destination.node:
                    continue
                for traffic in TRAFFIC:
                    expected = evaluator.verdict(source, destination, traffic)
                    actual = by_rules.is_allowed(source, destination, traffic)
                    assert actual == expected.is_allowed, (source, destination, traffic, expected)


def directed(spec: Document, namespace: str = "default") -> list[IsolatingPolicy]:
    cluster = with_cilium([], [], [{"namespace": namespace, "specs": [spec]}])
    (policy,) = (each for kind in CILIUM_KINDS for each in cluster.all(kind))
    return list(of_cilium(policy, cilium_objects(cluster)))


def test_rules_that_deny_are_a_policy_before_those_that_allow() -> None:
    """Names in the kernel tell them apart, and only the second one isolates."""
    spec: Document = {
        "endpointSelector": {},
        "ingress": [{"fromEndpoints": [{}]}],
        "ingressDeny": [{"fromEntities": ["world"]}],
    }
    deny, allow = directed(spec)
    assert (deny.name, deny.isolates) == ("default/p0_deny", False)
    assert (allow.name, allow.isolates) == ("default/p0", True)
    assert deny.priority < allow.priority
    assert [rule.action for rule in (*deny.rules, *allow.rules)] == ["Deny", "Accept"]


@pytest.mark.parametrize("entity", ["world", "world-ipv4", "world-ipv6"])
def test_hosts_outside_have_no_address_of_pods_and_nodes(entity: str) -> None:
    spec: Document = {"endpointSelector": {}, "ingress": [{"fromEntities": [entity]}]}
    ((rule,),) = (policy.rules for policy in directed(spec))
    networks = [ip_network(cidr) for cidr in rule.ranges]
    for version in (4, 6):
        for party in parties_of(version):
            is_outside = not (party.pod or party.node)
            assert any(ip_address(party.address) in each for each in networks) == (
                is_outside and entity in ("world", f"world-ipv{version}")
            )


def test_selectors_that_match_no_pod_have_no_rule() -> None:
    """Policies with subjects that cannot exist are left out."""
    nobody: Document = {"matchLabels": {"container:app": "web"}}
    spec: Document = {"endpointSelector": {}, "ingress": [{"fromEndpoints": [nobody]}]}
    (policy,) = directed(spec)
    assert policy.rules == ()
    assert directed({"endpointSelector": nobody, "ingress": [{}]}) == []
