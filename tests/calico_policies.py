"""Random policies of Calico beside NetworkPolicies and ClusterNetworkPolicies."""

from __future__ import annotations

from collections.abc import Sequence

import yaml
from hypothesis import strategies as st
from msgspec import structs

from kubenetlab.api.store import Cluster
from tests.clusters import applied
from tests.policies import POLICIES as NETWORK_POLICIES
from tests.tier_policies import TIER_POLICIES, Document, with_tiers

SETS = """
apiVersion: projectcalico.org/v3
kind: GlobalNetworkSet
metadata: {name: partners, labels: {app: web, role: partner}}
spec: {nets: [198.51.100.0/24, "2001:db8::/32"]}
---
apiVersion: projectcalico.org/v3
kind: NetworkSet
metadata: {name: half, namespace: prod, labels: {role: half, tier: front}}
spec: {nets: [198.51.100.0/28, 10.244.1.4/30]}
---
apiVersion: projectcalico.org/v3
kind: Tier
metadata: {name: first}
spec: {order: 500}
---
apiVersion: projectcalico.org/v3
kind: Tier
metadata: {name: second}
spec: {order: 2000, defaultAction: Pass}
---
apiVersion: projectcalico.org/v3
kind: Tier
metadata: {name: third}
spec: {order: 20000000}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec:
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: 9000}
  - {name: dns, port: 53, protocol: UDP}
"""

SELECTORS = st.sampled_from(
    [
        "",
        "all()",
        'app == "web"',
        "app in {'web', 'db'} && !has(role)",
        'tier != "front"',
        "!(tier starts with 'fr') || has(role)",
        "app contains 'o' || app ends with 'b'",
        'projectcalico.org/namespace == "prod"',
        'projectcalico.org/serviceaccount == "robot"',
        "role not in {'half'}",
    ]
)
_NAMESPACES = st.sampled_from(
    [
        "",
        "",
        "all()",
        "global()",
        'team == "ops"',
        "team != 'ops'",
        "projectcalico.org/name in {'default', 'dev'}",
    ]
)
_ACCOUNTS = st.sampled_from(
    [{}, {}, {"names": ["robot"]}, {"names": ["default", "absent"]}, {"selector": "all()"}]
)
_NETS: st.SearchStrategy[list[str]] = st.sampled_from(
    [
        [],
        [],
        [],
        ["10.244.1.5/24"],
        ["198.51.100.8/29", "10.0.0.0/8"],
        ["2001:db8::/64"],
        ["fd00::/8", "2001:db8::/32"],
    ]
)
_Ports = st.SearchStrategy[list[int | str]]
_NO_PORTS: _Ports = st.just([])
_PORTS: _Ports = st.sampled_from(
    [
        [80],
        ["79:8999", 53],
        ["http"],
        ["dns", 80],
        [80, *range(100, 140, 2), "9000:9010"],
    ]
)
_NAMED: _Ports = st.sampled_from([["http"], ["dns"], ["http", "dns"]])
_CLIENT_PORTS: _Ports = st.sampled_from([["1024:65535"], ["1:1023"], [22, "20000:60000"]])


def _with_ports(entity: Document, ports: Sequence[object], not_ports: Sequence[object]) -> Document:
    return {
        **entity,
        **({"ports": ports} if ports else {}),
        **({"notPorts": not_ports} if not_ports else {}),
    }


_ENTITIES: st.SearchStrategy[Document] = st.builds(
    lambda selector, not_selector, namespaces, accounts, nets, not_nets: {
        key: value
        for key, value in {
            "selector": selector,
            "notSelector": not_selector,
            "namespaceSelector": namespaces,
            "serviceAccounts": accounts,
            "nets": nets,
            "notNets": not_nets,
        }.items()
        if value
    },
    SELECTORS,
    st.one_of(st.just(""), st.just(""), SELECTORS),
    _NAMESPACES,
    _ACCOUNTS,
    _NETS,
    _NETS,
)
_ANYTHING: st.SearchStrategy[Document] = st.just({})
_MESSAGES = st.sampled_from(
    [{"type": 8}, {"type": 8, "code": 0}, {"type": 8, "code": 1}, {"type": 128}, {"type": 0}, {}]
)


@st.composite
def rules(draw: st.DrawFn, direction: str) -> Document:
    """Return a valid rule."""
    rule: Document = {"action": draw(st.sampled_from(["Allow", "Deny", "Allow", "Pass", "Log"]))}
    source: Document = draw(st.one_of(_ANYTHING, _ENTITIES))
    destination: Document = draw(st.one_of(_ANYTHING, _ENTITIES))
    match draw(st.sampled_from(["none", "transport", "transport", "icmp", "named", "negated"])):
        case "transport":
            rule["protocol"] = draw(st.sampled_from(["TCP", "UDP", "SCTP", 6, 17]))
            destination = _with_ports(
                destination,
                draw(st.one_of(_NO_PORTS, _PORTS)),
                draw(st.one_of(_NO_PORTS, _NO_PORTS, _PORTS)),
            )
            if draw(st.booleans()):
                source = _with_ports(source, draw(_CLIENT_PORTS), [])
            elif draw(st.booleans()):
                source = _with_ports(source, [], draw(_CLIENT_PORTS))
        case "icmp":
            rule["protocol"] = draw(st.sampled_from(["ICMP", "ICMPv6", 58]))
            rule[draw(st.sampled_from(["icmp", "notICMP"]))] = draw(_MESSAGES)
        case "named":
            destination = _with_ports(destination, draw(_NAMED), [])
        case "negated":
            rule["notProtocol"] = draw(st.sampled_from(["TCP", "ICMP", "ICMPv6", 47, "UDPLite"]))
            if draw(st.booleans()):
                destination = _with_ports(destination, [], draw(_NAMED))
    if draw(st.integers(0, 9)) == 0:
        service: Document = {"services": {"name": "web", "namespace": "default"}}
        if direction == "ingress":
            source = service
        else:
            destination = service
    rule |= {"source": source, "destination": destination}
    return _consistent(rule)


def _consistent(rule: Document) -> Document:
    """Return a rule without ranges of a second IP version."""
    version = {"ICMP": 4, "ICMPv6": 6, "58": 6}.get(str(rule.get("protocol")), 0)
    for end in ("source", "destination"):
        entity = rule[end]
        assert isinstance(entity, dict)
        for field in ("nets", "notNets"):
            nets = entity.get(field, [])
            of_nets = {6 if ":" in net else 4 for net in nets}
            if of_nets and version not in (0, *of_nets):
                del entity[field]
            elif of_nets:
                version = of_nets.pop()
    return rule


CALICO_POLICIES: st.SearchStrategy[Document] = st.builds(
    lambda namespace, tier, order, selector, namespaces, accounts, types, ingress, egress: {
        "namespace": namespace,
        "spec": {
            **({"tier": tier} if tier else {}),
            **({"order": order} if order is not None else {}),
            "selector": selector,
            **({"namespaceSelector": namespaces} if namespaces and not namespace else {}),
            **({"serviceAccountSelector": accounts} if accounts else {}),
            **({"types": types} if types else {}),
            "ingress": ingress,
            "egress": egress,
        },
    },
    st.sampled_from(["", "", "default", "prod"]),
    st.sampled_from(["", "", "", "first", "second", "third"]),
    st.sampled_from([None, 0.5, 10, 1000, 2000]),
    SELECTORS,
    _NAMESPACES.filter(lambda each: each != "global()"),
    st.sampled_from(["", "", "", "projectcalico.org/name == 'robot'", "all()"]),
    st.sampled_from([[], [], ["Ingress"], ["Egress"], ["Ingress", "Egress"]]),
    st.lists(rules("ingress"), max_size=3),
    st.lists(rules("egress"), max_size=3),
)
"""Namespaces and specs of policies; without a namespace they are GlobalNetworkPolicies."""
WORLDS = st.tuples(
    st.lists(NETWORK_POLICIES, max_size=2),
    st.lists(TIER_POLICIES, max_size=1),
    st.lists(CALICO_POLICIES, min_size=1, max_size=4),
)
"""(NetworkPolicies, specs of ClusterNetworkPolicies, policies of Calico)"""


def with_calico(
    policies: Sequence[Document], specs: Sequence[Document], calico: Sequence[Document]
) -> Cluster:
    """Return the cluster with policies, in a lab with the CNI mode calico."""
    documents = [_document(number, policy) for number, policy in enumerate(calico)]
    cluster = applied(with_tiers(policies, specs), SETS + "---\n" + yaml.safe_dump_all(documents))
    networking = structs.replace(cluster.config.networking, cni="calico")
    return cluster.with_changes([structs.replace(cluster.config, networking=networking)])


def _document(number: int, policy: Document) -> Document:
    spec = policy["spec"]
    assert isinstance(spec, dict)
    prefix = f"{spec['tier']}." if "tier" in spec else ""
    meta = {"name": f"{prefix}c{9 - number}"}
    return {
        "apiVersion": "projectcalico.org/v3",
        "kind": "NetworkPolicy" if policy["namespace"] else "GlobalNetworkPolicy",
        "metadata": {**meta, "namespace": policy["namespace"]} if policy["namespace"] else meta,
        "spec": spec,
    }
