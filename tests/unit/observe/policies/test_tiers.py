"""Verdicts about connections with policies of tiers before and after NetworkPolicies."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given

from kubenetlab.observe.policies.evaluator import (
    DirectionVerdict,
    Evaluator,
    RuleReference,
    Traffic,
    Verdict,
)
from tests.clusters import running, store
from tests.policies import PODS, TRAFFIC
from tests.tier_policies import WORLDS, Document, parties_of, with_tiers
from tests.unit.observe.policies.test_evaluator import (
    DENY,
    DENY_BOTH,
    DNS,
    FROM_WEB,
    HTTP,
    PING,
    TO_WEB,
    party,
    policy,
)

EVERYWHERE = "{namespaces: {}}"
OPS = "{namespaces: {matchLabels: {team: ops}}}"
WEB = "{pods: {podSelector: {matchLabels: {app: web}}}}"
ACCEPT = f"{{action: Accept, from: [{EVERYWHERE}]}}"
REFUSE = f"{{action: Deny, from: [{EVERYWHERE}]}}"
PASS = f"{{action: Pass, from: [{EVERYWHERE}]}}"


def tier(
    rules: str,
    priority: int = 1,
    *,
    tier: str = "Admin",
    subject: str = WEB,
    name: str = "c",
    direction: str = "ingress",
) -> str:
    return f"""
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {{name: {name}}}
spec: {{tier: {tier}, priority: {priority}, subject: {subject}, {direction}: [{rules}]}}
---
"""


def baseline(rules: str, **options: str) -> str:
    return tier(rules, tier="Baseline", name="b", **options)  # type: ignore[arg-type]


def egress(action: str, peer: str, protocols: str = "") -> str:
    """Return a policy of the tier Admin with one egress rule of `web`."""
    rule = f"{{action: {action}, to: [{peer}]{protocols}}}"
    return tier(rule, direction="egress")


EXTERNAL = """
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
external: [{name: api.example.com, address: 198.51.100.10}]
---
"""


def verdict(policies: str, source: str, destination: str, traffic: Traffic) -> Verdict:
    cluster = running(store(EXTERNAL + PODS + policies))
    ends = party(cluster, source), party(cluster, destination)
    return Evaluator(cluster).verdict(*ends, traffic)


TO_OUTSIDE = ("default/web", "outside")
FROM_PROD = ("prod/web", "default/web")
ITSELF = ("default/web", "default/web")
NAMED = "{destinationNamedPort: http}"
BY_SERVICE = Traffic("TCP", 8080, is_to_service=True)


def port(entry: str) -> str:
    return f"{{action: Deny, from: [{EVERYWHERE}], protocols: [{entry}]}}"


@pytest.mark.parametrize(
    ("policies", "connection", "traffic", "expected"),
    [
        pytest.param(tier(REFUSE), TO_WEB, HTTP, False, id="denied"),
        pytest.param(tier(REFUSE), TO_WEB, PING, False, id="all protocols without protocols"),
        pytest.param(tier(REFUSE), FROM_WEB, HTTP, True, id="other pods are no subjects"),
        pytest.param(tier(f"{ACCEPT}, {REFUSE}"), TO_WEB, HTTP, True, id="first rule that matches"),
        pytest.param(
            tier(REFUSE, 2) + tier(ACCEPT, 1, name="a"), TO_WEB, HTTP, True, id="lower priority"
        ),
        pytest.param(
            tier(ACCEPT, 2) + tier(REFUSE, 1, name="x"), TO_WEB, HTTP, False, id="in both orders"
        ),
        pytest.param(
            tier(ACCEPT, name="b") + tier(REFUSE, name="a"), TO_WEB, HTTP, False, id="then by name"
        ),
        pytest.param(tier(REFUSE), ("outside", "default/web"), HTTP, True, id="hosts are no pods"),
        pytest.param(
            tier(f"{{action: Deny, from: [{OPS}]}}"), FROM_PROD, HTTP, False, id="by namespace"
        ),
        pytest.param(
            tier(f"{{action: Deny, from: [{OPS}]}}"), TO_WEB, HTTP, True, id="other namespaces"
        ),
        pytest.param(
            tier(REFUSE, subject=OPS), ("default/db", "prod/web"), HTTP, False, id="by subject"
        ),
        pytest.param(tier(REFUSE, subject=OPS), TO_WEB, HTTP, True, id="other subjects"),
        pytest.param(DENY + tier(ACCEPT), TO_WEB, HTTP, True, id="accepted despite NetworkPolicy"),
        pytest.param(DENY + tier(PASS), TO_WEB, HTTP, False, id="passed to NetworkPolicy"),
        pytest.param(
            tier(PASS, 1) + tier(REFUSE, 2, name="d"), TO_WEB, HTTP, True, id="pass skips the tier"
        ),
        pytest.param(
            policy("{podSelector: {}, ingress: [{}]}") + tier(REFUSE),
            TO_WEB,
            HTTP,
            False,
            id="denied despite NetworkPolicy",
        ),
        pytest.param(baseline(REFUSE), TO_WEB, HTTP, False, id="baseline denies"),
        pytest.param(baseline(f"{PASS}, {REFUSE}"), TO_WEB, HTTP, True, id="baseline passes"),
        pytest.param(
            policy("{podSelector: {}, ingress: [{}]}") + baseline(REFUSE),
            TO_WEB,
            HTTP,
            True,
            id="NetworkPolicy before baseline",
        ),
        pytest.param(
            policy("{podSelector: {}, policyTypes: [Egress], egress: [{}]}") + baseline(REFUSE),
            TO_WEB,
            HTTP,
            False,
            id="isolation of the other direction",
        ),
        pytest.param(DENY + baseline(ACCEPT), TO_WEB, HTTP, False, id="baseline cannot accept"),
        pytest.param(tier(PASS) + baseline(REFUSE), TO_WEB, HTTP, False, id="passed to baseline"),
        pytest.param(
            tier(ACCEPT)
            + tier(REFUSE.replace("from", "to"), direction="egress", subject=EVERYWHERE, name="e"),
            TO_WEB,
            HTTP,
            False,
            id="both ends decide",
        ),
        pytest.param(
            tier(port("{tcp: {destinationPort: {number: 8080}}}")), TO_WEB, HTTP, False, id="a port"
        ),
        pytest.param(
            tier(port("{udp: {destinationPort: {number: 8080}}}")),
            TO_WEB,
            HTTP,
            True,
            id="another protocol",
        ),
        pytest.param(
            tier(port("{udp: {destinationPort: {range: {start: 9, end: 53}}}}")),
            TO_WEB,
            DNS,
            False,
            id="end of a range",
        ),
        pytest.param(
            tier(port("{sctp: {destinationPort: {range: {start: 9, end: 53}}}}")),
            TO_WEB,
            Traffic("SCTP", 9),
            False,
            id="SCTP",
        ),
        pytest.param(
            tier(port("{tcp: {destinationPort: {range: {start: 1, end: 65535}}}}")),
            TO_WEB,
            PING,
            True,
            id="no ICMP with protocols",
        ),
        pytest.param(tier(port(NAMED)), TO_WEB, HTTP, False, id="named port"),
        pytest.param(
            tier(port("{destinationNamedPort: dns}")), TO_WEB, DNS, False, id="named port of UDP"
        ),
        pytest.param(tier(port(NAMED)), TO_WEB, DNS, True, id="other ports"),
        pytest.param(
            egress("Deny", EVERYWHERE, f", protocols: [{NAMED}]"),
            FROM_WEB,
            HTTP,
            False,
            id="named port of the destination",
        ),
        pytest.param(
            egress("Deny", "{networks: [198.51.100.0/24]}"), TO_OUTSIDE, HTTP, False, id="networks"
        ),
        pytest.param(
            egress("Deny", "{networks: [10.0.0.0/8]}"), FROM_WEB, HTTP, False, id="pods by address"
        ),
        pytest.param(
            egress("Deny", "{nodes: {}}"), ("default/web", "node:worker2"), HTTP, False, id="nodes"
        ),
        pytest.param(
            egress("Deny", "{nodes: {}}"),
            ("default/web", "node:worker"),
            HTTP,
            False,
            id="the own node",
        ),
        pytest.param(
            egress("Deny", "{nodes: {matchLabels: {kubernetes.io/hostname: worker}}}"),
            ("default/web", "node:worker2"),
            HTTP,
            True,
            id="nodes by label",
        ),
        pytest.param(
            egress("Deny", "{nodes: {}}"),
            ("default/web", "dev/agent"),
            HTTP,
            False,
            id="hostNetwork is part of its node",
        ),
        pytest.param(
            egress("Deny", EVERYWHERE), ("default/web", "dev/agent"), HTTP, True, id="and no pod"
        ),
        pytest.param(
            DENY_BOTH + egress("Pass", "{nodes: {}}"),
            ("default/web", "node:worker"),
            HTTP,
            True,
            id="NetworkPolicies allow the own node",
        ),
        pytest.param(
            DENY_BOTH
            + baseline(
                "{action: Deny, to: [{networks: [0.0.0.0/0]}]}",
                subject=EVERYWHERE,
                direction="egress",
            ),
            ("default/web", "node:worker"),
            HTTP,
            True,
            id="and decide about it",
        ),
        pytest.param(
            tier(REFUSE, subject=EVERYWHERE),
            ("node:worker", "default/web"),
            HTTP,
            True,
            id="a node reaches its pods",
        ),
        pytest.param(tier(REFUSE), ITSELF, HTTP, True, id="a pod reaches itself"),
        pytest.param(tier(REFUSE), ITSELF, BY_SERVICE, False, id="not by a Service"),
        pytest.param(DENY_BOTH, ITSELF, BY_SERVICE, True, id="with NetworkPolicies also then"),
        pytest.param(
            egress("Accept", "{domainNames: ['*.example.com']}") + DENY_BOTH,
            TO_OUTSIDE,
            HTTP,
            True,
            id="domain names of external hosts",
        ),
        pytest.param(
            egress("Accept", "{domainNames: [example.com]}") + DENY_BOTH,
            TO_OUTSIDE,
            HTTP,
            False,
            id="other domain names",
        ),
    ],
)
def test_the_first_stage_with_a_decision_decides(
    policies: str, connection: tuple[str, str], traffic: Traffic, *, expected: bool
) -> None:
    assert verdict(policies, *connection, traffic).is_allowed == expected


def test_a_verdict_names_the_rules_of_tiers() -> None:
    """A rule that passes does not decide."""
    rules = f"{PASS}, {{name: last, action: Deny, from: [{EVERYWHERE}]}}"
    result = verdict(tier(PASS) + baseline(rules.replace(f"{PASS}, ", "")), *TO_WEB, HTTP)
    passed = RuleReference("c", 0, "ClusterNetworkPolicy", "", "Pass")
    denied = RuleReference("b", 0, "ClusterNetworkPolicy", "last", "Deny")
    assert result.ingress == DirectionVerdict("Ingress", admin=passed, baseline=denied)
    assert (result.ingress.decided_in, result.ingress.decided_by) == ("Baseline", (denied,))
    assert (result.egress.decided_in, result.egress.decided_by) == ("default", ())
    isolated = verdict(tier(PASS) + DENY, *TO_WEB, HTTP).ingress
    assert (isolated.decided_in, isolated.decided_by) == ("NetworkPolicy", ())
    accepted = verdict(tier(ACCEPT) + DENY, *TO_WEB, HTTP).ingress
    assert (accepted.decided_in, accepted.isolated_by) == ("Admin", ("default/p",))


@pytest.mark.parametrize(
    ("action", "stage", "is_allowed"),
    [("Allow", "Admin", True), ("Deny", "Admin", False), ("Pass", "Baseline", False)],
)
def test_predecessors_are_evaluated_alike(action: str, stage: str, *, is_allowed: bool) -> None:
    text = f"""
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {{name: a}}
spec:
  priority: 1
  subject: {EVERYWHERE}
  ingress: [{{action: {action}, from: [{EVERYWHERE}], ports: [{{namedPort: http}}]}}]
---
apiVersion: policy.networking.k8s.io/v1alpha1
kind: BaselineAdminNetworkPolicy
metadata: {{name: default}}
spec: {{subject: {EVERYWHERE}, ingress: [{{action: Deny, from: [{EVERYWHERE}]}}]}}
---
"""
    result = verdict(text, *TO_WEB, HTTP)
    assert (result.is_allowed, result.ingress.decided_in) == (is_allowed, stage)


def _verdicts(policies: list[Document], specs: list[Document]) -> list[bool]:
    evaluator = Evaluator(with_tiers(policies, specs))
    return [
        evaluator.verdict(source, destination, traffic).is_allowed
        for version in (4, 6)
        for source in parties_of(version)
        for destination in parties_of(version)
        for traffic in TRAFFIC
    ]


def _rules_one_by_one(specs: list[Document]) -> list[Document]:
    """Return policies with one rule each, in the order of the rules of the given ones."""
    ordered = sorted(enumerate(specs), key=lambda entry: (entry[1]["priority"], entry[0]))
    result: list[Document] = []
    for _, spec in ordered:
        for direction in ("ingress", "egress"):
            for rule in spec[direction]:  # type: ignore[attr-defined]
                single = {**spec, "ingress": [], "egress": [], direction: [rule]}
                result.append({**copy.deepcopy(single), "priority": len(result)})
    return result


@given(world=WORLDS)
def test_rules_of_one_policy_are_like_policies_of_one_rule(
    world: tuple[list[Document], list[Document]],
) -> None:
    """Priorities order policies as lists order rules."""
    policies, specs = world
    assert _verdicts(policies, specs) == _verdicts(policies, _rules_one_by_one(specs))


@given(world=WORLDS)
def test_passing_everything_disables_the_other_policies_of_a_tier(
    world: tuple[list[Document], list[Document]],
) -> None:
    policies, specs = world
    later: list[Document] = [{**spec, "priority": 9} for spec in specs]
    passing = {
        "subject": {"namespaces": {}},
        "priority": 0,
        "ingress": [{"action": "Pass", "from": [{"namespaces": {}}]}],
        "egress": [{"action": "Pass", "to": [{"networks": ["0.0.0.0/0", "::/0"]}]}],
    }
    first: list[Document] = [{**passing, "tier": tier} for tier in ("Admin", "Baseline")]
    assert _verdicts(policies, [*first, *later]) == _verdicts(policies, [])
