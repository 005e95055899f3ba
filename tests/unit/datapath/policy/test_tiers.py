"""Rules of tiers without selectors: the same verdicts as by the definition of the API."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given

from kubenetlab.api.core import Node
from kubenetlab.api.policies.network_policy import Direction, NetworkPolicy
from kubenetlab.api.policies.tiers import TIER_KINDS
from kubenetlab.api.store import Cluster
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.datapath.policy import nftables
from kubenetlab.datapath.policy.rules import IsolatingPolicy, isolating
from kubenetlab.datapath.policy.stages import stages
from kubenetlab.datapath.policy.tiers import addressees, in_tier
from kubenetlab.datapath.policy_rules import policy_rules
from kubenetlab.hoststate.rules.nftables import Chain
from kubenetlab.observe.policies.evaluator import Evaluator, Party, Traffic
from tests.policies import CLUSTER, TRAFFIC
from tests.tier_policies import WORLDS, Document, parties_of, with_tiers
from tests.unit.datapath.policy.test_rules import Rules


class TierRules(Rules):
    """Verdicts by the stages of each pod."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        known = addressees(cluster)
        self._policies = [
            *(entry for policy in cluster.all(NetworkPolicy) for entry in isolating(policy)),
            *(
                entry
                for kind in reversed(TIER_KINDS)
                for policy in reversed(cluster.all(kind))
                for entry in in_tier(policy, known)
            ),
        ]

    def _is_direction_allowed(
        self,
        direction: Direction,
        subject: Party,
        peer: Party,
        destination: Party,
        traffic: Traffic,
    ) -> bool:
        of_pod = stages(
            [policy for policy in self._policies if self._selects(policy, subject)], direction
        )

        for stage in of_pod:
            actions = (
                rule.action
                for policy in stage.policies
                for rule in policy.rules
                if rule.action != "Log" and self._matches(rule, peer, destination, traffic)
            )
            default = "Deny" if stage.isolates else "Pass"
            is_own_node = not destination.pod and subject.node == destination.node
            if stage.spares_own_node and is_own_node:
                return True
            if (decided := next(actions, default)) != "Pass":
                return decided == "Accept"
        return True


@given(world=WORLDS)
def test_stages_have_the_verdicts_of_the_definition(
    world: tuple[list[Document], list[Document]],
) -> None:
    """All pairs of pods, nodes and a host outside, in both IP versions."""
    cluster = with_tiers(*world)
    evaluator, by_rules = Evaluator(cluster), TierRules(cluster)
    for version in (4, 6):
        parties = parties_of(version)
        for source in parties:
            for destination in parties:
                if not source.pod and source.node == destination.node == "worker":
                    continue
                for traffic in TRAFFIC:
                    expected = evaluator.verdict(source, destination, traffic)
                    if expected.exemption == "a node always reaches its own pods":
                        continue
                    actual = by_rules.is_allowed(source, destination, traffic)
                    assert actual == expected.is_allowed, (source, destination, traffic, expected)


def _spec(priority: int, peer: Document, protocols: Sequence[Document] = ()) -> Document:
    rule: Document = {"action": "Deny", "to": [peer]}
    if protocols:
        rule["protocols"] = list(protocols)
    return {
        "tier": "Admin",
        "priority": priority,
        "subject": {"namespaces": {}},
        "egress": [rule],
    }


def _directed(spec: Document) -> IsolatingPolicy:
    cluster = with_tiers([], [spec])
    (policy,) = (each for kind in TIER_KINDS for each in cluster.all(kind))
    (directed,) = in_tier(policy, addressees(cluster))
    return directed


def test_nodes_become_ranges_of_their_addresses() -> None:
    hostname = {"matchLabels": {"kubernetes.io/hostname": "worker"}}
    node = CLUSTER.get(Node, "", "worker")
    assert node is not None
    (rule,) = _directed(_spec(1, {"nodes": hostname})).rules
    assert [text.partition("/")[0] for text in rule.ranges] == list(node.addresses)


@pytest.mark.parametrize(("name", "count"), [("http", 3), ("No Port", 0)])
def test_a_named_port_has_every_protocol(name: str, count: int) -> None:
    """A name that no container port can have never matches."""
    (rule,) = _directed(_spec(1, {"namespaces": {}}, [{"destinationNamedPort": name}])).rules
    assert [port.protocol for port in rule.port_names] == ["TCP", "UDP", "SCTP"][:count]
    assert not rule.is_any_port


def test_pods_with_the_same_policies_share_a_chain() -> None:
    """The chain of a tier is the same for all pods, and has all rules in order of priority."""
    cluster = with_tiers([], [_spec(2, {"nodes": {}}), _spec(1, {"networks": ["10.0.0.0/8"]})])
    rules = policy_rules(cluster, PlanCache(), nftables.Mode(), (4,))
    chains = {
        obj.name: obj
        for of_node in rules.of_nodes.values()
        for of_backend in of_node
        for subject in of_backend.by_subject.values()
        for obj in subject.shared
        if isinstance(obj, Chain)
    }
    (chain,) = chains.values()
    assert chain.name.startswith("admin-egress-")
    assert [rule.comment for rule in chain.rules] == [
        "ClusterNetworkPolicy c1 Egress rule 0",
        "ClusterNetworkPolicy c0 Egress rule 0",
    ]
