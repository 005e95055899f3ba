"""Diagnostics of Cilium's policies: kinds and fields that the lab does not enforce."""

from __future__ import annotations

import pytest
from msgspec import structs

from kubenetlab.api.policies.cilium_rules import CILIUM_KINDS
from kubenetlab.diagnostics.model import NOT_ENFORCED, Connection, Diagnostic
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
        "only cilium knows this kind; kubenetlab up --cni cilium enforces it",
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
        scope = each.scope
        pods = scope.into if "ingress" in each.subject else scope.out_of
        assert pods == ("default/one",) or {flow.subjects for flow in scope.flows} == {
            ("default/one",)
        }


def test_policies_of_nodes_are_reported() -> None:
    text = POLICY.format(kind="CiliumClusterwideNetworkPolicy", fields="ingress: [{}]")
    (diagnostic,) = reported(text.replace("endpointSelector", "nodeSelector"), CILIUM)
    assert diagnostic.path == ("spec", "nodeSelector")
    assert diagnostic.scope.is_everything


PODS = "".join(
    f"apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\n"
    "spec: {containers: [{name: main, image: nginx, ports: [{containerPort: 8080, name: web}]}]}"
    "\n---\n"
    for name in ("friend", "stranger")
)
FROM_FRIEND = "fromEndpoints: [{matchLabels: {app: friend}}]"
HTTP = "toPorts: [{ports: [{port: '%s', protocol: TCP}], rules: {http: [{method: GET}]}}]"


def covered(fields: str, *connections: Connection, host: str = "") -> list[bool]:
    """Return which connections the only diagnostic of a policy of the pod `one` concerns."""
    text = POLICY.replace(
        "endpointSelector: {{}}", "endpointSelector: {{matchLabels: {{app: one}}}}"
    )
    policy = text.format(kind="CiliumNetworkPolicy", fields=fields)
    nodes = CILIUM.replace("\n---", f"\nexternal: [{host}]\n---") if host else CILIUM
    found = diagnostics_of(main("") + PODS + policy, nodes)
    (diagnostic,) = [each for each in found if each.code == NOT_ENFORCED]
    return [diagnostic.scope.covers(each) for each in connections]


def to_one(source: str, protocol: str = "TCP", port: int = 8080) -> Connection:
    """Return a connection to the pod `one`; an empty source is a host or a node."""
    return Connection(
        f"default/{source}" if source else "",
        destinations=frozenset(["default/one"]),
        protocol=protocol,
        ports=frozenset([port] if port else []),
    )


@pytest.mark.parametrize(
    "fields",
    [
        f"ingress: [{{{FROM_FRIEND}, {HTTP % 8080}}}]",
        f"ingress: [{{{FROM_FRIEND.replace(']', ', {matchLabels: {app: one}}]')}, {HTTP % 8080}}}]",
        f"ingress: [{{{FROM_FRIEND}, {HTTP % 'web'}}}]",
        f"ingress: [{{{FROM_FRIEND}, {HTTP % 8080}}}, {{fromEntities: [cluster]}}]",
        f"ingress: [{{{FROM_FRIEND}, toPorts: [{{ports: [{{port: '8080', protocol: TCP}}]}}], "
        "authentication: {mode: required}}]",
    ],
)
def test_a_rule_about_requests_concerns_the_connections_that_it_allows(fields: str) -> None:
    """It restricts no other pod, no other port and no other protocol, nor the other direction."""
    allowed = to_one("friend")
    unknown = structs.replace(allowed, protocol="", ports=frozenset())
    back = Connection("default/one", destinations=frozenset(["default/friend"]), protocol="TCP")
    others = (
        to_one("stranger"),
        to_one(""),
        to_one("friend", port=80),
        to_one("friend", "UDP"),
        to_one("friend", "ICMP", 0),
        to_one("one"),
        back,
    )
    assert covered(fields, allowed, unknown) == [True, True]
    assert covered(fields, *others) == [False] * len(others)


@pytest.mark.parametrize(
    ("peers", "expected"),
    [
        ("", [True, True, True, True]),
        ("fromEntities: [all], ", [True, True, True, True]),
        ("fromEntities: [cluster], ", [True, True, True, True]),
        ("fromEntities: [world], ", [False, False, True, True]),
        ("fromCIDR: [198.51.100.0/24], ", [False, False, True, True]),
        ("fromEntities: [host], ", [True, True, True, True]),
        ("fromEndpoints: [{}], ", [True, True, False, False]),
        ("fromEndpoints: [], ", [False, False, False, False]),
    ],
)
def test_peers_of_a_rule_about_requests(peers: str, expected: list[bool]) -> None:
    """Nodes replace the source of packets to Services, so ranges concern them from everywhere."""
    by_node = structs.replace(to_one(""), services=frozenset(["default/one"]))
    sources = (to_one("friend"), to_one("stranger"), to_one(""), by_node)
    assert covered(f"ingress: [{{{peers}{HTTP % 8080}}}]", *sources) == expected


@pytest.mark.parametrize(
    "field", ["fromEndpoints: [{}], fromRequires: [{}]", "fromGroups: {aws: {}}"]
)
def test_fields_that_concern_other_rules_or_more_peers_have_a_wide_scope(field: str) -> None:
    fields = f"ingress: [{{{field}}}]"
    assert covered(fields, to_one("stranger"), to_one("friend", "ICMP", 0)) == [True, True]


def outward(address: str = "", protocol: str = "TCP", port: int = 443) -> Connection:
    """Return a connection of the pod `one` to an address outside."""
    addresses = frozenset([address] if address else [])
    return Connection(
        "default/one", protocol=protocol, ports=frozenset([port]), addresses=addresses
    )


def test_a_rule_about_names_concerns_requests_and_the_addresses_of_names() -> None:
    """Cilium would not learn the addresses of other names."""
    dns = "toPorts: [{ports: [{port: '53'}], rules: {dns: [{matchPattern: '*.org'}]}}]"
    fields = (
        f"egress: [{{toEndpoints: [{{matchLabels: {{app: friend}}}}], {dns}}}, "
        "{toFQDNs: [{matchName: a.example.org}], toPorts: [{ports: [{port: '443'}]}]}]"
    )
    server = Connection(
        "default/one",
        destinations=frozenset(["default/friend"]),
        protocol="UDP",
        ports=frozenset([53]),
    )
    concerned = (
        server,
        Connection("default/one", protocol="ICMP", lookup=server),
        outward(),
        outward("198.51.100.20"),
    )
    others = (
        outward("198.51.100.30"),
        outward("198.51.100.20", port=80),
        outward("198.51.100.20", "ICMP"),
        structs.replace(server, ports=frozenset([9153])),
        structs.replace(server, source="default/stranger"),
        to_one("friend"),
    )
    host = "{name: a.example.org, address: 198.51.100.20}, {name: b, address: 198.51.100.30}"
    assert covered(fields, *concerned, host=host) == [True] * len(concerned)
    assert covered(fields, *others, host=host) == [False] * len(others)


def test_names_that_are_not_learned_concern_their_addresses() -> None:
    fields = "egress: [{toFQDNs: [{matchName: a.example.org}]}]"
    host = "{name: a.example.org, address: 198.51.100.20}"
    found = covered(fields, outward("198.51.100.20"), outward("198.51.100.30"), host=host)
    assert found == [True, False]


def test_a_group_of_ranges_without_policies_is_not_reported() -> None:
    """In other CNI modes it concerns the connections of the pods of Cilium's policies."""
    group = (
        "apiVersion: cilium.io/v2\nkind: CiliumCIDRGroup\nmetadata: {name: g}\n"
        "spec: {externalCIDRs: []}\n---\n"
    )
    assert reported(group) == []
    policy = POLICY.format(kind="CiliumNetworkPolicy", fields="egress: [{}]")
    scopes = {each.kind.partition(".")[0]: each.scope for each in reported(group + policy)}
    assert scopes["CiliumCIDRGroup"] == scopes["CiliumNetworkPolicy"]
    assert scopes["CiliumCIDRGroup"].out_of == ("default/one",)
