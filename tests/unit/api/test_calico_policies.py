"""Calico's policies: kinds of two API groups, defaults, and every mistake with its place."""

from __future__ import annotations

import pytest
import yaml

from kubenetlab.api.calico.policies import (
    CalicoNetworkPolicy,
    GlobalNetworkPolicy,
    GlobalNetworkSet,
    Tier,
    port_range,
)
from kubenetlab.api.kinds import find_kind, writable
from kubenetlab.api.policies.network_policy import NetworkPolicy
from kubenetlab.api.render import render
from tests.clusters import problems_of, store

Document = dict[str, object]
SERVICE = {"name": "web", "namespace": "x"}


def policy(spec: Document, name: str = "p", kind: str = "GlobalNetworkPolicy") -> str:
    return yaml.safe_dump(
        {
            "apiVersion": "projectcalico.org/v3",
            "kind": kind,
            "metadata": {"name": name},
            "spec": spec,
        }
    )


def error_text(text: str) -> str:
    return "\n".join(f"{each.path}: {each.message}" for each in problems_of(text))


def ingress(**rule: object) -> Document:
    return {"ingress": [{"action": "Allow", **rule}]}


def egress(**rule: object) -> Document:
    return {"egress": [{"action": "Allow", **rule}]}


@pytest.mark.parametrize("version", ["projectcalico.org/v3", "crd.projectcalico.org/v1"])
def test_a_network_policy_of_calico_is_beside_one_of_kubernetes(version: str) -> None:
    """They may have the same name; each is shown with its own kind and group."""
    cluster = store(
        f"""
apiVersion: {version}
kind: NetworkPolicy
metadata: {{name: web}}
spec: {{selector: app == "web", order: 10}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: web}}
spec: {{podSelector: {{}}}}
"""
    )
    of_calico = cluster.get(CalicoNetworkPolicy, "default", "web")
    assert of_calico is not None
    assert cluster.get(NetworkPolicy, "default", "web") is not None
    document = render(cluster, of_calico)
    assert (document["kind"], document["apiVersion"]) == ("NetworkPolicy", "projectcalico.org/v3")
    assert document["spec"] == {"selector": 'app == "web"', "order": 10}
    assert writable(document) is CalicoNetworkPolicy


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("networkpolicies", NetworkPolicy),
        ("networkpolicies.networking.k8s.io", NetworkPolicy),
        ("networkpolicies.projectcalico.org", CalicoNetworkPolicy),
        ("networkpolicy.crd.projectcalico.org", CalicoNetworkPolicy),
        ("caliconetworkpolicy", CalicoNetworkPolicy),
        ("gnp", GlobalNetworkPolicy),
        ("gns", GlobalNetworkSet),
        ("tiers.projectcalico.org", Tier),
        ("networkpolicies.cilium.io", None),
    ],
)
def test_kinds_are_found_by_name_and_group(word: str, kind: object) -> None:
    assert find_kind(word) is kind


@pytest.mark.parametrize(
    ("spec", "directions"),
    [
        ({}, ("Ingress",)),
        (ingress(), ("Ingress",)),
        (egress(), ("Egress",)),
        ({**ingress(), **egress()}, ("Ingress", "Egress")),
        ({**ingress(), "types": ["Egress"]}, ("Egress",)),
    ],
)
def test_types_default_to_the_directions_with_rules(
    spec: Document, directions: tuple[str, ...]
) -> None:
    found = store(policy(spec)).get(GlobalNetworkPolicy, "", "p")
    assert found is not None
    assert found.directions == directions


@pytest.mark.parametrize(
    ("port", "limits"),
    [(80, (80, 80)), ("80", (80, 80)), ("80:90", (80, 90)), ("http", None), ("80-90", None)],
)
def test_ports_are_numbers_ranges_and_names(port: int | str, limits: object) -> None:
    assert port_range(port) == limits


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"selector": "app = 'web'"},
            "spec.selector: invalid selector: column 5: expected an operator after the label, ",
        ),
        ({"order": "first"}, 'spec.order: expected a number, found "first"'),
        ({"selector": "global()"}, "spec.selector: global() can only be used in a namespaceSel"),
        ({"selector": "x" * 1025}, "spec.selector: expected at most 1024 characters, found 1025"),
        ({"types": ["Ingress", "Ingress"]}, "spec.types[1]: Ingress is specified more than once"),
        ({"types": ["Both"]}, "spec.types[0]: expected one of Egress, Ingress"),
        (
            {"ingress": [{"action": "Reject"}]},
            "ingress[0].action: expected one of Allow, Deny",
        ),
        ({"ingress": [{}]}, "spec.ingress[0].action: required, but missing"),
        (ingress(ipVersion=5), "spec.ingress[0].ipVersion: expected one of 4, 6, found 5"),
        (ingress(protocol="TCPP"), ".protocol: expected ICMP, TCP, UDP, ICMPv6, SCTP, UDPLite or"),
        (ingress(protocol=256), "protocol: expected a protocol number from 1 to 255, found 256"),
        (ingress(protocol="ICMP", ipVersion=6), "protocol ICMP requires ipVersion 4, found 6"),
        (ingress(notProtocol="ICMPv6", ipVersion=4), "protocol ICMPv6 requires ipVersion 6"),
        (ingress(icmp={"type": 8}), "ingress[0].icmp: requires `protocol` to be ICMP or ICMPv6"),
        (
            ingress(protocol="ICMP", notICMP={"code": 0}),
            "ingress[0].notICMP.code: may not be specified without `type`",
        ),
        (ingress(protocol="ICMP", icmp={"type": 255}), "expected a type of ICMP from 0 to 254"),
        (
            ingress(destination={"ports": [80]}),
            "destination.ports: ports by number require `protocol` to be TCP, UDP or SCTP",
        ),
        (
            ingress(protocol="ICMP", destination={"notPorts": ["http"]}),
            "destination.notPorts: protocol ICMP has no ports; use TCP, UDP or SCTP",
        ),
        (
            ingress(protocol="TCP", destination={"ports": ["90:80"]}),
            'destination.ports[0]: the range ends before it begins: "90:80"',
        ),
        (
            ingress(protocol="TCP", destination={"ports": ["0:80"]}),
            'destination.ports[0]: expected ports from 1 to 65535, found "0:80"',
        ),
        (
            ingress(protocol="TCP", destination={"ports": ["80,90"]}),
            "destination.ports[0]: expected a port, a range such as 80:90, or the name of a port",
        ),
        (
            ingress(protocol="TCP", destination={"ports": ["80-90"]}),
            "destination.ports[0]: expected a port, a range such as 80:90, or the name of a port",
        ),
        (ingress(source={"nets": ["10.0.0.1"]}), "source.nets[0]: expected a range such as 10"),
        (
            ingress(source={"nets": ["10.0.0.0/8"], "notNets": ["fd00::/8"]}),
            "source.notNets: a rule cannot contain both IPv4 and IPv6 ranges",
        ),
        (
            ingress(ipVersion=4, source={"nets": ["fd00::/8"]}),
            "source.nets: the rule is about IPv4",
        ),
        (ingress(source={"notNets": ["0.0.0.0/0"]}), "notNets[0]: a rule without any address"),
        (
            ingress(source={"nets": ["10.0.0.0/8", "10.0.0.0/8"]}),
            'source.nets[1]: duplicate value "10.0.0.0/8"',
        ),
        (
            ingress(source={"namespaceSelector": "global() || has(x)"}),
            "source.namespaceSelector: global() cannot be combined with other expressions",
        ),
        (
            ingress(destination={"services": SERVICE}),
            "destination.services: ingress rules have services in `source`",
        ),
        (
            egress(destination={"services": {"name": "web"}}),
            "destination.services.namespace: required, but missing",
        ),
        (
            egress(
                protocol="TCP",
                destination={"services": SERVICE, "ports": [1]},
            ),
            "destination.services: cannot be combined with `ports`",
        ),
        (egress(http={"methods": ["GET"]}), "spec.egress[0].http: not allowed in egress rules"),
        ({"preDNAT": True}, "spec.preDNAT: requires `applyOnForward: true`"),
        (
            {"preDNAT": True, "applyOnForward": True, "types": ["Egress"]},
            "spec.preDNAT: the policy may not have egress rules",
        ),
        ({"tier": "kube-admin"}, 'spec.tier: "kube-admin" is the tier of ClusterNetworkPolicies'),
        ({"tier": "security"}, 'metadata.name: expected "security.…" for a policy of the tier'),
    ],
)
def test_a_mistake_is_refused_with_its_place(spec: Document, message: str) -> None:
    assert message in error_text(policy(spec))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Web", "metadata.name: expected lower-case letters"),
        (
            "security.web",
            '"security." is not the name of the tier, which is default',
        ),
    ],
)
def test_names_begin_with_their_tier(name: str, message: str) -> None:
    assert message in error_text(policy({}, name))


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"kind": "NetworkSet", "spec": {"nets": ["x"]}}, "spec.nets[0]: expected a range"),
        (
            {
                "kind": "GlobalNetworkSet",
                "metadata": {"name": "s", "labels": {"projectcalico.org/namespace": "x"}},
            },
            "Calico itself sets this label; remove it",
        ),
        ({"kind": "Tier", "metadata": {"name": "default"}}, "the tier default has order 1000000"),
        ({"kind": "Tier", "metadata": {"name": "a.b"}}, "metadata.name: expected a DNS label"),
        ({"kind": "Tier", "metadata": {"name": "kube-baseline"}}, "is the tier of Cluster"),
        ({"kind": "Tier", "spec": {"defaultAction": "Allow"}}, "expected one of Deny, Pass"),
        ({"kind": "Tier", "spec": {"order": float("nan")}}, '".nan" is not a number'),
    ],
)
def test_mistakes_in_sets_and_tiers_are_refused(document: Document, message: str) -> None:
    text = yaml.safe_dump(
        {"apiVersion": "projectcalico.org/v3", "metadata": {"name": "s"}, **document}
    )
    assert message in error_text(text)


def test_a_field_that_is_given_twice_is_refused() -> None:
    text = """
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: p}
spec:
  selector: all()
  selector: has(x)
"""
    assert "selector" in error_text(text)
