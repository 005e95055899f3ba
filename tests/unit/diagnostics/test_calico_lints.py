"""Advice about Calico's policies: no effect, rules after one that decides, sets without use."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given, settings
from msgspec import structs

from kubenetlab.api.calico.policies import (
    CALICO_GROUP_KINDS,
    CALICO_POLICY_KINDS,
    CalicoNetworkPolicy,
    CalicoPolicy,
    GlobalNetworkPolicy,
)
from kubenetlab.api.store import Cluster, Delete
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
from tests.calico_policies import WORLDS, with_calico
from tests.tier_policies import Document
from tests.unit.diagnostics.policy_advice import advice_in, codes_in, verdicts
from tests.unit.diagnostics.test_diagnostics import NODES, diagnostics_of, main

CALICO = NODES.replace("---", "networking: {cni: calico}\n---")
TIER = """
apiVersion: projectcalico.org/v3
kind: Tier
metadata: {name: security}
spec: {order: 1}
---
"""
SET = """
apiVersion: projectcalico.org/v3
kind: %s
metadata: {name: partners, labels: {role: partner}}
spec: {nets: [198.51.100.0/24]}
---
"""
ALLOW = "ingress: [{action: Allow}]"


def policy(spec: str, name: str = "p", namespace: str = "default") -> str:
    """Return a policy; a GlobalNetworkPolicy without a namespace."""
    kind = "NetworkPolicy" if namespace else "GlobalNetworkPolicy"
    meta = f"name: {name}" + (f", namespace: {namespace}" if namespace else "")
    return (
        f"apiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata: {{{meta}}}\n"
        f"spec: {{{spec}}}\n---\n"
    )


advice = partial(advice_in, CALICO)
codes = partial(codes_in, CALICO)


@pytest.mark.parametrize(
    ("spec", "namespace", "is_reported"),
    [
        ("selector: all()", "default", False),
        ("selector: all()", "", False),
        ("selector: all()", "kube-public", True),
        ("selector: app == 'absent'", "default", True),
        ("namespaceSelector: team == 'absent'", "", True),
        ("serviceAccountSelector: role == 'x'", "", False),
        ("selector: app == 'absent', doNotTrack: true, applyOnForward: true", "", False),
    ],
)
def test_a_policy_without_pods(spec: str, namespace: str, is_reported: bool) -> None:
    """Labels of service accounts exist in a cluster alone."""
    found = codes(policy(spec, namespace=namespace))
    assert found == ([(POLICY_SELECTS_NOTHING, "spec.selector")] if is_reported else [])


def test_a_policy_of_all_namespaces_may_be_about_host_endpoints() -> None:
    hosts = "apiVersion: projectcalico.org/v3\nkind: HostEndpoint\nmetadata: {name: h}\nspec: {}\n"
    spec = policy("selector: role == 'node'", namespace="")
    assert codes(spec) == [(POLICY_SELECTS_NOTHING, "spec.selector")]
    assert codes(spec + hosts) == []


@pytest.mark.parametrize(
    ("conditions", "is_reported"),
    [
        ("source: {selector: all()}", False),
        ("source: {selector: app == 'absent'}", True),
        ("source: {selector: role == 'partner'}", True),
        ("source: {selector: role == 'partner', namespaceSelector: global()}", False),
        ("source: {notSelector: app == 'absent'}", False),
        ("source: {namespaceSelector: team == 'absent'}", True),
        ("source: {serviceAccounts: {names: [absent]}}", True),
        ("source: {serviceAccounts: {selector: role == 'x'}}", False),
        ("source: {nets: [192.0.2.0/24]}", False),
    ],
)
def test_ends_at_which_nothing_is(conditions: str, is_reported: bool) -> None:
    """A selector of a policy with a namespace matches sets without one only by global()."""
    use = policy("egress: [{action: Deny, destination: {selector: has(role)}}]", "use", "")
    rule = policy(f"ingress: [{{action: Allow, {conditions}}}]")
    found = codes(SET % "GlobalNetworkSet" + use + rule)
    assert found == ([(POLICY_PEER_UNMATCHED, "spec.ingress[0].source")] if is_reported else [])


@pytest.mark.parametrize(
    ("spec", "is_reported"),
    [
        ("ingress: [{action: Allow, destination: {ports: [http]}}]", False),
        ("ingress: [{action: Allow, protocol: TCP, destination: {ports: [80, htpp]}}]", True),
        ("ingress: [{action: Allow, protocol: UDP, destination: {ports: [http]}}]", True),
        ("ingress: [{action: Allow, protocol: TCP, destination: {notPorts: [htpp]}}]", False),
        (
            "egress: [{action: Allow, protocol: TCP, destination:"
            " {selector: app == 'absent', ports: [dns]}}]",
            False,
        ),
        ("egress: [{action: Allow, protocol: TCP, destination: {ports: [http]}}]", False),
    ],
)
def test_named_ports_that_no_destination_has(spec: str, is_reported: bool) -> None:
    """Without a destination nothing is known about its ports."""
    pod = main(", ports: [{name: http, containerPort: 80}]")
    found = [
        each
        for each in diagnostics_of(pod + policy(spec), CALICO)
        if each.code == POLICY_PORT_UNKNOWN
    ]
    assert bool(found) == is_reported, found


@pytest.mark.parametrize("kind", ["NetworkSet", "GlobalNetworkSet"])
def test_a_set_without_use(kind: str) -> None:
    """Rules that exclude a set refer to it, too."""
    ((code, subject, _),) = advice(SET % kind)
    assert (code, subject.partition(" ")[0]) == (NETWORK_SET_UNUSED, kind)
    use = "ingress: [{action: Allow, source: {notSelector: role == 'partner'}}]"
    assert advice(SET % kind + policy(use)) == []
    other = "ingress: [{action: Allow, source: {notSelector: role == 'guest'}}]"
    assert codes(SET % kind + policy(other, namespace="")) == [(NETWORK_SET_UNUSED, "")]


@pytest.mark.parametrize(
    ("first", "second", "is_reached"),
    [
        ("{action: Allow}", "{action: Deny}", False),
        ("{action: Pass}", "{action: Log}", False),
        ("{action: Log}", "{action: Deny}", True),
        ("{action: Allow, protocol: TCP}", "{action: Deny, protocol: UDP}", True),
        (
            "{action: Allow, protocol: TCP}",
            "{action: Deny, protocol: 6, source: {nets: [10.0.0.0/8]}}",
            False,
        ),
        (
            "{action: Allow, protocol: TCP, destination: {ports: ['1:100']}}",
            "{action: Deny, protocol: TCP, destination: {ports: [80, '90:100']}}",
            False,
        ),
        (
            "{action: Allow, protocol: TCP, destination: {ports: [80]}}",
            "{action: Deny, protocol: TCP, destination: {ports: [http]}}",
            True,
        ),
        (
            "{action: Allow, source: {nets: [10.0.0.0/8]}}",
            "{action: Deny, source: {nets: [10.1.0.0/16, 10.2.0.0/16]}}",
            False,
        ),
        (
            "{action: Allow, source: {selector: has(app)}}",
            "{action: Deny, source: {selector: app == 'one' && tier == 'x'}}",
            False,
        ),
        (
            "{action: Allow, source: {selector: 'app in {\"one\"}'}}",
            "{action: Deny, source: {selector: has(app)}}",
            True,
        ),
        ("{action: Allow, source: {selector: all()}}", "{action: Deny}", True),
        ("{action: Allow, http: {methods: [GET]}, protocol: TCP}", "{action: Deny}", True),
        ("{action: Allow, ipVersion: 4}", "{action: Deny}", True),
        (
            "{action: Allow, notProtocol: UDP}",
            "{action: Deny, protocol: TCP, source: {notNets: [10.0.0.0/8]}}",
            False,
        ),
        (
            "{action: Deny, protocol: ICMP, icmp: {type: 8}}",
            "{action: Allow, protocol: ICMP, icmp: {type: 0}}",
            True,
        ),
    ],
)
def test_rules_after_one_that_decides(first: str, second: str, is_reached: bool) -> None:
    found = [
        each
        for each in advice(policy(f"ingress: [{first}, {second}]"))
        if each[0] == POLICY_RULE_REDUNDANT
    ]
    assert found == (
        []
        if is_reached
        else [
            (
                POLICY_RULE_REDUNDANT,
                "CalicoNetworkPolicy default/p: spec.ingress[1]",
                "no connection reaches it: spec.ingress[0] decides about all that it matches",
            )
        ]
    )


def test_rules_of_a_direction_that_the_types_exclude() -> None:
    found = codes(policy("types: [Egress], ingress: [{action: Allow}], egress: [{action: Deny}]"))
    assert found == [(POLICY_RULE_REDUNDANT, "spec.ingress")]


def test_former_policies_decide_about_all_connections_of_a_policy() -> None:
    """The order decides, the pods must be the same or more, and isolation must be replaced."""
    first = policy(f"order: 1, {ALLOW}", "first", "")
    later = policy("order: 2, ingress: [{action: Deny, protocol: TCP}]")
    message = "former policies decide about all its connections: GlobalNetworkPolicy first"
    assert advice(first + later) == [(POLICY_SHADOWED, "CalicoNetworkPolicy default/p", message)]
    assert advice(first.replace("order: 1", "order: 3") + later) == []
    some = policy(f"order: 1, selector: has(role), {ALLOW}", "first", "")
    assert (POLICY_SHADOWED, "") not in codes(some + later)
    both = later.replace("ingress:", "types: [Ingress, Egress], ingress:")
    assert advice(first + both) == [
        (
            POLICY_RULE_REDUNDANT,
            "CalicoNetworkPolicy default/p: spec.ingress[0]",
            "no connection reaches it: GlobalNetworkPolicy first spec.ingress[0] decides about "
            "all that it matches",
        )
    ]


def test_a_former_tier_decides_unless_it_passes() -> None:
    """Another policy of the tier may pass connections before."""
    closed = policy(
        f"tier: security, order: 2, {ALLOW}, egress: [{{action: Allow, protocol: TCP}}]",
        "security.all",
        "",
    )
    later = policy("ingress: [{action: Deny}]")
    assert codes(TIER + closed + later) == [(POLICY_SHADOWED, "")]
    passing = policy(
        "tier: security, order: 1, ingress: [{action: Pass, protocol: TCP}]", "security.pass", ""
    )
    assert codes(TIER + closed + passing + later) == []
    assert codes(TIER + closed + later.replace("ingress", "egress")) == []
    both = policy("ingress: [{action: Deny}], egress: [{action: Deny, protocol: UDP}]")
    assert advice(TIER + closed + both) == [
        (
            POLICY_RULE_REDUNDANT,
            "CalicoNetworkPolicy default/p: spec.ingress",
            "no connection reaches these rules: GlobalNetworkPolicy security.all spec.ingress[0] "
            "decides",
        )
    ]


def test_policies_of_other_modes_have_no_advice() -> None:
    """They are reported as not enforced."""
    documents = policy("selector: app == 'absent'") + SET % "NetworkSet"
    assert codes_in(NODES, documents) == []


@settings(max_examples=60)
@given(world=WORLDS)
def test_what_has_no_effect_can_be_removed(
    world: tuple[list[Document], list[Document], list[Document]],
) -> None:
    """No verdict about a pair of parties changes, in both IP versions."""
    cluster = with_calico(*world)
    codes = {*ADVICE} - {RANGE_AMBIGUOUS}
    removable = [each for each in diagnose(cluster) if each.code in codes and each.kind in KINDS]
    before = verdicts(cluster) if removable else []
    for diagnostic in removable:
        assert verdicts(removed(cluster, diagnostic)) == before, diagnostic


KINDS = {kind.kind: kind for kind in (*CALICO_POLICY_KINDS, *CALICO_GROUP_KINDS)}


def removed(cluster: Cluster, diagnostic: Diagnostic) -> Cluster:
    """Return the store without the object, or the rules, of a diagnostic."""
    kind, path = KINDS[diagnostic.kind], diagnostic.path
    obj = cluster.get(kind, diagnostic.namespace, diagnostic.name)
    assert obj is not None
    if len(path) < 2 or path[1] == "selector":
        return cluster.with_changes([Delete(kind, diagnostic.namespace, diagnostic.name)])
    assert isinstance(obj, CalicoNetworkPolicy | GlobalNetworkPolicy)
    if diagnostic.code == POLICY_PORT_UNKNOWN:
        return cluster.with_changes([without_port(obj, str(path[1]), int(path[2]), int(path[5]))])
    return cluster.with_changes([without(obj, str(path[1]), path[2:3])])


def without_port(obj: CalicoPolicy, field: str, index: int, port: int) -> CalicoPolicy:
    """Return a policy without a port of a rule, or without the rule if it has no other."""
    rules = list(getattr(obj.spec, field))
    ports = list(rules[index].destination.ports)
    del ports[port]
    if not ports:
        return without(obj, field, (index,))
    destination = structs.replace(rules[index].destination, ports=tuple(ports))
    rules[index] = structs.replace(rules[index], destination=destination)
    return structs.replace(obj, spec=structs.replace(obj.spec, **{field: tuple(rules)}))


def without(obj: CalicoPolicy, field: str, index: tuple[str | int, ...]) -> CalicoPolicy:
    """Return a policy without a rule, or without the rules of one direction.

    It applies to the same directions as before.
    """
    rules = list(getattr(obj.spec, field))
    if index:
        del rules[int(index[0])]
    spec = structs.replace(obj.spec, types=obj.directions, **{field: tuple(rules) if index else ()})
    return structs.replace(obj, spec=spec)
