"""Validation of Cilium's policies, their selectors of labels and names, and their sections."""

from __future__ import annotations

import pytest

from kubenetlab.api.containers import Container
from kubenetlab.api.meta import LabelSelector, LabelSelectorRequirement, ObjectMeta
from kubenetlab.api.pods import Pod, PodSpec
from kubenetlab.api.policies.cilium_labels import (
    identity_labels,
    is_peer,
    is_subject,
    matches_host_name,
    reserved_peers,
)
from kubenetlab.api.policies.cilium_network_policy import (
    CiliumClusterwideNetworkPolicy,
    CiliumNetworkPolicy,
)
from kubenetlab.api.policies.cilium_rules import has_peers, sections
from tests.clusters import loaded
from tests.unit.api.test_validate import assert_rejected

HEAD = "apiVersion: cilium.io/v2\nkind: {}\nmetadata: {{name: p}}\n"
CNP = HEAD.format("CiliumNetworkPolicy")
CCNP = HEAD.format("CiliumClusterwideNetworkPolicy")
ALL = "endpointSelector: {}"
RULE = "spec.ingress[0]"
TO = "spec.egress[0]"


def cnp(fields: str) -> str:
    return f"{CNP}spec: {{{ALL}, {fields}}}\n"


def group(spec: str, version: str = "v2") -> str:
    return (
        f"apiVersion: cilium.io/{version}\nkind: CiliumCIDRGroup\nmetadata: {{name: g}}\n"
        f"spec: {{{spec}}}\n"
    )


def ingress(fields: str) -> str:
    return cnp(f"ingress: [{{{fields}}}]")


def egress(fields: str) -> str:
    return cnp(f"egress: [{{{fields}}}]")


def port(fields: str, rules: str = "") -> str:
    return ingress(f"toPorts: [{{ports: [{{{fields}}}]{rules}}}]")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (CNP, "must have spec or specs"),
        (
            cnp("ingress: [], enableDefaultDeny: {ingress: true}"),
            "spec: must have at least one rule in ingress, ingressDeny, egress or egressDeny",
        ),
        (f"{CNP}spec: {{ingress: [{{}}]}}", "must have one of endpointSelector and nodeSelector"),
        (
            f"{CCNP}spec: {{{ALL}, nodeSelector: {{}}}}",
            "cannot have both endpointSelector and nodeSelector",
        ),
        (
            f"{CNP}spec: {{nodeSelector: {{}}}}",
            "spec.nodeSelector: cannot be in a CiliumNetworkPolicy",
        ),
        (
            f"{CNP}spec: {{endpointSelector: {{matchLabels: {{'k8s:-': a}}}}}}",
            "spec.endpointSelector.matchLabels.k8s:-: expected a name",
        ),
        (
            ingress("fromEndpoints: [{matchExpressions: [{key: a, operator: In}]}]"),
            f"{RULE}.fromEndpoints[0].matchExpressions[0].values: required with operator In",
        ),
        (
            ingress("fromEntities: [word]"),
            f"{RULE}.fromEntities[0]: expected one of all, cluster, health, host",
        ),
        (
            ingress("fromEndpoints: [{}], fromCIDR: [10.0.0.0/8]"),
            f"{RULE}.fromCIDR: cannot be combined with fromEndpoints in one rule",
        ),
        (
            egress("toEndpoints: [{}], toFQDNs: [{matchName: a.b}]"),
            f"{TO}.toFQDNs: cannot be combined with toEndpoints in one rule",
        ),
        (
            ingress("fromCIDR: [10.0.0.0/33]"),
            f"{RULE}.fromCIDR[0]: expected a range such as 10.0.0.0/8, or an address, "
            'found "10.0.0.0/33"',
        ),
        (
            ingress("fromCIDRSet: [{cidr: 10.0.0.1}]"),
            'fromCIDRSet[0].cidr: expected a range such as 192.168.1.0/24, found "10.0.0.1"',
        ),
        (
            ingress("fromCIDRSet: [{cidr: 10.0.0.0/8, except: [11.0.0.0/16]}]"),
            f"{RULE}.fromCIDRSet[0].except[0]: must be part of `cidr` 10.0.0.0/8",
        ),
        (
            ingress("fromCIDRSet: [{cidr: 10.0.0.0/8, except: [x]}]"),
            f"{RULE}.fromCIDRSet[0].except[0]: expected a range",
        ),
        (
            ingress("fromCIDRSet: [{cidr: 10.0.0.0/8, cidrGroupRef: g}]"),
            "must have exactly one of cidr, cidrGroupRef and cidrGroupSelector, found cidr and "
            "cidrGroupRef",
        ),
        (group(""), "spec.externalCIDRs: required, but missing"),
        (
            group("externalCIDRs: [10.0.0.0/8, 10.0.0.1]", "v2alpha1"),
            'spec.externalCIDRs[1]: expected a range such as 192.168.1.0/24, found "10.0.0.1"',
        ),
        (
            ingress("fromCIDRSet: [{cidrGroupRef: Partners}]"),
            f"{RULE}.fromCIDRSet[0].cidrGroupRef: ",
        ),
        (
            ingress("fromCIDRSet: [{cidrGroupRef: a, except: [10.0.0.1]}]"),
            f"{RULE}.fromCIDRSet[0].except[0]: expected a range",
        ),
        (
            ingress("fromCIDRSet: [{cidrGroupSelector: {matchLabels: {'k8s:a': b}}}]"),
            f"{RULE}.fromCIDRSet[0].cidrGroupSelector.matchLabels",
        ),
        (port("protocol: TCP"), f"{RULE}.toPorts[0].ports[0].port: required, but missing"),
        (
            port("port: '80', protocol: ICMP"),
            f"{RULE}.toPorts[0].ports[0].protocol: expected one of ANY, SCTP, TCP, UDP",
        ),
        (
            port("port: '70000'"),
            f"{RULE}.toPorts[0].ports[0].port: expected a port number from 0 to 65535, found 70000",
        ),
        (
            port("port: '-1'"),
            f"{RULE}.toPorts[0].ports[0].port: expected a port number or a port name",
        ),
        (
            port("port: '80', endPort: 79"),
            "endPort: must be greater than or equal to `port` 80, found 79",
        ),
        (
            ingress("icmps: [{fields: [{type: EchoReqest}]}]"),
            'expected a number or a type of IPv4, found "EchoReqest"; did you mean EchoRequest?',
        ),
        (
            ingress("icmps: [{fields: [{type: 256}]}]"),
            f"{RULE}.icmps[0].fields[0].type: expected a number from 0 to 255, found 256",
        ),
        (
            ingress("icmps: [{fields: [{type: 8}]}], toPorts: [{ports: [{port: '80'}]}]"),
            f"{RULE}.icmps: cannot be combined with toPorts",
        ),
        (
            port("port: '80', protocol: UDP", ", rules: {http: [{}]}"),
            "protocol: must be TCP if there are rules other than DNS, found UDP",
        ),
        (
            port("port: '0', protocol: TCP", ", rules: {http: [{}]}"),
            "ports[0].port: cannot be 0 if there are rules",
        ),
        (
            port("port: '80', protocol: TCP", ", rules: {http: [{}], kafka: [{}]}"),
            "rules: must be of one protocol, found http and kafka",
        ),
        (
            port("port: '80', protocol: TCP", ", rules: {l7: [{a: b}]}"),
            "rules.l7: needs l7proto",
        ),
        (
            port("port: '80', protocol: TCP", ", rules: {l7proto: r2d2, http: [{}]}"),
            "rules: must be of one protocol, found http and l7proto",
        ),
        (
            port("port: '53'", ", rules: {dns: [{matchPattern: '*'}]}"),
            f"{RULE}.toPorts[0].rules.dns: not allowed in ingress rules",
        ),
        (
            egress("toPorts: [{rules: {dns: [{matchPattern: '*'}]}}]"),
            f"{TO}.toPorts[0].ports: required with DNS rules",
        ),
        (
            egress(
                "toPorts: [{ports: [{port: '1', endPort: 53}], rules: {dns: [{matchName: a}]}}]"
            ),
            f"{TO}.toPorts[0].ports[0]: DNS rules need a single port",
        ),
        (egress("toFQDNs: [{}]"), f"{TO}.toFQDNs[0]: must have exactly one of matchName and"),
        (
            egress("toFQDNs: [{matchName: '*.example.com'}]"),
            f'{TO}.toFQDNs[0].matchName: expected a DNS name, found "*.example.com"',
        ),
        (
            egress("toFQDNs: [{matchPattern: 'a b'}]"),
            f"{TO}.toFQDNs[0].matchPattern: expected a DNS name that may contain *",
        ),
        (
            egress("toServices: [{}]"),
            f"{TO}.toServices[0]: must have exactly one of k8sService and k8sServiceSelector",
        ),
        (
            egress("toServices: [{k8sService: {namespace: shop}}]"),
            f"{TO}.toServices[0].k8sService.serviceName: required, but missing",
        ),
        (
            port("port: '80', protocol: TCP", ", listener: {name: x, envoyConfig: {name: y}}"),
            f"{RULE}.toPorts[0].listener: not allowed in ingress rules",
        ),
    ],
)
def test_mistakes_are_reported_with_the_path_of_the_field(text: str, message: str) -> None:
    assert_rejected(text, message)


def test_a_deny_rule_has_no_rules_of_layer_7() -> None:
    """The field is unknown there, as in Cilium."""
    text = cnp("ingressDeny: [{toPorts: [{ports: [{port: '80'}], rules: {http: [{}]}}]}]")
    assert_rejected(text, "spec.ingressDeny[0].toPorts[0].rules: unknown field")


LABELS = identity_labels(
    Pod(
        ObjectMeta("web", "default", {"app": "web", "pod-template-hash": "abc"}),
        PodSpec((Container("main"),)),
    ),
    {"team": "ops"},
)


@pytest.mark.parametrize(
    ("labels", "namespace", "expected"),
    [
        ({}, "default", True),
        ({}, "shop", False),
        ({}, "", True),
        ({"app": "web"}, "default", True),
        ({"k8s:app": "web"}, "default", True),
        ({"any:app": "web"}, "default", True),
        ({"container:app": "web"}, "default", False),
        ({"reserved:host": ""}, "default", False),
        ({"k8s:io.kubernetes.pod.namespace": "default"}, "shop", True),
        ({"io.kubernetes.pod.namespace": "shop"}, "default", False),
        ({"io.cilium.k8s.namespace.labels.team": "ops"}, "shop", True),
        ({"k8s:io.cilium.k8s.namespace.labels.team": "dev"}, "default", False),
        ({"io.cilium.k8s.policy.serviceaccount": "default"}, "default", True),
        ({"io.cilium.k8s.policy.cluster": "other"}, "default", False),
        ({"pod-template-hash": "abc"}, "default", False),
    ],
)
def test_peers_are_in_the_namespace_of_the_policy_unless_a_label_names_others(
    labels: dict[str, str], namespace: str, expected: bool
) -> None:
    assert is_peer(LabelSelector(labels), namespace, LABELS) == expected


def test_subjects_are_always_in_the_namespace_of_the_policy() -> None:
    """A label for another namespace has no effect; one of a clusterwide policy has."""
    shop = LabelSelector({"k8s:io.kubernetes.pod.namespace": "shop"})
    assert is_subject(shop, "default", LABELS)
    assert not is_subject(shop, "shop", LABELS)
    assert not is_subject(shop, "", LABELS)
    other = LabelSelectorRequirement("io.kubernetes.pod.namespace", "NotIn", ("default",))
    assert not is_subject(LabelSelector({}, (other,)), "", LABELS)


def test_reserved_labels_mean_entities() -> None:
    assert reserved_peers(LabelSelector({"reserved:host": ""})) == ("host",)
    assert reserved_peers(LabelSelector({"reserved:host": "", "reserved:world": ""})) == ()
    assert reserved_peers(LabelSelector({"reserved:host": "", "app": "web"})) == ()
    assert reserved_peers(LabelSelector({"app": "web"})) is None


@pytest.mark.parametrize(
    ("name", "pattern", "host", "expected"),
    [
        ("api.example.com", "", "API.example.com.", True),
        ("api.example.com", "", "example.com", False),
        ("", "*.example.com", "api.example.com", True),
        ("", "*.example.com", "a.api.example.com", False),
        ("", "*.example.com", "example.com", False),
        ("", "**.example.com", "a.api.example.com", True),
        ("", "**.example.com", "example.com", False),
        ("", "part*ial.com", "part-extra-ial.com", True),
        ("", "part*ial.com", "partial.com", True),
        ("", "*", "a.b.c", True),
        ("", "*.com", "aXcom", False),
    ],
)
def test_patterns_match_names_of_hosts(name: str, pattern: str, host: str, expected: bool) -> None:
    assert matches_host_name(name, pattern, host) == expected


def policy_of(text: str) -> CiliumNetworkPolicy | CiliumClusterwideNetworkPolicy:
    (policy,) = (entry.object for entry in loaded(text).entries)
    assert isinstance(policy, CiliumNetworkPolicy | CiliumClusterwideNetworkPolicy)
    return policy


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("ingress: [{}]", [("Ingress", False, True)]),
        ("ingress: [{}], egress: []", [("Ingress", False, True)]),
        ("egressDeny: [{}]", [("Egress", True, False), ("Egress", False, True)]),
        ("egress: [{}], enableDefaultDeny: {egress: false}", [("Egress", False, False)]),
        (
            "ingressDeny: [{}], enableDefaultDeny: {ingress: false}",
            [("Ingress", True, False)],
        ),
        (
            "egress: [{}], enableDefaultDeny: {ingress: true}",
            [("Ingress", False, True), ("Egress", False, True)],
        ),
    ],
)
def test_rules_of_a_direction_isolate_unless_default_deny_is_off(
    fields: str, expected: list[tuple[str, bool, bool]]
) -> None:
    """Lists of rules: direction, whether they deny, and whether they isolate."""
    found = sections(policy_of(cnp(fields)))
    assert [(each.direction, each.is_deny, each.isolates) for each in found] == expected


def test_policies_with_several_specifications_have_sections_with_names() -> None:
    text = f"{CCNP}spec: {{{ALL}, ingress: [{{}}]}}\nspecs: [{{{ALL}, ingressDeny: [{{}}]}}]\n"
    found = [(section.path, section.suffix) for section in sections(policy_of(text))]
    assert found == [
        (("spec", "ingress"), ""),
        (("specs", 0, "ingressDeny"), "_specs0_deny"),
        (("specs", 0, "ingress"), "_specs0"),
    ]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("", False),
        ("authentication: {mode: disabled}", False),
        ("toPorts: [{ports: [{port: '80'}]}]", None),
        ("icmps: [{fields: [{type: 8}]}]", None),
        ("fromEndpoints: [{}]", True),
        ("fromEndpoints: [], toPorts: [{ports: [{port: '80'}]}]", False),
        ("fromCIDR: []", False),
    ],
)
def test_a_rule_without_peers_means_all_of_them_only_if_it_has_ports(
    fields: str, expected: bool | None
) -> None:
    (section,) = sections(policy_of(ingress(fields)))
    assert has_peers(section.rules[0]) is expected
