"""Advice about ranges with bits after the prefix."""

from __future__ import annotations

import pytest

from kubenetlab.diagnostics import diagnose
from kubenetlab.diagnostics.model import RANGE_AMBIGUOUS
from tests.clusters import store
from tests.unit.diagnostics.test_diagnostics import main

HEAD = "apiVersion: {}\nkind: {}\nmetadata: {{name: {}}}\nspec: {}\n---\n"
TIER = "policy.networking.k8s.io/v1alpha"
EVERY_POD = "subject: {namespaces: {}}"
KINDS = {
    "NetworkPolicy default/p: spec.ingress[0].from[0].ipBlock.cidr": HEAD.format(
        "networking.k8s.io/v1",
        "NetworkPolicy",
        "p",
        "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: RANGE}}]}]}",
    ),
    "NetworkPolicy default/p: spec.egress[0].to[0].ipBlock.except[1]": HEAD.format(
        "networking.k8s.io/v1",
        "NetworkPolicy",
        "p",
        "{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, "
        "except: [10.1.0.0/16, RANGE]}}]}]}",
    ),
    "ClusterNetworkPolicy p: spec.egress[0].to[0].networks[0]": HEAD.format(
        f"{TIER}2",
        "ClusterNetworkPolicy",
        "p",
        f"{{tier: Admin, priority: 5, {EVERY_POD}, egress: [{{action: Deny, to: "
        "[{networks: [RANGE]}]}]}",
    ),
    "AdminNetworkPolicy p: spec.egress[0].to[0].networks[0]": HEAD.format(
        f"{TIER}1",
        "AdminNetworkPolicy",
        "p",
        f"{{priority: 5, {EVERY_POD}, egress: [{{action: Deny, to: [{{networks: [RANGE]}}]}}]}}",
    ),
    "BaselineAdminNetworkPolicy default: spec.egress[0].to[0].networks[0]": HEAD.format(
        f"{TIER}1",
        "BaselineAdminNetworkPolicy",
        "default",
        f"{{{EVERY_POD}, egress: [{{action: Deny, to: [{{networks: [RANGE]}}]}}]}}",
    ),
    "CalicoNetworkPolicy default/p: spec.ingress[0].source.nets[0]": HEAD.format(
        "projectcalico.org/v3",
        "NetworkPolicy",
        "p",
        "{selector: all(), ingress: [{action: Allow, source: {nets: [RANGE]}}]}",
    ),
    "GlobalNetworkPolicy p: spec.egress[0].destination.notNets[0]": HEAD.format(
        "projectcalico.org/v3",
        "GlobalNetworkPolicy",
        "p",
        "{selector: all(), egress: [{action: Deny, destination: {notNets: [RANGE]}}]}",
    ),
    "NetworkSet default/s: spec.nets[0]": HEAD.format(
        "projectcalico.org/v3", "NetworkSet", "s", "{nets: [RANGE, 10.9.0.0/16]}"
    ),
    "GlobalNetworkSet s: spec.nets[1]": HEAD.format(
        "projectcalico.org/v3", "GlobalNetworkSet", "s", "{nets: [10.9.0.1/32, RANGE]}"
    ),
    "CiliumNetworkPolicy default/p: spec.ingress[0].fromCIDR[0]": HEAD.format(
        "cilium.io/v2",
        "CiliumNetworkPolicy",
        "p",
        "{endpointSelector: {}, ingress: [{fromCIDR: [RANGE]}]}",
    ),
    "CiliumClusterwideNetworkPolicy p: spec.egressDeny[0].toCIDRSet[0].cidr": HEAD.format(
        "cilium.io/v2",
        "CiliumClusterwideNetworkPolicy",
        "p",
        "{endpointSelector: {}, egressDeny: [{toCIDRSet: [{cidr: RANGE}]}]}",
    ),
    "CiliumCIDRGroup g: spec.externalCIDRs[0]": HEAD.format(
        "cilium.io/v2", "CiliumCIDRGroup", "g", "{externalCIDRs: [RANGE]}"
    ),
    "Service default/s: spec.loadBalancerSourceRanges[0]": HEAD.format(
        "v1",
        "Service",
        "s",
        "{type: LoadBalancer, loadBalancerSourceRanges: [RANGE], ports: [{port: 80}], "
        "selector: {app: one}}",
    ),
}
"""Subject of the advice → document with a range."""


def advice(documents: str) -> list[tuple[str, str, tuple[str, ...]]]:
    return [
        (each.subject, each.message, each.hints)
        for each in diagnose(store(main("") + documents))
        if each.code == RANGE_AMBIGUOUS
    ]


@pytest.mark.parametrize("subject", KINDS)
@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (
            "10.244.7.5/16",
            "10.244.7.5/16 means 10.244.0.0/16: bits after the prefix are ignored",
            "write 10.244.0.0/16, or 10.244.7.5/32 for the address alone",
        ),
        ("10.244.0.0/16", "", ""),
        ("10.244.7.5/32", "", ""),
    ],
)
def test_a_range_with_bits_after_its_prefix(
    subject: str, text: str, message: str, hint: str
) -> None:
    expected = [(subject, message, (hint,))] if message else []
    assert advice(KINDS[subject].replace("RANGE", text)) == expected


def test_a_range_of_ipv6() -> None:
    document = KINDS["NetworkSet default/s: spec.nets[0]"].replace("RANGE", "'fd00::7/64'")
    ((_, message, _),) = advice(document)
    assert message.startswith("fd00::7/64 means fd00::/64")
