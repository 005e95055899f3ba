"""Random policies of Cilium beside random NetworkPolicies, for property tests."""

from __future__ import annotations

from collections.abc import Sequence

import yaml
from hypothesis import strategies as st

from kubenetlab.api.store import Cluster
from tests.clusters import applied
from tests.policies import POLICIES as NETWORK_POLICIES
from tests.policies import with_policies
from tests.tier_policies import TIER_POLICIES, Document

SERVICES = """
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default, labels: {tier: front}}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: prod}
spec: {selector: {tier: front}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: outside, namespace: default}
spec: {ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: outside, namespace: default, labels: {kubernetes.io/service-name: outside}}
addressType: IPv4
endpoints: [{addresses: [198.51.100.10]}]
ports: [{port: 80}]
"""

_LABELS = st.sampled_from(
    [
        {},
        {"app": "web"},
        {"k8s:tier": "back"},
        {"any:app": "tool"},
        {"container:app": "web"},
        {"io.kubernetes.pod.namespace": "prod"},
        {"k8s:io.kubernetes.pod.namespace": "default", "app": "web"},
        {"k8s:io.cilium.k8s.namespace.labels.team": "ops"},
        {"io.cilium.k8s.policy.cluster": "default"},
        {"io.cilium.k8s.policy.serviceaccount": "default", "app": "db"},
        {"pod-template-hash": "x"},
        {"reserved:host": ""},
        {"reserved:remote-node": ""},
    ]
)
_EXPRESSIONS = st.sampled_from(
    [
        {"key": "app", "operator": "In", "values": ["web", "db"]},
        {"key": "k8s:tier", "operator": "NotIn", "values": ["front"]},
        {"key": "tier", "operator": "Exists"},
        {"key": "container:tier", "operator": "DoesNotExist"},
        {"key": "io.kubernetes.pod.namespace", "operator": "NotIn", "values": ["dev"]},
        {"key": "io.kubernetes.pod.namespace", "operator": "Exists"},
        {"key": "io.cilium.k8s.policy.serviceaccount", "operator": "NotIn", "values": ["other"]},
        {"key": "io.cilium.k8s.namespace.labels.team", "operator": "DoesNotExist"},
    ]
)
_SELECTORS: st.SearchStrategy[Document] = st.builds(
    lambda labels, expressions: {"matchLabels": labels, "matchExpressions": expressions},
    _LABELS,
    st.lists(_EXPRESSIONS, max_size=1),
)
_SUBJECTS: st.SearchStrategy[Document] = st.one_of(st.just({}), _SELECTORS)
_ENTITIES = st.sampled_from(
    [
        "all",
        "world",
        "world-ipv4",
        "world-ipv6",
        "cluster",
        "host",
        "remote-node",
        "kube-apiserver",
        "health",
        "none",
    ]
)
_CIDRS = st.sampled_from(
    ["0.0.0.0/0", "::/0", "198.51.100.10", "198.51.100.0/24", "10.244.1.5/24", "172.18.0.0/16"]
)
_CIDR_RULES: st.SearchStrategy[Document] = st.sampled_from(
    [
        {"cidr": "0.0.0.0/0", "except": ["198.51.100.0/24"]},
        {"cidr": "0.0.0.0/0", "except": ["10.244.0.0/16"]},
        {"cidr": "2001:db8::/32"},
        {"cidrGroupRef": "group"},
        {"cidrGroupRef": "group0"},
        {"cidrGroupRef": "group1", "except": ["198.51.100.10/32", "2001:db8::/64"]},
        {"cidrGroupSelector": {"matchLabels": {"role": "partner"}}},
        {
            "cidrGroupSelector": {
                "matchExpressions": [{"key": "role", "operator": "In", "values": ["guest", "vpn"]}]
            },
            "except": ["198.51.100.0/28"],
        },
        {
            "cidrGroupSelector": {
                "matchExpressions": [
                    {"key": "io.cilium.policy.cidrgroupname/group1", "operator": "Exists"}
                ]
            }
        },
    ]
)
_GROUP_CIDRS = st.sampled_from(
    [
        "0.0.0.0/0",
        "198.51.100.10/32",
        "198.51.100.77/24",
        "10.244.0.0/16",
        "172.18.0.0/16",
        "192.0.2.0/24",
        "::/0",
        "2001:db8::/32",
    ]
)
_GROUPS: st.SearchStrategy[Document] = st.builds(
    lambda labels, cidrs: {"labels": labels, "externalCIDRs": cidrs},
    st.sampled_from([{}, {"role": "partner"}, {"role": "guest"}, {"io.cilium.k8s.role": "x"}]),
    st.lists(_GROUP_CIDRS, max_size=2),
)
_NODES: st.SearchStrategy[Document] = st.sampled_from(
    [
        {},
        {"matchLabels": {"kubernetes.io/hostname": "worker"}},
        {"matchLabels": {"kubernetes.io/hostname": "worker2"}},
    ]
)
_NAMES: st.SearchStrategy[Document] = st.sampled_from(
    [{"matchName": "client"}, {"matchPattern": "*"}, {"matchPattern": "*.example.com"}]
)
_SERVICES: st.SearchStrategy[Document] = st.sampled_from(
    [
        {"k8sService": {"serviceName": "web"}},
        {"k8sService": {"serviceName": "web", "namespace": "prod"}},
        {"k8sService": {"serviceName": "outside", "namespace": "default"}},
        {"k8sServiceSelector": {"selector": {}}},
        {"k8sServiceSelector": {"selector": {"matchLabels": {"tier": "front"}}}},
    ]
)
_PORTS: st.SearchStrategy[Document] = st.sampled_from(
    [
        {"port": "80"},
        {"port": "80", "protocol": "TCP"},
        {"port": "79", "endPort": 8080, "protocol": "TCP"},
        {"port": "http", "protocol": "TCP"},
        {"port": "dns"},
        {"port": "0", "protocol": "UDP"},
        {"port": "53", "protocol": "SCTP"},
    ]
)
_MESSAGES: st.SearchStrategy[Document] = st.sampled_from(
    [
        {"type": 8},
        {"type": "EchoRequest"},
        {"type": "EchoRequest", "family": "IPv6"},
        {"type": "EchoReply"},
        {"type": 0, "family": "IPv6"},
    ]
)
_TRAFFIC: st.SearchStrategy[Document] = st.one_of(
    st.just({}),
    st.lists(_PORTS, max_size=3).map(lambda ports: {"toPorts": [{"ports": ports}]}),
    st.lists(_MESSAGES, max_size=2).map(lambda fields: {"icmps": [{"fields": fields}]}),
)


def _peers(prefix: str) -> st.SearchStrategy[Document]:
    """Return the fields with the peers of a rule, of which a rule has at most one."""
    common: dict[str, st.SearchStrategy[object]] = {
        "Endpoints": st.lists(_SELECTORS, max_size=2),
        "Entities": st.lists(_ENTITIES, min_size=1, max_size=2),
        "CIDR": st.lists(_CIDRS, max_size=2),
        "CIDRSet": st.lists(_CIDR_RULES, min_size=1, max_size=2),
        "Nodes": st.lists(_NODES, min_size=1, max_size=2),
    }
    fields = [_field(f"{prefix}{name}", values) for name, values in common.items()]
    return st.one_of(st.just({}), *fields[:1], *fields)


def _field(name: str, values: st.SearchStrategy[object]) -> st.SearchStrategy[Document]:
    return st.builds(lambda value: {name: value}, values)


def _rules(*peers: st.SearchStrategy[Document]) -> st.SearchStrategy[list[Document]]:
    rule = st.builds(lambda some, traffic: {**some, **traffic}, st.one_of(*peers), _TRAFFIC)
    return st.lists(rule, max_size=2)


_TO_SERVICES = _field("toServices", st.lists(_SERVICES, min_size=1, max_size=2))
_TO_NAMES = _field("toFQDNs", st.lists(_NAMES, min_size=1, max_size=2))
_SECTIONS = ("ingress", "ingressDeny", "egress", "egressDeny")
_SPECS: st.SearchStrategy[Document] = st.builds(
    lambda subject, ingress, ingress_deny, egress, egress_deny, default: {
        "endpointSelector": subject,
        "ingress": ingress,
        "ingressDeny": ingress_deny,
        "egress": egress,
        "egressDeny": egress_deny,
        "enableDefaultDeny": default,
    },
    _SUBJECTS,
    _rules(_peers("from")),
    _rules(_peers("from")),
    _rules(_peers("to"), _TO_SERVICES, _TO_NAMES),
    _rules(_peers("to"), _TO_SERVICES),
    st.sampled_from([{}, {}, {"ingress": False}, {"egress": False}, {"egress": True}]),
).map(lambda spec: spec if any(map(spec.get, _SECTIONS)) else {**spec, "ingress": [{}]})
"""Specifications, which have at least one rule."""
CILIUM_POLICIES: st.SearchStrategy[Document] = st.builds(
    lambda namespace, specs, group: {"namespace": namespace, "specs": specs, "group": group},
    st.sampled_from(["", "default", "prod", "dev"]),
    st.lists(_SPECS, min_size=1, max_size=2),
    st.none() | _GROUPS,
)
"""Namespace, empty for a policy of all namespaces, specifications, and perhaps a group of ranges.

The group of the first policy has the name `group0`.
"""
WORLDS = st.tuples(
    st.lists(NETWORK_POLICIES, max_size=2),
    st.lists(TIER_POLICIES, max_size=1),
    st.lists(CILIUM_POLICIES, min_size=1, max_size=3),
)
"""(NetworkPolicies, specs of ClusterNetworkPolicies, policies of Cilium)"""


def with_cilium(
    policies: Sequence[Document], tiers: Sequence[Document], of_cilium: Sequence[Document]
) -> Cluster:
    """Return the cluster with Services, and policies of all these kinds."""
    documents: list[Document] = [
        {
            "apiVersion": "policy.networking.k8s.io/v1alpha2",
            "kind": "ClusterNetworkPolicy",
            "metadata": {"name": f"c{number}"},
            "spec": spec,
        }
        for number, spec in enumerate(tiers)
    ]
    documents += [_document(number, policy) for number, policy in enumerate(of_cilium)]
    documents += [
        group(f"group{number}", **fields)
        for number, policy in enumerate(of_cilium)
        if isinstance(fields := policy.get("group"), dict)
    ]
    cluster = applied(with_policies(policies), SERVICES)
    return applied(cluster, yaml.safe_dump_all(documents)) if documents else cluster


def group(name: str, externalCIDRs: Sequence[str], **metadata: object) -> Document:  # noqa: N803
    """Return the manifest of a CiliumCIDRGroup."""
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumCIDRGroup",
        "metadata": {"name": name, **metadata},
        "spec": {"externalCIDRs": list(externalCIDRs)},
    }


def _document(number: int, policy: Document) -> Document:
    namespace, specs = policy["namespace"], policy["specs"]
    assert isinstance(specs, list)
    kind = "CiliumNetworkPolicy" if namespace else "CiliumClusterwideNetworkPolicy"
    place = {"namespace": namespace} if namespace else {}
    return {
        "apiVersion": "cilium.io/v2",
        "kind": kind,
        "metadata": {"name": f"p{number}", **place},
        "spec": specs[0],
        "specs": specs[1:],
    }
