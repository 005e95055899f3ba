"""Connections that a diagnostic concerns."""

from __future__ import annotations

import pytest

from kubenetlab.diagnostics import (
    NOT_ENFORCED,
    Connection,
    Scope,
)
from tests.clusters import replaced
from tests.unit.diagnostics.test_diagnostics import NODES, diagnostics_of, main

POLICY = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: deny}\nspec: "

UNENFORCED = replaced(
    NODES, ("kind: Cluster\n", "kind: Cluster\nnetworking: {policyEngine: none}\n")
)


@pytest.mark.parametrize(
    ("spec", "into", "out_of"),
    [
        ("{podSelector: {matchLabels: {app: one}}}", True, False),
        ("{podSelector: {matchLabels: {app: one}}, policyTypes: [Egress]}", False, True),
        ("{podSelector: {}, egress: [{}]}", True, True),
        ("{podSelector: {matchLabels: {app: other}}}", False, False),
        ("{}", True, False),
    ],
)
def test_the_scope_of_a_network_policy(spec: str, into: bool, out_of: bool) -> None:
    """It is the selected pods in the isolated directions; no selector means all pods."""
    found = diagnostics_of(main("") + POLICY + spec, UNENFORCED)
    (diagnostic,) = [entry for entry in found if entry.code == NOT_ENFORCED]
    assert (
        diagnostic.scope.covers(
            Connection(source="default/a", destinations=frozenset(["default/one"]))
        )
        == into
    )
    assert (
        diagnostic.scope.covers(
            Connection(source="default/one", services=frozenset(["default/web"]))
        )
        == out_of
    )
    assert not diagnostic.scope.covers(
        Connection(source="default/a", destinations=frozenset(["shop/one"]))
    )


@pytest.mark.parametrize(
    ("subject", "direction", "into", "out_of"),
    [
        ("{namespaces: {}}", "ingress", True, False),
        ("{namespaces: {}}", "egress", False, True),
        ("{pods: {podSelector: {matchLabels: {app: one}}}}", "ingress", True, False),
        ("{pods: {podSelector: {matchLabels: {app: other}}}}", "ingress", False, False),
        ("{namespaces: {matchLabels: {team: ops}}}", "ingress", False, False),
    ],
)
def test_the_scope_of_a_cluster_network_policy(
    subject: str, direction: str, into: bool, out_of: bool
) -> None:
    """It is the subjects, without hostNetwork, in the directions for which there are rules."""
    peers = "from" if direction == "ingress" else "to"
    (diagnostic,) = diagnostics_of(
        main("")
        + "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n"
        + f"metadata: {{name: deny}}\nspec: {{tier: Admin, priority: 1, subject: {subject}, "
        + f"{direction}: [{{action: Deny, {peers}: [{{namespaces: {{}}}}]}}]}}",
        UNENFORCED,
    )
    assert diagnostic.code == NOT_ENFORCED
    assert diagnostic.title == "ClusterNetworkPolicy deny"
    assert ("default/one" in diagnostic.scope.into) == into
    assert ("default/one" in diagnostic.scope.out_of) == out_of
    assert not any("kube-proxy" in name for name in diagnostic.scope.into + diagnostic.scope.out_of)


def test_the_scope_of_an_ingress() -> None:
    """It is connections from outside to the Services of its backends."""
    text = (
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: i, namespace: shop}\n"
        "spec: "
    )
    rules = (
        "{rules: [{http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: "
        "{number: 80}}}}]}}]}"
    )
    (diagnostic,) = diagnostics_of(
        text + rules + "\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n"
    )
    assert diagnostic.scope.covers(
        Connection(services=frozenset(["shop/web"]), is_from_outside=True)
    )
    assert not diagnostic.scope.covers(Connection(services=frozenset(["shop/web"])))
    assert not diagnostic.scope.covers(
        Connection(services=frozenset(["shop/db"]), is_from_outside=True)
    )


@pytest.mark.parametrize(
    ("version", "kind", "spec"),
    [
        ("route.openshift.io/v1", "Route", "{to: {kind: Service, name: web}}"),
        ("elbv2.k8s.aws/v1beta1", "TargetGroupBinding", "{serviceRef: {name: web, port: 80}}"),
        (
            "traefik.io/v1alpha1",
            "IngressRoute",
            "{routes: [{kind: Rule, services: [{name: web, port: 80}]}]}",
        ),
        (
            "gateway.networking.k8s.io/v1",
            "HTTPRoute",
            "{rules: [{backendRefs: [{name: web, port: 80}]}]}",
        ),
    ],
)
def test_the_scope_of_a_route(version: str, kind: str, spec: str) -> None:
    """It is the Services of its backends, whatever the field is called."""
    (diagnostic,) = diagnostics_of(
        f"apiVersion: {version}\nkind: {kind}\nmetadata: {{name: x}}\nspec: {spec}\n"
    )
    assert diagnostic.scope.services == ("default/web",)


@pytest.mark.parametrize(
    ("version", "kind", "is_unenforced"),
    [
        ("gateway.networking.k8s.io/v1", "HTTPRoute", True),
        ("crd.projectcalico.org/v1", "GlobalNetworkPolicy", True),
        ("cilium.io/v2", "CiliumEgressGatewayPolicy", True),
        ("networking.istio.io/v1", "VirtualService", True),
        ("route.openshift.io/v1", "Route", True),
        ("vpcresources.k8s.aws/v1beta1", "SecurityGroupPolicy", True),
        ("gateway.envoyproxy.io/v1alpha1", "SecurityPolicy", True),
        ("policy/v1", "PodDisruptionBudget", False),
        ("rbac.authorization.k8s.io/v1", "Role", False),
        ("autoscaling/v2", "HorizontalPodAutoscaler", False),
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition", False),
        ("example.com/v1", "Widget", False),
    ],
)
def test_only_kinds_that_affect_connections_are_reported(
    version: str, kind: str, is_unenforced: bool
) -> None:
    """These are policies, routes and meshes."""
    text = f"apiVersion: {version}\nkind: {kind}\nmetadata: {{name: x}}\nspec: {{}}\n"
    assert [diagnostic.code for diagnostic in diagnostics_of(text)] == [
        NOT_ENFORCED
    ] * is_unenforced


def test_a_scope_with_a_port_covers_that_port_alone() -> None:
    """A port without a listener does not affect the other ports of the Service."""
    scope = Scope(services=("default/web",), port=80)
    assert scope.covers(Connection(services=frozenset(["default/web"]), port=80))
    assert not scope.covers(Connection(services=frozenset(["default/web"]), port=81))


def test_a_misconfigured_source_is_not_a_misconfigured_target() -> None:
    """A connection from a misconfigured pod is covered, but not its target."""
    (diagnostic,) = diagnostics_of(
        main(", ports: [{containerPort: 80}], readinessProbe: {httpGet: {port: 81}}")
    )
    outward, inward = (
        Connection(source="default/one"),
        Connection(source="default/a", destinations=frozenset(["default/one"])),
    )
    assert (diagnostic.scope.covers(outward), diagnostic.scope.covers_target(outward)) == (
        True,
        False,
    )
    assert (diagnostic.scope.covers(inward), diagnostic.scope.covers_target(inward)) == (True, True)


def test_a_policy_for_the_name_servers_covers_connections_by_name() -> None:
    """A target by name needs the pods of the cluster's DNS, which are not the target."""
    scope = Scope(into=("kube-system/coredns",))
    by_name = Connection(source="default/a", name_servers=frozenset(["kube-system/coredns"]))
    assert (scope.covers(by_name), scope.covers_target(by_name)) == (True, False)


@pytest.mark.parametrize(
    ("networking", "hint", "remedy", "is_effective"),
    [
        (
            "cni: flannel",
            "flannel enforces no policies in a cluster either; in the lab, kubenetlab up --policy "
            "nftables or another CNI mode enforces them",
            "--policy nftables",
            False,
        ),
        (
            "policyEngine: none",
            "the policy engine is none; kubenetlab up --policy nftables enforces policies",
            "--policy nftables",
            True,
        ),
        (
            "cni: cilium, policyEngine: none",
            "the policy engine is none; kubenetlab up --policy ebpf enforces policies",
            "--policy ebpf",
            True,
        ),
    ],
)
def test_why_a_network_policy_is_not_enforced(
    networking: str, hint: str, remedy: str, is_effective: bool
) -> None:
    """With flannel it has no effect in a cluster either."""
    nodes = replaced(NODES, ("kind: Cluster\n", f"kind: Cluster\nnetworking: {{{networking}}}\n"))
    found = diagnostics_of(main("") + POLICY + "{}", nodes)
    (diagnostic,) = [entry for entry in found if entry.code == NOT_ENFORCED]
    assert (diagnostic.hints, diagnostic.remedy) == ((hint,), remedy)
    assert diagnostic.is_effective == is_effective


@pytest.mark.parametrize(
    ("version", "kind", "mode"),
    [
        ("projectcalico.org/v3", "GlobalNetworkPolicy", "calico"),
        ("cilium.io/v2", "CiliumNetworkPolicy", "cilium"),
    ],
)
def test_a_policy_of_another_plugin_names_its_cni_mode(version: str, kind: str, mode: str) -> None:
    spec = "{endpointSelector: {}, egress: [{}]}" if mode == "cilium" else "{}"
    text = f"apiVersion: {version}\nkind: {kind}\nmetadata: {{name: x}}\nspec: {spec}\n"
    (diagnostic,) = [each for each in diagnostics_of(text) if each.code == NOT_ENFORCED]
    assert diagnostic.remedy == f"--cni {mode}"
    assert diagnostic.hints == (
        f"only {mode} knows this kind; kubenetlab up --cni {mode} enforces it",
    )
