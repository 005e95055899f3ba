"""Verdicts about Calico's policies: order, tiers, actions, selectors, and every condition."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given

from kubenetlab.observe.policies.evaluator import Evaluator
from kubenetlab.observe.policies.model import (
    DirectionVerdict,
    Party,
    RuleReference,
    Traffic,
    Verdict,
    named_policy,
)
from kubenetlab.observe.policies.reasons import denial, permission
from tests.calico_policies import WORLDS, with_calico
from tests.policies import TRAFFIC
from tests.tier_policies import Document, parties_of

HTTP = Traffic("TCP", 8080)
PING = Traffic("ICMP")
ALLOW, DENY, PASS, LOG = ({"action": action} for action in ("Allow", "Deny", "Pass", "Log"))
WEB, DB, PROD_WEB, TOOL, WORKER, WORKER2, OUTSIDE = range(7)
"""Places of parties: pods, nodes, and a host outside."""
DEFAULT = "NetworkPolicy"
"""Stage of the default tier."""


def policy(namespace: str = "", **spec: object) -> Document:
    return {"namespace": namespace, "spec": spec}


def verdict(
    policies: Sequence[Document],
    source: int = DB,
    destination: int = WEB,
    traffic: Traffic = HTTP,
    *,
    version: int = 4,
    others: tuple[Sequence[Document], Sequence[Document]] = ((), ()),
) -> Verdict:
    """Return the verdict about a connection between two parties."""
    parties = parties_of(version)
    evaluator = Evaluator(with_calico(*others, policies))
    return evaluator.verdict(parties[source], parties[destination], traffic)


def rule(condition: Document, action: str = "Allow") -> list[Document]:
    """Return a policy of `default/web` with one rule for ingress."""
    return [policy("default", selector="app == 'web'", ingress=[{"action": action, **condition}])]


@pytest.mark.parametrize(
    ("policies", "stage", "is_allowed"),
    [
        ([], "default", True),
        ([policy()], DEFAULT, False),
        ([policy(ingress=[ALLOW])], DEFAULT, True),
        ([policy(ingress=[DENY, ALLOW])], DEFAULT, False),
        ([policy(ingress=[LOG])], DEFAULT, False),
        ([policy(ingress=[LOG, ALLOW])], DEFAULT, True),
        ([policy(ingress=[PASS, DENY])], "default", True),
        ([policy(types=["Egress"])], DEFAULT, False),
        (
            [policy(order=2, ingress=[DENY]), policy(order=1, ingress=[ALLOW])],
            "NetworkPolicy",
            True,
        ),
        ([policy(ingress=[DENY]), policy(order=1e9, ingress=[ALLOW])], DEFAULT, True),
        # Names, which descend here, decide between equal orders.
        ([policy(ingress=[DENY]), policy(ingress=[ALLOW])], DEFAULT, True),
        ([policy(order=1, ingress=[DENY]), policy(tier="first", ingress=[ALLOW])], "first", True),
        ([policy(tier="first", ingress=[PASS])], "default", True),
        ([policy(tier="first")], "first", False),
        ([policy(tier="first", ingress=[DENY]), policy(ingress=[ALLOW])], "first", False),
        ([policy(tier="second")], "default", True),
        ([policy(tier="third", ingress=[DENY]), policy(ingress=[ALLOW])], DEFAULT, True),
        ([policy(tier="third", ingress=[DENY]), policy(ingress=[PASS])], "third", False),
        ([policy(preDNAT=True, applyOnForward=True, ingress=[DENY])], "default", True),
    ],
)
def test_the_first_rule_in_order_decides(
    policies: list[Document], stage: str, is_allowed: bool
) -> None:
    result = verdict(policies)
    ends = (result.egress, result.ingress)
    assert (stage in [each.decided_in for each in ends], result.is_allowed) == (True, is_allowed)


@pytest.mark.parametrize(
    ("order", "action", "is_allowed"),
    [(999, "Deny", False), (1001, "Deny", True), (1000, "Deny", False), (999, "Pass", True)],
)
def test_network_policies_have_order_1000(order: int, action: str, is_allowed: bool) -> None:
    """With the same order, the name `knp.default.p0` comes after `c9`."""
    knp: Document = {"namespace": "default", "spec": {"podSelector": {}, "ingress": [{}]}}
    policies = [policy(order=order, types=["Ingress"], ingress=[{"action": action}])]
    assert verdict(policies, others=([knp], ())).is_allowed is is_allowed


def test_tiers_of_administrators_come_before_and_after() -> None:
    subject = {"subject": {"namespaces": {}}, "priority": 1}
    everyone = [{"action": "Deny", "from": [{"namespaces": {}}]}]
    admin: Document = {"tier": "Admin", **subject, "ingress": everyone}
    baseline: Document = {**admin, "tier": "Baseline"}
    first, second = (policy(tier=tier, ingress=[ALLOW]) for tier in ("first", "second"))
    assert verdict([first], others=((), [admin])).ingress.decided_in == "first"
    assert verdict([second], others=((), [admin])).ingress.decided_in == "Admin"
    passed = [policy(types=["Ingress"], ingress=[PASS])]
    assert verdict(passed, others=((), [baseline])).ingress.decided_in == "Baseline"
    assert verdict([policy(ingress=[ALLOW])], others=((), [baseline])).is_allowed


@pytest.mark.parametrize(
    ("condition", "source", "is_matched"),
    [
        ({"source": {"selector": "app == 'db'"}}, DB, True),
        ({"source": {"selector": "app == 'web'"}}, PROD_WEB, False),
        ({"source": {"selector": "app == 'web'", "namespaceSelector": "all()"}}, PROD_WEB, True),
        ({"source": {"namespaceSelector": "team == 'ops'"}}, PROD_WEB, True),
        ({"source": {"namespaceSelector": "team == 'ops'"}}, DB, False),
        ({"source": {"namespaceSelector": "all()"}}, OUTSIDE, True),  # by the NetworkSet in prod
        ({"source": {"selector": "role == 'half'"}}, OUTSIDE, False),
        ({"source": {"namespaceSelector": "global()"}}, OUTSIDE, True),
        ({"source": {"namespaceSelector": "global()"}}, DB, False),
        ({"source": {"notSelector": "app == 'db'"}}, DB, False),
        ({"source": {"notSelector": "app == 'web'"}}, DB, True),
        ({"source": {"notSelector": "app == 'db'"}}, PROD_WEB, False),
        ({"source": {"serviceAccounts": {"names": ["robot"]}}}, TOOL, False),
        (
            {"source": {"serviceAccounts": {"names": ["robot"]}, "namespaceSelector": "all()"}},
            TOOL,
            True,
        ),
        ({"source": {"nets": ["10.244.1.0/24"]}}, DB, True),
        ({"source": {"notNets": ["10.244.1.0/24"]}}, DB, False),
        ({"source": {"notNets": ["fd00::/8"]}}, DB, False),
        ({"source": {"nets": ["198.51.100.0/24"]}}, OUTSIDE, True),
        ({"ipVersion": 6}, DB, False),
        ({"protocol": "TCP", "destination": {"ports": ["8000:9000"]}}, DB, True),
        ({"protocol": "TCP", "destination": {"ports": ["http"]}}, DB, True),
        ({"protocol": "TCP", "destination": {"ports": ["dns"]}}, DB, False),
        ({"protocol": "TCP", "destination": {"notPorts": [8080]}}, DB, False),
        ({"protocol": 6, "source": {"ports": ["1024:65535"]}}, DB, True),
        ({"notProtocol": "TCP"}, DB, False),
        ({"notProtocol": 17}, DB, True),
        ({"destination": {"selector": "app == 'web'"}}, DB, True),
        ({"destination": {"selector": "app == 'db'"}}, DB, False),
        ({"http": {"methods": ["GET"]}}, DB, False),
    ],
)
def test_a_rule_matches_if_all_conditions_are_met(
    condition: Document, source: int, is_matched: bool
) -> None:
    assert verdict(rule(condition), source).is_allowed is is_matched


@pytest.mark.parametrize(
    ("condition", "version", "is_matched"),
    [
        ({"protocol": "ICMP"}, 4, True),
        ({"protocol": "ICMP"}, 6, False),
        ({"protocol": "ICMPv6", "icmp": {"type": 128, "code": 0}}, 6, True),
        ({"protocol": "ICMP", "icmp": {"type": 8}}, 4, True),
        ({"protocol": "ICMP", "icmp": {"type": 8, "code": 1}}, 4, False),
        ({"protocol": "ICMP", "icmp": {}}, 4, True),
        ({"protocol": "ICMP", "notICMP": {"type": 8}}, 4, False),
        ({"protocol": "ICMP", "notICMP": {"type": 3}}, 4, True),
    ],
)
def test_probes_are_echo_requests(condition: Document, version: int, is_matched: bool) -> None:
    assert verdict(rule(condition), traffic=PING, version=version).is_allowed is is_matched


def test_there_are_no_exemptions_beside_a_policy_of_calico() -> None:
    """Kubernetes' policies never deny connections to the own node, Calico's do."""
    knp: Document = {"namespace": "default", "spec": {"podSelector": {}, "policyTypes": ["Egress"]}}
    others = ([knp], ())
    assert verdict([], WEB, WORKER, others=others).is_allowed
    assert not verdict([policy(types=["Egress"])], WEB, WORKER, others=others).is_allowed
    assert verdict([policy(types=["Ingress"])], WORKER, WEB, others=others).is_allowed
    itself = Traffic("TCP", 8080, is_to_service=True)
    assert not verdict([policy(types=["Ingress"])], WEB, WEB, itself).is_allowed


def test_reasons_name_the_kind() -> None:
    end = Party("10.244.1.2", "default/web")
    isolated = verdict([policy(), policy("default")]).ingress
    assert isolated.isolated_by == ("CalicoNetworkPolicy default/c8", "GlobalNetworkPolicy c9")
    assert denial(isolated, end) == (
        "CalicoNetworkPolicy default/c8 and GlobalNetworkPolicy c9 isolate default/web for ingress"
    )
    denied = verdict([policy(ingress=[LOG, DENY])]).ingress
    assert denied.decided_by == (RuleReference("c9", 1, "GlobalNetworkPolicy", action="Deny"),)
    assert denial(denied, end) == "GlobalNetworkPolicy c9 rule 1 denies ingress of default/web"
    allowed = verdict([policy(types=["Ingress"], ingress=[ALLOW])]).ingress
    assert permission(allowed) == "GlobalNetworkPolicy c9 rule 0 accepts ingress"
    assert named_policy("shop/web") == ("NetworkPolicy", "shop/web")


@given(world=WORLDS)
def test_a_verdict_has_a_reason(
    world: tuple[list[Document], list[Document], list[Document]],
) -> None:
    """A denial has a rule, or policies that isolate. A permission has a rule, or is the default."""
    evaluator = Evaluator(with_calico(*world))
    for source in parties_of(4):
        for destination in parties_of(4):
            for traffic in TRAFFIC:
                result = evaluator.verdict(source, destination, traffic)
                for end in (result.egress, result.ingress):
                    assert_has_reason(end)


def assert_has_reason(end: DirectionVerdict) -> None:
    if end.decided_in == "default":
        assert end.is_allowed
        assert end.decided_by == ()
    elif end.is_allowed:
        assert {each.action for each in end.decided_by} == {"Accept"}
    else:
        assert {each.action for each in end.decided_by} <= {"Deny"}
        assert end.decided_by or end.isolated_by
