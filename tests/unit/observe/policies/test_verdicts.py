"""Verdicts about probes: the ends that policies see, Services, and the result that is expected."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster
from kubenetlab.observe.expect import expect
from kubenetlab.observe.policies.evaluator import Evaluator
from kubenetlab.observe.policies.model import Party, Verdict
from kubenetlab.observe.policies.reasons import lookup_denials, reasons
from kubenetlab.observe.policies.verdicts import Decision
from tests.calico_policies import WORLDS as CALICO_WORLDS
from tests.calico_policies import with_calico
from tests.clusters import DUAL
from tests.policies import POLICIES, TRAFFIC, with_policies
from tests.tier_policies import Document
from tests.unit.observe.policies.worlds import (
    DENY,
    NO_EGRESS,
    PODS,
    TIER,
    World,
    pod,
    policy,
    world,
)


@pytest.mark.parametrize(
    ("policies", "source", "destination", "expected"),
    [
        ("deny web", "client", "web", "nothing"),
        ("deny web", "web", "client", "answer"),
        ("deny web", "web", "node:worker2", "answer"),
        ("deny web", "node:worker", "web", "answer"),
        ("deny web", "node:worker2", "web", "nothing"),
        ("from nodes", "node:worker2", "web", "answer"),
        ("from nodes", "agent", "web", "answer"),
        ("deny web", "agent", "web", "nothing"),
        ("deny web", "ext:client", "web", "nothing"),
        ("from client", "client", "web", "answer"),
        ("from client", "far", "web", "nothing"),
        ("no egress of client", "client", "web", "nothing"),
        ("no egress of client", "client", "node:worker", "answer"),
        ("no egress of client", "client", "node:worker2", "nothing"),
        ("no egress of client", "client", "agent", "nothing"),
        ("no egress of client", "client", "ext:client", "nothing"),
        ("no egress of client", "web", "client", "answer"),
    ],
)
def test_pings_follow_the_policies(
    policies: str, source: str, destination: str, expected: str
) -> None:
    """A node reaches its own pods; other nodes and hosts are addresses."""
    assert world(policies).expected(source, destination) == expected


@pytest.mark.parametrize(
    ("policies", "source", "destination", "expected"),
    [
        ("deny web", "client", "svc:web", "nothing"),
        ("deny web", "web", "svc:web", "answer"),  # a pod reaches itself through its Service
        ("deny web", "node:worker", "svc:web", "answer"),
        ("deny web", "node:worker2", "svc:web", "nothing"),
        ("from client", "client", "svc:web", "answer"),
        ("from client", "far", "svc:web", "nothing"),
        ("no egress of client", "client", "svc:web", "nothing"),
        ("no egress of client", "far", "svc:web", "answer"),
        (
            "no egress of client",
            "client",
            "svc:none",
            "any",
        ),  # refused before or after the policies
        ("no egress of client", "far", "svc:none", "refused"),
        ("from outside", "ext:client", "lb:kept", "answer"),
        ("from client", "ext:client", "lb:kept", "nothing"),
        # Any node may receive the packet: on the pod's own node it keeps its source.
        ("from outside", "ext:client", "lb:open", "any"),
        ("from nodes", "ext:client", "lb:open", "any"),
        ("deny web", "ext:client", "lb:open", "nothing"),
        ("from client", "client", "lb:open", "answer"),
        ("from client", "client", "lb:kept", "answer"),
    ],
)
def test_services_follow_the_policies(
    policies: str, source: str, destination: str, expected: str
) -> None:
    """Policies see the endpoint; the source only if no node masquerades it."""
    assert world(policies).expected(source, destination) == expected


@pytest.mark.parametrize(
    ("policies", "source", "node", "decision"),
    [
        ("from outside", "ext:client", "worker", "allowed"),
        ("from outside", "ext:client", "worker2", "denied"),
        ("from nodes", "ext:client", "worker2", "allowed"),
        ("from nodes", "ext:client", "worker", "denied"),
        ("from client", "client", "worker", "allowed"),
        ("from client", "client", "worker2", "denied"),
        ("from client", "far", "worker", "denied"),
        ("no egress of client", "client", "worker2", "denied"),
        ("no egress of client", "client", "worker", "denied"),
        # The pod's own packets return with the address of the other node.
        ("deny web", "web", "worker", "allowed"),
        ("deny web", "web", "worker2", "denied"),
        ("from nodes", "web", "worker2", "allowed"),
    ],
)
def test_node_ports_are_masqueraded_by_nodes_without_the_endpoint(
    policies: str, source: str, node: str, decision: Decision
) -> None:
    """The endpoint `web` runs on `worker`."""
    assert world(policies).node_port(source, node) == decision


def test_a_service_with_one_denied_endpoint_may_answer() -> None:
    pods = PODS + pod("a", labels=", group: mixed") + pod("b", labels=", group: mixed")
    lab = world(policy("{podSelector: {matchLabels: {app: a}}}"), pods)
    assert lab.expected("client", "svc:mixed") == "any"
    assert lab.expected("client", "a") == "nothing"
    assert lab.expected("client", "b") == "answer"


def test_families_with_different_verdicts() -> None:
    """A range of one family leaves the other one denied; no expectation holds for both."""
    block = policy("{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}]}]}")
    assert world(DUAL + PODS + block, "").expected("client", "web") == "any"


@pytest.mark.parametrize(
    ("policies", "source", "expected"),
    [
        ("deny web", "client", ["NetworkPolicy default/p isolates default/web for ingress"]),
        ("from client", "client", ["NetworkPolicy default/p rule 0 allows ingress"]),
        ("from client", "web", []),
        (
            "no egress of client",
            "client",
            ["NetworkPolicy default/p isolates default/client for egress"],
        ),
        (
            DENY + policy("{podSelector: {}}", "all") + NO_EGRESS.replace("name: p", "name: out"),
            "client",
            [
                "NetworkPolicy default/out isolates default/client for egress",
                "NetworkPolicies default/p and default/all isolate default/web for ingress",
            ],
        ),
    ],
)
def test_reasons_name_the_policies(policies: str, source: str, expected: list[str]) -> None:
    lab = world(policies)
    web = lab.services["svc:web"]
    assert reasons(lab.policies, lab.places[source], web.address, 80, "TCP") == expected


@pytest.mark.parametrize(
    ("policies", "message", "is_denied"),
    [
        (NO_EGRESS, "lookup web on 198.51.100.10:53: read udp 198.51.100.10:53: i/o timeout", True),
        (NO_EGRESS, "default/client: lookup a.b on [2001:db8::1]:53: no route to host", True),
        (NO_EGRESS, "lookup web: no such host", False),
        (NO_EGRESS, "there is no pod default/web", False),
        ("", "lookup web on 198.51.100.10:53: i/o timeout", False),
    ],
)
def test_a_failed_lookup_names_the_policy_that_denies_the_query(
    policies: str, message: str, is_denied: bool
) -> None:
    """Only if the name server did not answer: another answer about the name was not denied."""
    lab = world(policies)
    expected = ["NetworkPolicy default/p isolates default/client for egress"] if is_denied else []
    assert lookup_denials(lab.policies, lab.places["client"], message) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("far", ["AdminNetworkPolicy ops rule 0 (no-far) denies ingress of default/web"]),
        ("client", ["AdminNetworkPolicy ops rule 1 accepts ingress"]),
        ("ext:client", ["NetworkPolicy default/p isolates default/web for ingress"]),
    ],
)
def test_reasons_name_rules_of_tiers(source: str, expected: list[str]) -> None:
    """The first rule of the tier decides, before the NetworkPolicy."""
    lab = world(DENY + TIER)
    web = lab.services["svc:web"]
    assert reasons(lab.policies, lab.places[source], web.address, 80, "TCP") == expected


def test_policies_of_kinds_that_no_engine_enforces_can_be_left_out() -> None:
    """They are reported as not enforced; packets do not show their effect."""
    objects = world(DENY + TIER).policies.objects
    assert [policy.kind for policy in objects.policies] == ["NetworkPolicy", "AdminNetworkPolicy"]
    enforced = structs.replace(objects, enforced=frozenset({"NetworkPolicy"})).only_enforced()
    assert [policy.kind for policy in enforced.policies] == ["NetworkPolicy"]


def test_pods_that_policies_treat_alike_share_verdicts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels that no policy selects do not matter, so 60 pods of two groups are quickly done."""
    groups = "".join(pod(f"p{number}", labels=f", group: g{number % 2}") for number in range(60))
    lab = world(policy("{podSelector: {matchLabels: {group: g0}}}"), groups)
    calls: list[Party] = []
    evaluate = Evaluator.verdict

    def counted(self: Evaluator, source: Party, *others: Any) -> Verdict:
        calls.append(source)
        return evaluate(self, source, *others)

    monkeypatch.setattr(Evaluator, "verdict", counted)
    pods = [place for place in lab.places.values() if place.namespace == "default"]
    outcomes = [expect(first, second, lab.facts) for first in pods for second in pods]
    assert outcomes.count("nothing") == 30 * 59  # all but from the isolated pod itself
    assert len(calls) < 20


@settings(max_examples=60)
@given(st.lists(POLICIES, max_size=4))
def test_classes_of_pods_do_not_change_verdicts(policies: list[dict[str, object]]) -> None:
    """For pods, the evaluator says the same about each pair without any classes."""
    assert_same_verdicts(with_policies(policies))


@given(CALICO_WORLDS)
def test_classes_know_the_selectors_of_calico(
    policies: tuple[list[Document], list[Document], list[Document]],
) -> None:
    assert_same_verdicts(with_calico(*policies))


def assert_same_verdicts(cluster: Cluster) -> None:
    """Compare the verdicts about all pairs of pods with those of the evaluator."""
    lab = World(cluster)
    evaluator = Evaluator(cluster)
    pods = [pod for pod in cluster.all(Pod) if not pod.spec.host_network]
    for first in pods:
        for second in pods:
            for address in second.addresses:
                (own,) = (each for each in first.addresses if (":" in each) == (":" in address))
                for traffic in TRAFFIC:
                    verdict = evaluator.verdict(
                        Party(own, first.full_name, first.spec.node_name),
                        Party(address, second.full_name, second.spec.node_name),
                        traffic,
                    )
                    location = lab.places[first.full_name.removeprefix("default/")]
                    decision = lab.policies.decision(
                        location, address, traffic.port, traffic.protocol
                    )
                    assert decision == ("allowed" if verdict.is_allowed else "denied")
