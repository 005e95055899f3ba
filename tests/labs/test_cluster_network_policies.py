"""ClusterNetworkPolicies in the kernel: tiers around NetworkPolicies, nodes and hosts as peers."""

from __future__ import annotations

import json

import pytest

from tests.clusters import pod
from tests.labs.lab import Lab, wait_for
from tests.labs.shop import reached

MODES = (
    ("bridge", "nftables"),
    ("bridge,layout=routed", "iptables"),
    ("ptp", "nftables"),
    ("flannel", "iptables"),
    ("calico", "iptables"),
    ("weave", "nftables"),
    ("cilium", "ebpf"),
    ("cilium,routingMode=native", "ebpf"),
)
CNI_OF = {"nftables": "bridge", "iptables": "bridge", "ebpf": "cilium"}
CLUSTER = """\
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
networking: {ipFamily: dual}
external:
- {name: client, address: 198.51.100.10}
- {name: api.example.com, address: 198.51.100.20, ports: [443]}
- {name: www.example.org, address: 198.51.100.30, ports: [443]}
---
"""
SHOP = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {team: a}}\n---\n"
PODS = (
    SHOP
    + pod("web", meta=", namespace: shop, labels: {app: web}")
    + pod("friend", meta=", namespace: shop")
    + pod("stranger")
    + pod("agent", ", hostNetwork: true, nodeName: worker")
)
ISOLATED = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec: {podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}
---
"""
SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ipFamilyPolicy: PreferDualStack, ports: [{port: 80, targetPort: 8080}]}
---
"""


def policy(name: str, rules: str, *, tier: str = "Admin", priority: int = 10) -> str:
    """Return a policy of the pods of the namespace `shop`."""
    return (
        "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n"
        f"metadata: {{name: {name}}}\nspec:\n  tier: {tier}\n  priority: {priority}\n"
        f"  subject: {{namespaces: {{matchLabels: {{team: a}}}}}}\n  {rules}\n---\n"
    )


@pytest.mark.parametrize("engine", ["nftables", "iptables", "ebpf"])
def test_tiers_decide_before_and_after_network_policies(lab: Lab, engine: str) -> None:
    """Each change takes effect without a restart, in both families."""
    lab.up(CLUSTER + PODS + ISOLATED, "--policy", engine, "--cni", CNI_OF[engine])
    assert (reached(lab, "stranger"), reached(lab, "shop/friend")) == ([False] * 2, [True] * 2)
    default = "{namespaces: {matchLabels: {kubernetes.io/metadata.name: default}}}"
    lab.apply(policy("open", f"ingress: [{{action: Accept, from: [{default}]}}]"))
    wait_for(lambda: all(reached(lab, "stranger")), "an Accept before the NetworkPolicy")
    everyone = "{action: Deny, from: [{namespaces: {}}]}"
    lab.apply(policy("closed", f"ingress: [{everyone}]", priority=5))
    wait_for(lambda: not any(reached(lab, "shop/friend")), "a Deny with a lower priority")
    assert not any(reached(lab, "stranger"))
    passing = f"{{action: Pass, from: [{default}]}}"
    lab.apply(policy("closed", f"ingress: [{passing}, {everyone}]", priority=5))
    wait_for(lambda: not any(reached(lab, "stranger")), "the NetworkPolicy, which a Pass leads to")
    lab.run("delete", "netpol", "web", "-n", "shop")
    wait_for(lambda: all(reached(lab, "stranger")), "the default without a NetworkPolicy")
    lab.apply(policy("last", f"ingress: [{everyone}]", tier="Baseline"))
    wait_for(lambda: not any(reached(lab, "stranger")), "a Deny of the tier Baseline")
    lab.run("delete", "clusternetworkpolicies", "open", "closed", "last")
    wait_for(lambda: all(reached(lab, "stranger")), "pods without policies")
    rules = lab.inside(lab.place("nodes", "worker"), "nft", "list", "ruleset")
    assert "network-policy" not in rules
    assert "cali-" not in rules


@pytest.mark.parametrize(("cni", "engine"), MODES)
def test_the_matrix_has_the_verdicts_of_all_kinds(lab: Lab, cni: str, engine: str) -> None:
    """Pods, nodes, hosts and Services; the reasons name the kind, the rule and its name."""
    rules = """egress:
  - {name: own, action: Accept, to: [{namespaces: {matchLabels: {team: a}}}]}
  - {action: Deny, to: [{nodes: {matchLabels: {kubernetes.io/hostname: worker}}}]}
  - {action: Accept, to: [{domainNames: ['*.example.com']}]}
  - {name: outside, action: Deny, to: [{networks: [198.51.100.0/24, '2001:db8::/32']}]}
"""
    baseline = (
        "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: BaselineAdminNetworkPolicy\n"
        "metadata: {name: default}\nspec: {subject: {namespaces: {matchLabels: {team: a}}},"
        " ingress: [{action: Deny, from: [{namespaces: {matchExpressions:"
        " [{key: team, operator: DoesNotExist}]}}]}]}\n---\n"
    )
    manifest = CLUSTER + PODS + SERVICE + policy("out", rules) + baseline
    shown = lab.up(manifest, "--cni", cni, "--policy", engine)
    assert "not enforced" not in shown.err
    result = lab.run("ping", "-o", "json", status=None).json
    assert [cell for cell in result["cells"] if not cell["ok"]] == []
    cells = {(cell["from"], cell["to"]): cell for cell in result["cells"]}
    denied = cells["shop/friend", "ext:www.example.org"]
    assert denied["policies"] == [
        "ClusterNetworkPolicy out rule 3 (outside) denies egress of shop/friend"
    ]
    assert cells["shop/friend", "ext:api.example.com"]["found"] == "answer"
    assert cells["shop/friend", "node:worker"]["found"] == "silence"
    assert cells["shop/friend", "node:worker2"]["found"] == "answer"
    assert cells["default/stranger", "shop/web"]["policies"] == [
        "BaselineAdminNetworkPolicy default rule 0 denies ingress of shop/web"
    ]
    listed = json.loads(lab.run("get", "cnp,banp", "-o", "json").out)
    assert [item["kind"] for item in listed["items"]] == [
        "ClusterNetworkPolicy",
        "BaselineAdminNetworkPolicy",
    ]


@pytest.mark.parametrize("engine", ["nftables", "iptables", "ebpf"])
def test_only_tiers_deny_connections_to_the_own_node(lab: Lab, engine: str) -> None:
    """A NetworkPolicy without rules for egress denies all others."""
    isolated = ISOLATED.replace("ingress: [{from: [{podSelector: {}}]}]", "policyTypes: [Egress]")
    lab.up(CLUSTER + PODS + isolated, "--policy", engine, "--cni", CNI_OF[engine])
    node, friend = lab.pod("web", "shop")["node"], "shop/friend"
    to_node = ("ping", "shop/web", f"node:{node}", "-o", "json")
    to_friend = lab.run("ping", "shop/web", friend, "-o", "json", status=None).json
    assert (to_friend["expected"], to_friend["found"]) == ("nothing", "silence")
    assert lab.run(*to_node, status=None).json["found"] == "answer"
    lab.apply(policy("nodes", "egress: [{action: Deny, to: [{nodes: {}}]}]"))
    denied = lab.run(*to_node, status=None).json
    assert (denied["expected"], denied["found"]) == ("nothing", "silence")
    assert denied["policies"] == ["ClusterNetworkPolicy nodes rule 0 denies egress of shop/web"]
