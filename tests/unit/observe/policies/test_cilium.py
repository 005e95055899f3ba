"""Verdicts about Cilium's policies: precedence, isolation, and every kind of peers and ports."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings

from kubenetlab.observe.changes.changes import compare
from kubenetlab.observe.policies.evaluator import Evaluator
from kubenetlab.observe.policies.model import Traffic, Verdict
from kubenetlab.observe.policies.reasons import denial, permission
from tests.cilium_policies import WORLDS, with_cilium
from tests.tier_policies import Document, parties_of
from tests.unit.observe.policies.test_verdicts import assert_same_verdicts

HTTP = Traffic("TCP", 8080)
PING = Traffic("ICMP")
WEB, DB, PROD_WEB, TOOL, WORKER, WORKER2, OUTSIDE = range(7)
"""Places of parties: pods, nodes, and a host outside. The pods are on `worker`."""
EVERYONE: Document = {"fromEntities": ["all"]}


def policy(namespace: str = "default", **spec: object) -> Document:
    """Return a policy of `web`, or with `endpointSelector` of other pods."""
    return {
        "namespace": namespace,
        "specs": [{"endpointSelector": {"matchLabels": {"app": "web"}}, **spec}],
    }


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
    evaluator = Evaluator(with_cilium(*others, policies))
    return evaluator.verdict(parties[source], parties[destination], traffic)


@pytest.mark.parametrize(
    ("policies", "is_allowed"),
    [
        ([], True),
        ([policy(ingress=[], egress=[{}])], True),
        ([policy(ingress=[{}])], False),
        ([policy(ingress=[EVERYONE])], True),
        ([policy(ingress=[EVERYONE], ingressDeny=[EVERYONE])], False),
        ([policy(ingressDeny=[{"fromEntities": ["world"]}])], False),
        (
            [
                policy(
                    ingressDeny=[{"fromEntities": ["world"]}], enableDefaultDeny={"ingress": False}
                )
            ],
            True,
        ),
        ([policy(ingress=[{}]), policy(ingress=[EVERYONE])], True),
        ([policy(ingress=[EVERYONE]), policy("", ingressDeny=[EVERYONE])], False),
        ([policy(ingress=[{}], enableDefaultDeny={"ingress": False})], True),
        ([policy(egress=[{}])], True),
        ([policy("prod", ingress=[{}])], True),
        ([policy("", ingress=[{}])], False),
    ],
)
def test_rules_that_deny_come_first(policies: list[Document], is_allowed: bool) -> None:
    assert verdict(policies).is_allowed == is_allowed


def test_rules_are_united_with_those_of_network_policies() -> None:
    """A rule that denies comes before a NetworkPolicy that allows, and before the tier Baseline."""
    isolated: Document = {"namespace": "default", "spec": {"podSelector": {}}}
    opened: Document = {"namespace": "default", "spec": {"podSelector": {}, "ingress": [{}]}}
    baseline: Document = {
        "tier": "Baseline",
        "priority": 1,
        "subject": {"namespaces": {}},
        "ingress": [{"action": "Deny", "from": [{"namespaces": {}}]}],
    }
    allowing = policy(ingress=[EVERYONE], enableDefaultDeny={"ingress": False})
    denying = policy(ingressDeny=[EVERYONE], enableDefaultDeny={"ingress": False})
    assert verdict([allowing], others=([isolated], ())).is_allowed
    assert not verdict([denying], others=([opened], ())).is_allowed
    assert verdict([allowing], others=((), [baseline])).is_allowed
    assert not verdict([], others=((), [baseline])).is_allowed


@pytest.mark.parametrize(
    ("peers", "allowed"),
    [
        ({"fromEndpoints": [{}]}, {DB}),
        ({"fromEndpoints": []}, set()),
        ({"fromEndpoints": [{"matchLabels": {"k8s:tier": "back"}}]}, {DB}),
        (
            {"fromEndpoints": [{"matchLabels": {"io.kubernetes.pod.namespace": "prod"}}]},
            {PROD_WEB},
        ),
        (
            {
                "fromEndpoints": [
                    {"matchLabels": {"k8s:io.cilium.k8s.namespace.labels.team": "ops"}}
                ]
            },
            {PROD_WEB},
        ),
        ({"fromEndpoints": [{"matchLabels": {"reserved:remote-node": ""}}]}, {WORKER2}),
        ({"fromEntities": ["cluster"]}, {DB, PROD_WEB, TOOL, WORKER2}),
        ({"fromEntities": ["world"]}, {OUTSIDE}),
        ({"fromEntities": ["world-ipv6"]}, set()),
        ({"fromEntities": ["remote-node"]}, {WORKER2}),
        ({"fromEntities": ["host", "health", "none", "kube-apiserver"]}, set()),
        ({"fromEntities": ["all"]}, {DB, PROD_WEB, TOOL, WORKER2, OUTSIDE}),
        ({"fromCIDR": ["0.0.0.0/0"]}, {OUTSIDE}),
        ({"fromCIDR": ["198.51.100.10"]}, {OUTSIDE}),
        ({"fromCIDRSet": [{"cidr": "0.0.0.0/0", "except": ["198.51.100.0/24"]}]}, set()),
        ({"fromNodes": [{"matchLabels": {"kubernetes.io/hostname": "worker2"}}]}, {WORKER2}),
    ],
)
def test_peers_of_ingress_rules(peers: Document, allowed: set[int]) -> None:
    """Ranges mean hosts outside alone. The own node always reaches its pods."""
    found = {
        place
        for place in (DB, PROD_WEB, TOOL, WORKER, WORKER2, OUTSIDE)
        if verdict([policy(ingress=[peers])], place).is_allowed
    }
    assert found == allowed | {WORKER}


PARTNERS: Document = {"labels": {"role": "partner"}, "externalCIDRs": ["198.51.100.0/24"]}


@pytest.mark.parametrize(
    ("entry", "group", "allowed"),
    [
        ({"cidrGroupRef": "group0"}, PARTNERS, {OUTSIDE}),
        ({"cidrGroupRef": "group1"}, PARTNERS, set()),
        ({"cidrGroupRef": "group0"}, None, set()),
        ({"cidrGroupRef": "group0"}, {"externalCIDRs": []}, set()),
        ({"cidrGroupRef": "group0"}, {"externalCIDRs": ["10.0.0.0/8", "172.18.0.0/16"]}, set()),
        ({"cidrGroupRef": "group0", "except": ["198.51.100.10/32"]}, PARTNERS, set()),
        ({"cidrGroupRef": "group0", "except": ["2001:db8::/32"]}, PARTNERS, {OUTSIDE}),
        ({"cidrGroupRef": "group0", "except": ["192.0.2.0/24"]}, PARTNERS, {OUTSIDE}),
        ({"cidrGroupSelector": {"matchLabels": {"role": "partner"}}}, PARTNERS, {OUTSIDE}),
        ({"cidrGroupSelector": {"matchLabels": {"role": "guest"}}}, PARTNERS, set()),
        (
            {
                "cidrGroupSelector": {"matchLabels": {"role": "partner"}},
                "except": ["198.51.0.0/16"],
            },
            PARTNERS,
            set(),
        ),
        (
            {"cidrGroupSelector": {"matchLabels": {"io.cilium.policy.cidrgroupname/group0": ""}}},
            {"externalCIDRs": ["198.51.100.0/24"]},
            {OUTSIDE},
        ),
        (
            {"cidrGroupSelector": {"matchLabels": {"io.cilium.k8s.role": "x"}}},
            {"labels": {"io.cilium.k8s.role": "x"}, "externalCIDRs": ["198.51.100.0/24"]},
            set(),
        ),
    ],
)
def test_groups_of_ranges(entry: Document, group: Document | None, allowed: set[int]) -> None:
    """Groups mean hosts outside alone, and a missing group none. The pod is isolated anyway."""
    ingress = {**policy(ingress=[{"fromCIDRSet": [entry]}]), "group": group}
    places = (DB, PROD_WEB, TOOL, WORKER2, OUTSIDE)
    assert {place for place in places if verdict([ingress], place).is_allowed} == allowed
    egress = {**policy(egress=[{"toCIDRSet": [entry]}]), "group": group}
    assert {place for place in places if verdict([egress], WEB, place).is_allowed} == allowed


@pytest.mark.parametrize(
    ("peers", "allowed"),
    [
        ({}, set()),
        ({"toEntities": ["host"]}, {WORKER}),
        ({"toEntities": ["remote-node"]}, {WORKER2}),
        ({"toEntities": ["cluster"]}, {DB, PROD_WEB, TOOL, WORKER, WORKER2}),
        ({"toCIDR": ["0.0.0.0/0"]}, {OUTSIDE}),
        ({"toFQDNs": [{"matchName": "client"}]}, {OUTSIDE}),
        ({"toFQDNs": [{"matchPattern": "*.example.com"}]}, set()),
        ({"toServices": [{"k8sService": {"serviceName": "outside"}}]}, {OUTSIDE}),
        (
            {"toServices": [{"k8sService": {"serviceName": "web", "namespace": "prod"}}]},
            {PROD_WEB},
        ),
    ],
)
def test_peers_of_egress_rules(peers: Document, allowed: set[int]) -> None:
    """A policy that isolates egress also denies connections to the own node."""
    found = {
        place
        for place in (DB, PROD_WEB, TOOL, WORKER, WORKER2, OUTSIDE)
        if verdict([policy(egress=[peers])], WEB, place).is_allowed
    }
    assert found == allowed


@pytest.mark.parametrize(
    ("fields", "traffic", "version", "is_allowed"),
    [
        ({"toPorts": [{"ports": [{"port": "8080", "protocol": "TCP"}]}]}, HTTP, 4, True),
        ({"toPorts": [{"ports": [{"port": "8080", "protocol": "UDP"}]}]}, HTTP, 4, False),
        ({"toPorts": [{"ports": [{"port": "8080"}]}]}, HTTP, 4, True),
        ({"toPorts": [{"ports": [{"port": "http"}]}]}, HTTP, 4, True),
        ({"toPorts": [{"ports": [{"port": "80", "endPort": 9000}]}]}, HTTP, 6, True),
        ({"toPorts": [{"ports": [{"port": "0", "protocol": "TCP"}]}]}, HTTP, 4, True),
        ({"toPorts": [{"ports": []}]}, HTTP, 4, False),
        ({"toPorts": [{"ports": [{"port": "0"}]}]}, PING, 4, False),
        ({"icmps": [{"fields": [{"type": 8}]}]}, PING, 4, True),
        ({"icmps": [{"fields": [{"type": 8}]}]}, PING, 6, False),
        ({"icmps": [{"fields": [{"type": "EchoRequest", "family": "IPv6"}]}]}, PING, 6, True),
        ({"icmps": [{"fields": [{"type": "EchoReply"}]}]}, PING, 4, False),
        ({"icmps": [{"fields": [{"type": 8}]}]}, HTTP, 4, False),
        (EVERYONE, PING, 4, True),
    ],
)
def test_ports_and_messages(
    fields: Document, traffic: Traffic, version: int, is_allowed: bool
) -> None:
    found = verdict([policy(ingress=[fields])], traffic=traffic, version=version)
    assert found.is_allowed == is_allowed


def test_reasons_name_the_list_with_the_rule() -> None:
    """The plain lists `ingress` and `egress` go without saying."""
    denied = verdict([policy(ingress=[EVERYONE], ingressDeny=[{}, EVERYONE])]).ingress
    web = parties_of(4)[WEB]
    assert denial(denied, web) == (
        "CiliumNetworkPolicy default/p0 rule 1 (spec.ingressDeny) denies ingress of default/web"
    )
    allowed = verdict([policy(ingress=[EVERYONE])]).ingress
    assert permission(allowed) == "CiliumNetworkPolicy default/p0 rule 0 accepts ingress"
    isolated = verdict([policy(ingress=[{}])]).ingress
    assert denial(isolated, web) == (
        "CiliumNetworkPolicy default/p0 isolates default/web for ingress"
    )


@settings(max_examples=30)
@given(world=WORLDS)
def test_classes_of_pods_know_the_selectors_of_cilium(
    world: tuple[list[Document], list[Document], list[Document]],
) -> None:
    """For pods, the evaluator says the same about each pair without any classes."""
    assert_same_verdicts(with_cilium(*world))


def test_a_comparison_shows_what_a_group_opens() -> None:
    """Hosts outside are divided at the ranges of groups as well."""
    isolating = policy("", ingress=[{"fromCIDRSet": [{"cidrGroupRef": "group0"}]}])
    changes = compare(
        with_cilium([], [], [isolating]), with_cilium([], [], [{**isolating, "group": PARTNERS}])
    )
    assert {each.change for each in changes} == {"opened"}
    assert {source for each in changes for source in each.sources} == {"outside 198.51.100.0/24"}


def test_a_comparison_shows_what_a_policy_closes() -> None:
    """Also for a policy that has only `specs`."""
    closing = policy("", ingress=[{"toPorts": [{"ports": [{"port": "8080"}]}]}])
    changes = compare(with_cilium([], [], []), with_cilium([], [], [closing]))
    assert {each.change for each in changes} == {"closed"}
    assert any("ping" in each.ports for each in changes)
    assert not any("8080/TCP" in each.ports for each in changes)
