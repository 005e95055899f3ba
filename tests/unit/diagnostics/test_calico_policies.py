"""Diagnostics of Calico's policies: kinds and parts that the lab does not enforce."""

from __future__ import annotations

import pytest

from kubenetlab.diagnostics.model import NOT_ENFORCED, Diagnostic
from tests.unit.diagnostics.test_diagnostics import diagnostics_of, main

CALICO = """\
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
networking: {cni: calico}
---
"""
BRIDGE = CALICO.replace("calico", "bridge")
POLICY = """
apiVersion: projectcalico.org/v3
kind: {kind}
metadata: {{name: {name}}}
spec: {spec}
---
"""
DENY = "ingress: [{action: Deny}]"


def unenforced(
    spec: str, kind: str = "GlobalNetworkPolicy", *, cluster: str = CALICO, name: str = "some"
) -> list[Diagnostic]:
    """Return the diagnostics of a policy in a lab with one pod."""
    text = main("") + POLICY.format(kind=kind, name=name, spec=spec)
    return [each for each in diagnostics_of(text, cluster) if each.code == NOT_ENFORCED]


@pytest.mark.parametrize("kind", ["NetworkPolicy", "GlobalNetworkPolicy"])
def test_other_cni_modes_report_the_policy(kind: str) -> None:
    """It concerns the connections of its pods, in the directions that it has."""
    (diagnostic,) = unenforced(f"{{selector: all(), {DENY}}}", kind, cluster=BRIDGE)
    assert diagnostic.kind == ("CalicoNetworkPolicy" if kind == "NetworkPolicy" else kind)
    assert diagnostic.path == ()
    assert diagnostic.hints == (
        "only calico knows this kind; kubenetlab up --cni calico enforces it",
    )
    assert "default/one" in diagnostic.scope.into
    assert diagnostic.scope.out_of == ()


def test_a_lab_without_an_engine_reports_the_policy() -> None:
    cluster = CALICO.replace("calico", "calico, policyEngine: none")
    (diagnostic,) = unenforced(f"{{selector: all(), {DENY}}}", cluster=cluster)
    assert diagnostic.hints[0].startswith("the policy engine is none")


@pytest.mark.parametrize(
    ("spec", "path", "text"),
    [
        ("{applyOnForward: true}", ("spec", "applyOnForward"), "host endpoints forward"),
        (
            f"{{applyOnForward: true, doNotTrack: true, {DENY}}}",
            ("spec", "doNotTrack"),
            "the policy applies to host endpoints",
        ),
        (
            "{ingress: [{action: Allow, http: {methods: [GET]}}]}",
            ("spec", "ingress", 0, "http"),
            "the lab leaves the rule out",
        ),
        (
            "{serviceAccountSelector: role == 'x'}",
            ("spec", "serviceAccountSelector"),
            "service accounts have labels",
        ),
        (
            "{egress: [{action: Allow, destination: {serviceAccounts: {selector: has(x)}}}]}",
            ("spec", "egress", 0, "destination", "serviceAccounts", "selector"),
            "service accounts have labels",
        ),
    ],
)
def test_a_part_that_is_not_enforced_is_reported(
    spec: str, path: tuple[str | int, ...], text: str
) -> None:
    found = [each for each in unenforced(spec) if each.path == path]
    assert [text in each.message for each in found] == [True]


@pytest.mark.parametrize(
    "spec",
    [
        f"{{order: 10, selector: all(), performanceHints: [AssumeNeededOnEveryNode], {DENY}}}",
        "{serviceAccountSelector: projectcalico.org/name == 'x'}",
        "{ingress: [{action: Log, metadata: {annotations: {a: b}}}]}",
    ],
)
def test_all_other_parts_are_enforced(spec: str) -> None:
    assert unenforced(spec) == []


def test_a_policy_of_a_tier_that_does_not_exist_is_reported() -> None:
    (diagnostic,) = unenforced(f"{{tier: defaul, {DENY}}}", name="defaul.some")
    assert diagnostic.path == ("spec", "tier")
    assert 'no tier "defaul"; did you mean default?' in diagnostic.message


def test_staged_policies_have_no_effect() -> None:
    assert unenforced(f"{{{DENY}}}", "StagedGlobalNetworkPolicy") == []
    assert len(unenforced("{node: n}", "HostEndpoint")) == 1


@pytest.mark.parametrize("kind", ["NetworkSet", "GlobalNetworkSet"])
def test_a_set_without_policies_is_not_reported(kind: str) -> None:
    """In other CNI modes it changes nothing by itself."""
    text = f"apiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata: {{name: s}}\n---\n"
    policy = (
        "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\n"
        "metadata: {name: p}\nspec: {types: [Egress]}\n"
    )
    assert [each for each in diagnostics_of(main("") + text) if each.code == NOT_ENFORCED] == []
    found = [each for each in diagnostics_of(main("") + text + policy) if each.code == NOT_ENFORCED]
    scopes = [each.scope for each in found if each.kind.startswith(kind)]
    assert [(each.is_everything, each.into) for each in scopes] == [(False, ())]
    assert "default/one" in scopes[0].out_of


@pytest.mark.parametrize(
    ("fields", "ports"),
    [
        ("protocol: TCP, destination: {ports: [80, '90:99']}", (("TCP", 80, 80), ("TCP", 90, 99))),
        ("protocol: TCP, destination: {ports: [web]}", (("TCP", 0, 65535),)),
        ("protocol: TCP", (("TCP", 0, 65535),)),
        ("source: {selector: a == 'b'}", None),
    ],
)
def test_a_rule_about_requests_concerns_its_direction_and_ports(
    fields: str, ports: tuple[tuple[str, int, int], ...] | None
) -> None:
    """A name of a port may be any number."""
    rule = f"{{action: Allow, http: {{methods: [GET]}}, {fields}}}"
    (diagnostic,) = unenforced(f"{{types: [Ingress, Egress], ingress: [{rule}]}}")
    (flow,) = diagnostic.scope.flows
    assert (flow.direction, flow.peers, flow.ports) == ("Ingress", None, ports)
    assert "default/one" in flow.subjects
    assert (diagnostic.scope.into, diagnostic.scope.out_of) == ((), ())
