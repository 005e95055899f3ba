"""Diagnostics of Cilium's policies: kinds and fields that the lab does not enforce."""

from __future__ import annotations

import pytest

from kubenetlab.api.policies.cilium_rules import CILIUM_KINDS
from kubenetlab.diagnostics.model import NOT_ENFORCED, Diagnostic
from tests.unit.diagnostics.test_diagnostics import NODES, diagnostics_of, main

POLICY = """
apiVersion: cilium.io/v2
kind: {kind}
metadata: {{name: some}}
spec: {{endpointSelector: {{}}, {fields}}}
---
"""
CILIUM = NODES.replace("---", "networking: {cni: cilium}\n---")
DNS = "toPorts: [{ports: [{port: '53'}], rules: {dns: [{matchPattern: '*'}]}}]"


def unenforced(fields: str, kind: str = "CiliumNetworkPolicy") -> list[Diagnostic]:
    """Return the diagnostics of a policy in a lab with one pod and the CNI mode cilium."""
    return reported(POLICY.format(kind=kind, fields=fields), CILIUM)


def reported(policy: str, nodes: str = NODES) -> list[Diagnostic]:
    return [each for each in diagnostics_of(main("") + policy, nodes) if each.code == NOT_ENFORCED]


@pytest.mark.parametrize("kind", [kind.kind for kind in CILIUM_KINDS])
def test_engines_without_these_kinds_report_the_policy(kind: str) -> None:
    """It concerns the connections of its pods, in the directions that have rules."""
    fields = "ingressDeny: [{fromEntities: [world]}]"
    (diagnostic,) = reported(POLICY.format(kind=kind, fields=fields))
    assert diagnostic.path == ()
    assert diagnostic.hints == (
        "only cilium knows this kind of policy; kubenetlab up --cni cilium",
    )
    assert "default/one" in diagnostic.scope.into
    assert diagnostic.scope.out_of == ()


@pytest.mark.parametrize(
    ("fields", "paths"),
    [
        ("ingress: [{}]", []),
        ("ingress: [{fromEndpoints: [{}], authentication: {mode: disabled}}]", []),
        (
            "ingress: [{fromEndpoints: [{}], authentication: {mode: required}}]",
            ["spec.ingress[0].authentication"],
        ),
        (
            "ingress: [{fromEndpoints: [{}], fromRequires: [{}]}]",
            ["spec.ingress[0].fromRequires"],
        ),
        ("egressDeny: [{toRequires: [{}]}]", ["spec.egressDeny[0].toRequires"]),
        (
            "ingress: [{fromCIDRSet: [{cidr: 10.0.0.0/8}, {cidrGroupRef: group},"
            " {cidrGroupSelector: {matchLabels: {a: b}}}]}]",
            [],
        ),
        (
            "egress: [{toCIDRSet: [{cidr: 10.0.0.0/8}, {cidrGroupSelector: {}}]}]",
            ["spec.egress[0].toCIDRSet[1].cidrGroupSelector"],
        ),
        (
            "ingressDeny: [{fromCIDRSet: [{cidrGroupSelector: {matchExpressions:"
            " [{key: a, operator: NotIn, values: [b]}]}}]}]",
            ["spec.ingressDeny[0].fromCIDRSet[0].cidrGroupSelector"],
        ),
        ("egress: [{toGroups: [{aws: {}}]}]", ["spec.egress[0].toGroups"]),
        (
            "ingress: [{toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{}]}}]}]",
            ["spec.ingress[0].toPorts[0].rules.http"],
        ),
        (
            "ingress: [{toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {l7proto: r2}}]}]",
            ["spec.ingress[0].toPorts[0].rules.l7proto"],
        ),
        ("ingress: [{fromEndpoints: [{matchLabels: {'reserved:host': ''}}]}]", []),
        (
            "ingressDeny: [{fromEndpoints: [{matchExpressions: "
            "[{key: 'reserved:host', operator: DoesNotExist}]}]}]",
            ["spec.ingressDeny[0].fromEndpoints[0]"],
        ),
        (f"egress: [{{{DNS}}}]", []),
        (
            f"egress: [{{{DNS.replace('*', '*.example.com')}}}]",
            ["spec.egress[0].toPorts[0].rules.dns"],
        ),
        (
            "egress: [{toPorts: [{ports: [{port: '443'}], serverNames: [a.example.com]}]}]",
            ["spec.egress[0].toPorts[0].serverNames"],
        ),
        (
            "egress: [{toPorts: [{terminatingTLS: {}, originatingTLS: {}, listener: {}}]}]",
            [
                "spec.egress[0].toPorts[0].terminatingTLS",
                "spec.egress[0].toPorts[0].originatingTLS",
                "spec.egress[0].toPorts[0].listener",
            ],
        ),
        (f"egress: [{{toFQDNs: [{{matchName: a.example.com}}]}}, {{{DNS}}}]", []),
        ("egress: [{toFQDNs: [{matchName: a.example.com}]}]", ["spec.egress[0].toFQDNs"]),
    ],
)
def test_fields_about_requests_and_identities_are_reported(fields: str, paths: list[str]) -> None:
    """Rules about DNS that allow every name are those of a lab, which needs no proxy."""
    found = unenforced(fields)
    assert [each.subject.partition(": ")[2] for each in found] == paths
    for each in found:
        pods = each.scope.into if "ingress" in each.subject else each.scope.out_of
        assert pods == ("default/one",)


def test_policies_of_nodes_are_reported() -> None:
    text = POLICY.format(kind="CiliumClusterwideNetworkPolicy", fields="ingress: [{}]")
    (diagnostic,) = reported(text.replace("endpointSelector", "nodeSelector"), CILIUM)
    assert diagnostic.path == ("spec", "nodeSelector")
    assert diagnostic.scope.is_everything
