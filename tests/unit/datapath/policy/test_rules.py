"""Rules of policies without selectors: the same verdicts as by the definition of the API."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenetlab.api.pods import Pod
from kubenetlab.api.policies.network_policy import Direction, IPBlock, NetworkPolicy
from kubenetlab.api.store import Cluster
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.datapath.policy.members import PodGroup, Pods, PolicyPod, members, policy_pods
from kubenetlab.datapath.policy.rules import (
    IsolatingPolicy,
    PolicyRule,
    PortRange,
    disjoint_ranges,
    isolating,
    merged_ports,
)
from kubenetlab.observe.policies.evaluator import Evaluator, Party, Traffic
from tests.clusters import applied
from tests.policies import CLUSTER, NAMES, OUTSIDE, PODS, POLICIES, TRAFFIC, with_policies


class Rules:
    """Verdicts by the rules of all policies of a cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._cache = cluster, PlanCache()
        self._pods = policy_pods(cluster, self._cache)
        self._policies = [
            entry for policy in cluster.all(NetworkPolicy) for entry in isolating(policy)
        ]

    def _members(self, group: PodGroup) -> Pods:
        return members(self._cache, self._cluster, self._pods, group)

    def is_allowed(self, source: Party, destination: Party, traffic: Traffic) -> bool:
        ends: tuple[tuple[Direction, Party, Party], ...] = (
            ("Egress", source, destination),
            ("Ingress", destination, source),
        )
        return source.pod == destination.pod or all(
            self._is_direction_allowed(*end, destination, traffic) for end in ends
        )

    def _is_direction_allowed(
        self,
        direction: Direction,
        subject: Party,
        peer: Party,
        destination: Party,
        traffic: Traffic,
    ) -> bool:
        policies = [
            policy
            for policy in self._policies
            if policy.direction == direction and self._selects(policy, subject)
        ]
        return not policies or any(
            self._matches(rule, peer, destination, traffic)
            for policy in policies
            for rule in policy.rules
        )

    def _selects(self, policy: IsolatingPolicy, party: Party) -> bool:
        return party.pod in {pod.full_name for pod in self._members(policy.subjects).values()}

    def _matches(self, rule: PolicyRule, peer: Party, destination: Party, traffic: Traffic) -> bool:
        is_peer = (
            rule.is_any_peer
            or any(
                peer.address in pod.addresses
                for group in rule.groups
                for pod in self._members(group).values()
            )
            or any(ip_address(peer.address) in ip_network(cidr) for cidr in rule.ranges)
        )
        is_port = (
            rule.is_any_port
            or any(
                port.protocol == traffic.protocol and port.first <= traffic.port <= port.last
                for port in rule.ports
            )
            or any(
                (name.name, name.protocol, traffic.port) in pod.named_ports
                and name.protocol == traffic.protocol
                for name in rule.port_names
                for pod in self._pods.values()
                if destination.address in pod.addresses
            )
        )
        return is_peer and is_port


@pytest.fixture(scope="module")
def parties() -> list[tuple[Party, ...]]:
    """Return the pods and a host outside, with addresses of each IP version."""
    result = []
    for index, version in enumerate((4, 6)):
        pods = (CLUSTER.get(Pod, *name.split("/")) for name in NAMES)
        result.append(
            (
                *(
                    Party(pod.addresses[index], pod.full_name, f"node of {pod.name}")
                    for pod in pods
                    if pod is not None
                ),
                Party(OUTSIDE[version]),
            )
        )
    return result


@given(policies=st.lists(POLICIES, max_size=3))
def test_rules_have_the_verdicts_of_the_definition(
    parties: list[tuple[Party, ...]], policies: list[dict[str, object]]
) -> None:
    """All pairs of pods and a host outside, in both IP versions."""
    cluster = with_policies(policies)
    evaluator, by_rules = Evaluator(cluster), Rules(cluster)
    for of_version in parties:
        for source in of_version:
            for destination in of_version:
                for traffic in TRAFFIC:
                    expected = evaluator.verdict(source, destination, traffic)
                    actual = by_rules.is_allowed(source, destination, traffic)
                    assert actual == expected.is_allowed, (source, destination, traffic, expected)


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        ([IPBlock("10.0.0.0/30", ("10.0.0.1/32",))], ["10.0.0.0/32", "10.0.0.2/31"]),
        ([IPBlock("10.0.0.0/9"), IPBlock("10.128.0.0/9")], ["10.0.0.0/8"]),
        ([IPBlock("10.0.0.7/8", ("10.0.0.0/8",))], []),
        ([IPBlock("10.0.0.0/8", ("10.0.0.0/16", "10.0.0.0/9"))], ["10.128.0.0/9"]),
        ([IPBlock("10.0.0.0/31", ("10.0.0.0/32",)), IPBlock("10.0.0.0/32")], ["10.0.0.0/31"]),
        (
            [IPBlock("fd00::/127", ("fd00::/128",)), IPBlock("1.1.1.1/32")],
            ["1.1.1.1/32", "fd00::1/128"],
        ),
    ],
)
def test_blocks_become_disjoint_ranges(blocks: list[IPBlock], expected: list[str]) -> None:
    """An exception of one block does not apply to another one."""
    assert list(disjoint_ranges(blocks)) == expected


def test_ports_become_disjoint_ranges() -> None:
    given_ranges = [
        PortRange("UDP", 53, 53),
        PortRange("TCP", 90, 100),
        PortRange("TCP", 80, 95),
        PortRange("TCP", 101, 101),
    ]
    assert list(merged_ports(given_ranges)) == [PortRange("TCP", 80, 101), PortRange("UDP", 53, 53)]


def test_one_changed_pod_changes_only_its_groups() -> None:
    """The members of other groups are the same value as before."""
    cache, cluster = PlanCache(), CLUSTER
    (policy,) = (
        entry
        for policy in with_policies(
            [{"namespace": "default", "spec": {"podSelector": {"matchLabels": {"app": "db"}}}}]
        ).all(NetworkPolicy)
        for entry in isolating(policy)
    )
    before = members(cache, cluster, policy_pods(cluster, cache), policy.subjects)
    assert [pod.full_name for pod in before.values()] == ["default/db"]
    relabelled = applied(
        cluster, PODS.replace("labels: {app: web, tier: front}", "labels: {app: web}")
    )
    pods = policy_pods(relabelled, cache)
    assert isinstance(pods["default", "web"], PolicyPod)
    assert pods["default", "web"].labels == {"app": "web"}
    assert members(cache, relabelled, pods, policy.subjects) is before
