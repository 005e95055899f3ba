"""Advice about Cilium's policies: no effect, less than expected, and groups without use."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given, settings
from msgspec import structs

from kubenetlab.api.meta import Resource
from kubenetlab.api.policies.cilium_cidr_group import CiliumCIDRGroup
from kubenetlab.api.policies.cilium_network_policy import (
    CiliumDefaultDeny,
    CiliumPolicy,
    CiliumRule,
)
from kubenetlab.api.policies.cilium_rules import CILIUM_KINDS
from kubenetlab.api.store import Cluster, Delete
from kubenetlab.api.text.documents import Path
from kubenetlab.diagnostics import diagnose
from kubenetlab.diagnostics.model import (
    ADVICE,
    NETWORK_SET_UNUSED,
    POLICY_PEER_UNMATCHED,
    POLICY_PORT_UNKNOWN,
    POLICY_RULE_REDUNDANT,
    POLICY_SELECTS_NOTHING,
    POLICY_SHADOWED,
    RANGE_AMBIGUOUS,
    Diagnostic,
)
from tests.cilium_policies import WORLDS, with_cilium
from tests.tier_policies import Document
from tests.unit.diagnostics.policy_advice import advice_in, codes_in, verdicts
from tests.unit.diagnostics.test_diagnostics import NODES, diagnostics_of, main

CILIUM = NODES.replace("---", "networking: {cni: cilium}\n---")
HTTP = "toPorts: [{ports: [{port: '80', protocol: TCP}]}]"
GROUP = """
apiVersion: cilium.io/v2
kind: CiliumCIDRGroup
metadata: {name: partners, labels: {role: partner}}
spec: {externalCIDRs: [198.51.100.0/24]}
---
"""


def policy(rules: str, name: str = "p", selector: str = "{}", namespace: str = "default") -> str:
    """Return a policy; a clusterwide one without a namespace."""
    kind = "CiliumNetworkPolicy" if namespace else "CiliumClusterwideNetworkPolicy"
    meta = f"name: {name}" + (f", namespace: {namespace}" if namespace else "")
    return (
        f"apiVersion: cilium.io/v2\nkind: {kind}\nmetadata: {{{meta}}}\n"
        f"spec: {{endpointSelector: {selector}, {rules}}}\n---\n"
    )


advice = partial(advice_in, CILIUM)
codes = partial(codes_in, CILIUM)


@pytest.mark.parametrize(
    ("selector", "namespace", "is_reported"),
    [
        ("{}", "default", False),
        ("{}", "", False),
        ("{}", "kube-public", True),
        ("{matchLabels: {app: absent}}", "default", True),
        ("{matchLabels: {'k8s:io.kubernetes.pod.namespace': absent}}", "", True),
        ("{matchLabels: {'reserved:health': ''}}", "", False),
        ("{matchLabels: {io.cilium.k8s.policy.cluster: other}}", "", False),
    ],
)
def test_a_policy_without_pods(selector: str, namespace: str, is_reported: bool) -> None:
    found = codes(policy("ingress: [{}]", selector=selector, namespace=namespace))
    expected = [(POLICY_SELECTS_NOTHING, "spec.endpointSelector")] if is_reported else []
    assert found == expected


@pytest.mark.parametrize(
    ("rule", "path"),
    [
        ("fromEndpoints: [{}]", ""),
        ("fromEndpoints: [{}, {matchLabels: {app: absent}}]", "fromEndpoints[1]"),
        ("fromEndpoints: [{matchLabels: {'reserved:host': ''}}]", ""),
        ("fromCIDR: [198.51.100.0/24, 10.244.0.0/16]", "fromCIDR[1]"),
        ("fromCIDR: ['10.244.1.7/32', '10.0.0.0/8', '0.0.0.0/0']", "fromCIDR[0]"),
        ("fromCIDR: [10.245.0.0/16, 'fd00::/8']", ""),
        ("fromCIDRSet: [{cidr: 10.244.2.0/24}]", "fromCIDRSet[0]"),
        ("fromCIDRSet: [{cidr: 10.0.0.0/8, except: [10.244.0.0/16]}]", ""),
        ("fromCIDRSet: [{cidrGroupRef: partners}]", ""),
        ("fromCIDRSet: [{cidrGroupRef: partner}]", "fromCIDRSet[0].cidrGroupRef"),
        ("fromCIDRSet: [{cidrGroupSelector: {matchLabels: {role: partner}}}]", ""),
        (
            "fromCIDRSet: [{cidrGroupSelector: {matchLabels: {role: guest}}}]",
            "fromCIDRSet[0].cidrGroupSelector",
        ),
    ],
)
def test_peers_that_match_nothing(rule: str, path: str) -> None:
    """Hosts outside are not compared."""
    use = policy("egress: [{toCIDRSet: [{cidrGroupRef: partners}]}]", "use")
    found = codes(GROUP + use + policy(f"ingress: [{{{rule}}}]"))
    assert found == ([(POLICY_PEER_UNMATCHED, f"spec.ingress[0].{path}")] if path else [])


@pytest.mark.parametrize(
    ("rule", "is_reported"),
    [
        ("ingress: [{toPorts: [{ports: [{port: HTTP, protocol: TCP}]}]}]", False),
        ("ingress: [{toPorts: [{ports: [{port: http, protocol: UDP}]}]}]", True),
        ("ingress: [{toPorts: [{ports: [{port: htpp}]}]}]", True),
        ("egress: [{toEndpoints: [{}], toPorts: [{ports: [{port: http}]}]}]", False),
        ("egress: [{toEndpoints: [{}], toPorts: [{ports: [{port: dns}]}]}]", True),
        ("egress: [{toEntities: [all], toPorts: [{ports: [{port: dns}]}]}]", False),
    ],
)
def test_named_ports_that_no_destination_has(rule: str, is_reported: bool) -> None:
    """Ports of peers other than pods by labels are unknown."""
    pod = main(", ports: [{name: http, containerPort: 80}]")
    found = [
        (each.code, each.message.partition(";")[0])
        for each in diagnostics_of(pod + policy(rule), CILIUM)
        if each.code == POLICY_PORT_UNKNOWN
    ]
    assert bool(found) == is_reported, found
    assert all(message.startswith("no destination has a ") for _, message in found)


@pytest.mark.parametrize("rules", ["egress", "egressDeny"])
def test_a_range_of_pods_is_no_range_of_cilium(rules: str) -> None:
    """The advice names the field that selects pods."""
    document = policy(f"{rules}: [{{toCIDR: ['10.244.0.0/16']}}]")
    ((_, subject, message),) = advice(document)
    assert subject == f"CiliumNetworkPolicy default/p: spec.{rules}[0].toCIDR[0]"
    assert message == (
        "10.244.0.0/16 is in the range of the pods (10.244.0.0/16), and ranges never match pods: "
        "select them by labels (toEndpoints)"
    )


def test_services_that_do_not_exist() -> None:
    services = "{k8sService: {serviceName: absent}}, {k8sServiceSelector: {selector: {}}}"
    assert codes(policy(f"egress: [{{toServices: [{services}]}}]")) == [
        (POLICY_PEER_UNMATCHED, "spec.egress[0].toServices[0]")
    ]


def test_a_missing_group_has_a_suggestion() -> None:
    ((_, _, message), (code, _, _)) = advice(
        GROUP + policy("ingress: [{fromCIDRSet: [{cidrGroupRef: partner}]}]")
    )
    assert message == (
        "there is no CiliumCIDRGroup partner; did you mean partners?: the reference matches nothing"
    )
    assert code == NETWORK_SET_UNUSED


def test_a_group_without_use() -> None:
    assert advice(GROUP) == [
        (
            NETWORK_SET_UNUSED,
            "CiliumCIDRGroup partners",
            "no rule of Cilium's policies refers to the group",
        )
    ]


@pytest.mark.parametrize(
    ("rules", "path", "message"),
    [
        ("ingress: [{fromEntities: [all]}]", "", ""),
        (
            f"ingress: [{{fromEndpoints: [{{}}], {HTTP}}}, {{fromEntities: [cluster]}}]",
            "spec.ingress[0]",
            "it allows nothing that spec.ingress[1] does not allow",
        ),
        (
            "ingressDeny: [{fromEntities: [world]}, {fromCIDR: [10.0.0.0/8]}]",
            "spec.ingressDeny[1]",
            "it denies nothing that spec.ingressDeny[0] does not deny",
        ),
        (
            "ingress: [{fromCIDR: [10.0.0.0/8]}], ingressDeny: [{fromEntities: [world]}]",
            "spec.ingress[0]",
            "it has no effect: spec.ingressDeny[0] denies all that it allows",
        ),
        ("ingress: [{fromEntities: [world]}], ingressDeny: [{fromCIDR: [0.0.0.0/0]}]", "", ""),
        (f"ingress: [{{fromEntities: [all], {HTTP}}}, {{fromEntities: [world]}}]", "", ""),
        (
            "ingress: [{fromEntities: [all], toPorts: [{ports: [{port: '80', protocol: TCP}],"
            f" rules: {{http: [{{}}]}}}}]}}, {{fromEntities: [world], {HTTP}}}]",
            "",
            "",
        ),
        ("ingress: [{}, {fromEntities: [all]}]", "", ""),
        (
            "egress: [{toFQDNs: [{matchPattern: '*'}]}, {toFQDNs: [{matchName: client}]}]",
            "spec.egress[1]",
            "it allows nothing that spec.egress[0] does not allow",
        ),
    ],
)
def test_rules_without_effect(rules: str, path: str, message: str) -> None:
    """A rule about requests may have other effects, and a rule that means nothing isolates."""
    expected = (
        [(POLICY_RULE_REDUNDANT, f"CiliumNetworkPolicy default/p: {path}", message)] if path else []
    )
    assert advice(policy(rules)) == expected


def test_a_rule_of_another_policy_denies_what_a_rule_allows() -> None:
    """It must apply to all pods of the rule that allows."""
    allowing = policy("ingress: [{fromEntities: [world]}, {fromEndpoints: [{}]}]")
    denying = "ingressDeny: [{fromEntities: [world]}], enableDefaultDeny: {ingress: false}"
    found = advice(allowing + policy(denying, "deny", namespace=""))
    assert found == [
        (
            POLICY_RULE_REDUNDANT,
            "CiliumNetworkPolicy default/p: spec.ingress[0]",
            "it has no effect: CiliumClusterwideNetworkPolicy deny spec.ingressDeny[0] denies all "
            "that it allows",
        )
    ]
    partial = policy(denying, "deny", "{matchExpressions: [{key: role, operator: DoesNotExist}]}")
    assert advice(allowing + partial) == []


def test_a_policy_without_effect_beside_others() -> None:
    """The later of two equal policies is reported.

    A policy that isolates is reported only if another policy isolates the same pods.
    """
    rules = "ingress: [{fromEndpoints: [{}]}]"
    assert codes(policy(rules, "a") + policy(rules, "b")) == [(POLICY_SHADOWED, "")]
    wide = policy("ingress: [{fromEntities: [cluster]}]", "wide", namespace="")
    assert codes(wide + policy(rules)) == [(POLICY_SHADOWED, "")]
    open_ = "ingress: [{fromEntities: [cluster]}], enableDefaultDeny: {ingress: false}"
    assert codes(policy(open_, "wide") + policy(rules)) == []


def test_policies_of_other_modes_have_no_advice() -> None:
    """They are reported as not enforced."""
    assert codes_in(NODES, policy("ingress: [{}]", selector="{matchLabels: {a: b}}") + GROUP) == []


@settings(max_examples=60)
@given(world=WORLDS)
def test_what_has_no_effect_can_be_removed(
    world: tuple[list[Document], list[Document], list[Document]],
) -> None:
    """No verdict about a pair of parties changes, in both IP versions."""
    cluster = with_cilium(*world)
    networking = structs.replace(cluster.config.networking, cni="cilium")
    cluster = cluster.with_changes([structs.replace(cluster.config, networking=networking)])
    codes = {*ADVICE} - {RANGE_AMBIGUOUS}
    removable = [each for each in diagnose(cluster) if each.code in codes]
    before = verdicts(cluster) if removable else []
    for diagnostic in removable:
        if diagnostic.kind in KINDS:
            assert verdicts(removed(cluster, diagnostic)) == before, diagnostic


KINDS = {kind.kind: kind for kind in (*CILIUM_KINDS, CiliumCIDRGroup)}


def removed(cluster: Cluster, diagnostic: Diagnostic) -> Cluster:
    """Return the store without the object, or the field, of a diagnostic."""
    kind = KINDS[diagnostic.kind]
    obj = cluster.get(kind, diagnostic.namespace, diagnostic.name)
    assert obj is not None
    if not diagnostic.path:
        return cluster.with_changes([Delete(kind, diagnostic.namespace, diagnostic.name)])
    assert isinstance(obj, CiliumPolicy)
    return cluster.with_changes([without(obj, diagnostic.path)])


def without(obj: CiliumPolicy, path: Path) -> Resource:
    """Return a policy without a rule, a peer, or a whole specification.

    A rule becomes one that means nothing: its list isolates pods as before.
    """
    specs: dict[Path, CiliumRule] = {("specs", n): each for n, each in enumerate(obj.specs)}
    if obj.spec is not None:
        specs["spec",] = obj.spec
    at = path[:1] if path[0] == "spec" else path[:2]
    spec, inner = specs[at], path[len(at) :]
    if inner == ("endpointSelector",):
        specs[at] = structs.replace(
            spec, ingress=(), ingress_deny=(), egress=(), egress_deny=(), enable_default_deny=OFF
        )
    else:
        field = FIELDS[str(inner[0])]
        rules = list(getattr(spec, field))
        rule, number = rules[int(inner[1])], int(inner[1])
        rules[number] = type(rule)()
        if len(inner) > 2 and inner[2] == "toPorts":
            entries = list(rule.to_ports)
            ports = list(entries[int(inner[3])].ports)
            del ports[int(inner[5])]
            entries[int(inner[3])] = structs.replace(entries[int(inner[3])], ports=tuple(ports))
            rules[number] = structs.replace(rule, to_ports=tuple(entries))
        elif len(inner) > 2:
            peers = {
                "Endpoints": "endpoints",
                "CIDR": "cidr",
                "CIDRSet": "cidr_set",
                "FQDNs": "fqdns",
                "Services": "services",
            }
            prefix, name = ("from", "to")[str(inner[2]).startswith("to")], str(inner[2])
            attribute = f"{prefix}_{peers[name.removeprefix(prefix)]}"
            entries = list(getattr(rule, attribute))
            del entries[int(inner[3])]
            rules[number] = structs.replace(rule, **{attribute: tuple(entries)})
        specs[at] = structs.replace(spec, **{field: tuple(rules)})
    return structs.replace(
        obj, spec=specs["spec",], specs=tuple(specs["specs", n] for n in range(len(obj.specs)))
    )


OFF = CiliumDefaultDeny(ingress=False, egress=False)
FIELDS = {
    "ingress": "ingress",
    "ingressDeny": "ingress_deny",
    "egress": "egress",
    "egressDeny": "egress_deny",
}
