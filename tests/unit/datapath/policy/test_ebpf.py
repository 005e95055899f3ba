"""The policy engine ebpf: entries of maps have the verdicts of the evaluator."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from kubenetlab.api.json_types import JsonObject
from kubenetlab.api.meta import LabelSelector
from kubenetlab.api.object_map import ObjectKey
from kubenetlab.api.policies.network_policy import NetworkPolicy
from kubenetlab.api.store import Cluster
from kubenetlab.datapath.identities import numbers_of
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.datapath.policy.members import PodGroup, policy_pods
from kubenetlab.datapath.policy.peers import FIRST_OWN, PeerTable, peer_table
from kubenetlab.datapath.policy.rules import IsolatingPolicy, PolicyRule
from kubenetlab.datapath.policy.rules import isolating as isolating_of
from kubenetlab.datapath.policy.verdicts import PORT_BITS, port_prefixes
from kubenetlab.hoststate.rules.bpf_objects import BpfObject
from kubenetlab.hoststate.rules.cilium_entries import FIRST_LABEL_IDENTITY, POLICY_PREFIX
from kubenetlab.hoststate.rules.cilium_policies import (
    CiliumPeer,
    CiliumPoliced,
    CiliumPolicies,
    CiliumRange,
)
from kubenetlab.hoststate.rules.rulesets import RuleObject, members
from kubenetlab.hoststate.rules.transactions import steps
from kubenetlab.observe.policies.evaluator import Evaluator
from kubenetlab.versioned import VersionedMap
from tests.clusters import applied, running
from tests.examples import examples
from tests.policies import POLICIES, TRAFFIC, cilium_cluster, node_rules, pod, with_policies
from tests.policy_maps import PolicyMaps
from tests.tier_policies import WORLDS, Document, parties_of, with_tiers


def peer_table_of(cluster: Cluster) -> PeerTable:
    """Return the identities of IPv4 for the NetworkPolicies of a cluster."""
    cache = PlanCache()
    entries = (entry for policy in cluster.all(NetworkPolicy) for entry in isolating_of(policy))
    numbers, groups = numbers_of(cluster, cache), VersionedMap[ObjectKey, tuple[PodGroup, ...]]()
    return peer_table(cache, 4, tuple(entries), policy_pods(cluster, cache), numbers, groups)


def peer_table_of_ranges(*ranges: tuple[str, ...]) -> PeerTable:
    """Return the identities for a policy whose rules have these ranges as peers."""
    rules = tuple(
        PolicyRule(index, False, (), each, True, (), ()) for index, each in enumerate(ranges)
    )
    subjects = PodGroup.of("default", LabelSelector())
    policy = IsolatingPolicy("default/p", "Ingress", subjects, rules)
    nothing: VersionedMap[ObjectKey, Any] = VersionedMap()
    return peer_table(PlanCache(), 4, (policy,), nothing, nothing, nothing)


def objects(cluster: Cluster) -> list[RuleObject]:
    return [*members(node_rules("ebpf", cluster))]


def isolating(*ingress: JsonObject) -> Cluster:
    """Return a cluster in which the pods of the namespace `default` accept only this."""
    spec = {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [*ingress], "egress": []}
    return with_policies([{"namespace": "default", "spec": spec}])


def assert_same_verdicts(cluster: Cluster) -> None:
    maps, evaluator = PolicyMaps(objects(cluster)), Evaluator(cluster)
    for version in (4, 6):
        parties = parties_of(version)
        for source in parties:
            for destination in parties:
                for traffic in TRAFFIC if source != destination else ():
                    verdict = evaluator.verdict(source, destination, traffic)
                    found = maps.is_allowed(source.address, destination.address, traffic)
                    assert found == verdict.is_allowed, (source, destination, traffic, verdict)


@settings(max_examples=examples(20), deadline=None)
@given(policies=st.lists(POLICIES, max_size=4))
def test_entries_have_the_verdicts_of_the_evaluator(policies: list[JsonObject]) -> None:
    assert_same_verdicts(with_policies(policies))


@settings(max_examples=examples(20), deadline=None)
@given(world=WORLDS)
def test_entries_have_the_verdicts_of_tiers(world: tuple[list[Document], list[Document]]) -> None:
    assert_same_verdicts(with_tiers(*world))


@given(ends=st.tuples(st.integers(0, 65535), st.integers(0, 65535)).map(sorted))
def test_prefixes_cover_a_range_of_ports(ends: list[int]) -> None:
    """Each port of the range is in one prefix, and no other port is in any."""
    first, last = ends
    following = first
    for port, length in port_prefixes(first, last):
        assert port == following
        assert port % (1 << (PORT_BITS - length)) == 0
        following = port + (1 << (PORT_BITS - length))
    assert following == last + 1


def test_pods_with_the_same_policies_share_entries() -> None:
    every = {
        obj.name: obj.policies for obj in objects(isolating()) if isinstance(obj, CiliumPoliced)
    }
    assert every.keys() == {"default/web", "default/db"}
    assert len(set(every.values())) == 1


def test_identities_are_those_of_labels_where_labels_decide() -> None:
    """A range, and pods in it, have identities of their own."""
    peer: JsonObject = {"podSelector": {"matchLabels": {"app": "db"}}}
    identities = {
        obj.identity
        for obj in objects(isolating({"from": [peer]}))
        if isinstance(obj, CiliumPolicies)
    }
    assert all(FIRST_LABEL_IDENTITY <= each < FIRST_OWN for each in identities - {0})
    block: JsonObject = {"ipBlock": {"cidr": "10.244.1.2/31"}}
    found = {
        obj.cidr: obj.identity
        for obj in objects(isolating({"from": [peer, block]}))
        if isinstance(obj, CiliumPeer)
    }
    assert {"10.244.1.2/32", "10.244.1.3/32", "10.244.1.2/31"} == found.keys()
    assert len(set(found.values())) == 3
    assert all(each >= FIRST_OWN for each in found.values())


def test_more_ranges_than_16_bits_count_have_identities() -> None:
    """Each rule names another range. Only the loader limits their number, to that of the map."""
    cidrs = [f"{IPv4Address(number << 8)}/24" for number in range((1 << 16) + 1)]
    table = peer_table_of_ranges(*((cidr,) for cidr in cidrs))
    assert {cidr for cidr, _ in table.ranges} == set(cidrs)
    identities = {identity for _, identity in table.ranges}
    assert len(identities) == len(cidrs)
    assert all(FIRST_OWN <= each < 2 * FIRST_OWN for each in identities)


def test_the_ranges_of_one_rule_have_one_identity() -> None:
    """The time for them grows with their number, and not with its square."""
    cidrs = tuple(f"{IPv4Address(number << 8)}/24" for number in range(30000))
    table = peer_table_of_ranges(cidrs)
    assert len(table.ranges) == len(cidrs)
    assert {identity for _, identity in table.ranges} == table.by_ranges[cidrs]
    assert len(table.by_ranges[cidrs]) == 1


def test_a_range_that_is_the_address_of_a_pod_leaves_the_pod_its_labels() -> None:
    """Two rules concern the pod: one by its address, and one by its labels."""
    block: JsonObject = {"ipBlock": {"cidr": "10.244.1.3/32"}}
    peer: JsonObject = {"podSelector": {"matchLabels": {"app": "db"}}}
    rules: list[JsonObject] = [{"from": [block], "ports": [{"port": 1}]}, {"from": [peer]}]
    cluster = isolating(*rules)
    assert_same_verdicts(cluster)
    assert [type(obj) for obj in objects(cluster) if isinstance(obj, CiliumPeer)] == [CiliumPeer]


def test_named_ports_are_those_of_the_destination() -> None:
    spec = {
        "podSelector": {},
        "policyTypes": ["Egress"],
        "egress": [{"ports": [{"port": "http"}]}],
        "ingress": [],
    }
    assert_same_verdicts(with_policies([{"namespace": "default", "spec": spec}]))


def test_pods_that_labels_do_not_distinguish_have_own_identities() -> None:
    """Two pods with the same labels have a port with the same name, by different numbers."""
    spec = {
        "podSelector": {},
        "policyTypes": ["Egress"],
        "egress": [{"ports": [{"port": "http"}]}],
        "ingress": [],
    }
    twin = pod("default/web").replace("8080", "80").replace("name: web", "name: twin")
    same = twin.replace("app: web", "app: web, tier: front")
    cluster = with_policies([{"namespace": "default", "spec": spec}])
    worlds = running(applied(cilium_cluster(), same)).with_changes(cluster.all(NetworkPolicy))
    table = peer_table_of(worlds)
    assert table.addresses.keys() == {"10.244.1.2", "10.244.1.6"}
    ports = {number: port for found in table.by_name.values() for number, port in found}
    assert [ports[table.addresses[each]] for each in sorted(table.addresses)] == [8080, 80]


def test_long_prefixes_are_set_first_and_deleted_last() -> None:
    """A packet has the old or the new verdict while entries change."""
    ports: JsonObject = {"ports": [{"port": 79, "endPort": 8080}]}
    for obj in objects(isolating(ports)):
        if isinstance(obj, CiliumPolicies):
            lengths = [entry.prefix_length for entry in obj.ports]
            assert lengths == sorted(lengths, reverse=True)
            assert lengths[0] == POLICY_PREFIX


def test_verdicts_come_before_identities_and_endpoints() -> None:
    """No packet meets an identity, or policies of a pod, without verdicts."""
    before, after = (
        node_rules("ebpf", cluster)
        for cluster in (
            with_policies([]),
            isolating({"from": [{"ipBlock": {"cidr": "198.51.100.0/24"}}]}),
        )
    )
    assert any(isinstance(obj, CiliumRange) for obj in members(after))
    (transaction,) = steps(before, after, {}, anew=False)
    order = ("cilium_rules", "cilium_policy", "cilium_policed", "cilium_cidr")
    positions = [transaction.text.index(f'["{name}"') for name in order]
    assert positions == sorted(positions)
    (removal,) = steps(after, before, {}, anew=False)
    positions = [removal.text.index(f'["{name}"') for name in order]
    assert positions == sorted(positions, reverse=True)


def test_without_policies_there_are_no_entries() -> None:
    maps = {
        name
        for obj in objects(with_policies([]))
        if isinstance(obj, BpfObject)
        for (name, _), _ in obj.entries()
    }
    assert maps == {"cilium_config", "cilium_lxc", "cilium_ipcache"}
