"""NetworkPolicies in the kernel: packets that they allow and deny, in every CNI mode."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clusters import DUAL, deployment, pod, replaced, service
from tests.labs.conftest import new_lab
from tests.labs.lab import Lab, run, wait_for

RECIPES = Path(__file__).parents[3] / "shared" / "cases" / "netpol-recipes"
RECIPE_NAMES = sorted(path.parent.name for path in RECIPES.glob("*/policy.yaml"))
MODES = (
    "bridge,layout=onlink",
    "bridge,layout=routed",
    "ptp",
    "flannel,backend=vxlan",
    "flannel,backend=host-gw",
    "calico,backend=vxlan",
    "calico",
    "weave",
    "kube-router",
)
SECOND_ENGINE = (
    "bridge,layout=onlink",
    "flannel,backend=vxlan",
    "calico",
    "weave",
    "kube-router",
)
"""CNI modes in which the engine iptables is tested, too, which sees the same packets."""
OPTIONS = (
    *(("--cni", mode, "--policy", "nftables") for mode in MODES),
    *(("--cni", mode, "--policy", "iptables") for mode in SECOND_ENGINE),
    ("--cni", "calico", "--policy", "iptables", "--proxy", "iptables"),
    ("--cni", "cilium"),
    ("--cni", "cilium,routingMode=native"),
)
POLICY = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from:
    - podSelector: {matchLabels: {role: friend}}
    - namespaceSelector: {matchLabels: {team: a}}
    ports: [{port: http}]
---
"""
SHOP = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {team: a}}\n---\n"
FRIEND, STRANGER = pod("friend", meta=", labels: {role: friend}"), pod("stranger")
CLIENTS = FRIEND + STRANGER + SHOP + pod("neighbour", meta=", namespace: shop")
WEB = deployment("web", 3) + service("web")
NODE_PORT = 30080
WEB_WITH_NODE_PORT = deployment("web", 3) + replaced(
    service("web", type="NodePort"),
    ("targetPort: http", f"targetPort: http, nodePort: {NODE_PORT}"),
)
EGRESS = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: shut-in, namespace: shop}
spec: {podSelector: {}, policyTypes: [Egress]}
---
"""
"""Pods of the namespace `shop` reach nobody."""


def reached(lab: Lab, source: Any, port: int = 8080, protocol: str = "TCP") -> list[bool]:
    """Return True for each address of the pods of `web` that answers."""
    targets = [(protocol, address, port) for pod in lab.pods("web") for address in pod["addresses"]]
    return [not answer.error for answer in lab.ask(source, *targets)]


def assert_verdicts_of_services(lab: Lab) -> None:
    """Check that a policy sees the pod behind a cluster IP or a node port, on whatever node."""
    cluster_ips = [("TCP", address, 80) for address in lab.service("web")["cluster_ips"]] * 8
    assert not any(answer.error for answer in lab.ask(lab.pod("friend"), *cluster_ips))
    node_ports = [
        ("TCP", address, NODE_PORT)
        for node in lab.inspected["nodes"]
        for address in node["addresses"]
    ] * 6
    denied = (lab.pod("stranger"), lab.pod("neighbour", "shop"))
    for answers in lab.ask_each(*((place, (*cluster_ips, *node_ports)) for place in denied)):
        assert [answer for answer in answers if not answer.error] == []


@pytest.mark.skipif(
    not RECIPES.is_dir(),
    reason="needs a folder of example manifests of other projects "
    "beside the checkout (../shared/cases)",
)
@pytest.mark.parametrize("name", RECIPE_NAMES)
def test_recipes_give_the_expected_verdicts(lab: Lab, name: str) -> None:
    """Manifests and tables of expectations of a collection of policies."""
    lab.run("up", *(f"-f{RECIPES / name / file}.yaml" for file in ("pods", "policy")))
    lab.run("check", "-f", str(RECIPES / name / "expect.yaml"))


@pytest.fixture(scope="module", params=OPTIONS, ids=" ".join)
def enforcing(request: pytest.FixtureRequest) -> Iterator[Lab]:
    for lab in new_lab():
        lab.up(DUAL + CLIENTS + WEB + POLICY, *request.param)
        yield lab


def test_packets_pass_by_a_rule_only(enforcing: Lab) -> None:
    """IPv4 and IPv6; pods of the same node and of another one; other ports and protocols."""
    lab = enforcing
    assert len({web["node"] for web in lab.pods("web")}) > 1
    friend, stranger = lab.pod("friend"), lab.pod("stranger")
    neighbour = lab.pod("neighbour", "shop")
    assert all(reached(lab, friend))
    assert all(reached(lab, neighbour))
    assert not any(reached(lab, stranger))
    assert not any(reached(lab, friend, protocol="UDP"))
    web = lab.pods("web")
    assert not any(reached(lab, web[0])[len(web[0]["addresses"]) :])
    answers = lab.ask(web[0], *(("TCP", address, 8080) for address in stranger["addresses"]))
    assert not any(answer.error for answer in answers)


def test_nodes_reach_their_own_pods_and_hosts_outside_do_not(enforcing: Lab) -> None:
    """Probes of the kubelet are never denied; the pods became ready."""
    lab = enforcing
    for node in lab.inspected["nodes"]:
        expected = [
            web["node"] == node["name"] for web in lab.pods("web") for _ in web["addresses"]
        ]
        assert reached(lab, node) == expected, node["name"]


def test_services_lead_to_pods_by_the_same_rules(enforcing: Lab) -> None:
    """A policy sees the pod behind a Service; ports of the Service do not count."""
    lab = enforcing
    targets = [("TCP", address, 80) for address in lab.service("web")["cluster_ips"]] * 8
    assert not any(answer.error for answer in lab.ask(lab.pod("friend"), *targets))
    assert all(answer.error for answer in lab.ask(lab.pod("stranger"), *targets))


@pytest.mark.parametrize("proxy", ["nftables,layout=fast", "iptables", "ebpf"])
@pytest.mark.parametrize("engine", ["nftables", "iptables"])
def test_policies_hold_beside_every_proxy_mode(lab: Lab, proxy: str, engine: str) -> None:
    """Egress and ingress, pods of the same node and of others, by cluster IP and node port."""
    lab.up(
        DUAL + CLIENTS + WEB_WITH_NODE_PORT + POLICY + EGRESS, "--proxy", proxy, "--policy", engine
    )
    assert_verdicts_of_services(lab)


@pytest.mark.parametrize("mode", ["cilium", "cilium,routingMode=native"])
@pytest.mark.parametrize("proxy", ["none", "nftables", "iptables"])
def test_policies_of_cilium_hold_beside_every_proxy_mode(lab: Lab, mode: str, proxy: str) -> None:
    """Beside a kube-proxy they see packets behind the stack; a pod reaches itself by a Service."""
    lab.up(DUAL + CLIENTS + WEB_WITH_NODE_PORT + POLICY + EGRESS, "--cni", mode, "--proxy", proxy)
    assert_verdicts_of_services(lab)


@pytest.mark.parametrize("cni", ["bridge", "cilium"])
def test_changes_take_effect_at_once(lab: Lab, cni: str) -> None:
    """Labels of pods and namespaces, named ports, new pods, and deleted policies."""
    lab.up(CLIENTS + WEB + POLICY, "--cni", cni)
    friend, stranger, neighbour = (
        lab.pod("friend"),
        lab.pod("stranger"),
        lab.pod("neighbour", "shop"),
    )
    assert not any(reached(lab, stranger))
    lab.apply(pod("stranger", meta=", labels: {role: friend}") + pod("friend"))
    wait_for(lambda: all(reached(lab, stranger)), "the new label to allow")
    assert not any(reached(lab, friend))
    lab.apply(replaced(SHOP, ("team: a", "team: b")))
    wait_for(lambda: not any(reached(lab, neighbour)), "the namespace's label to deny")
    lab.run("scale", "deploy/web", "5")
    wait_for(lambda: len([web for web in lab.pods("web") if web["ready"]]) == 5, "new pods")
    assert all(reached(lab, stranger))
    assert not any(reached(lab, friend))
    lab.apply(replaced(POLICY, ("port: http", "port: other")))
    wait_for(lambda: not any(reached(lab, stranger)), "a port that no pod has")
    lab.run("delete", "netpol", "web")
    wait_for(lambda: all(reached(lab, friend)), "pods that no policy isolates")
    assert "network-policy" not in lab.inside(lab.place("nodes", "worker"), "nft", "list", "tables")
    assert lab.run("diff", status=None).status == 0


def test_the_engine_of_a_running_lab_can_change(lab: Lab) -> None:
    """Without an engine `up` names the policies, and their packets pass."""
    manifest = CLIENTS + WEB + POLICY
    assert "not enforced" not in lab.up(manifest).err
    assert not any(reached(lab, lab.pod("stranger")))
    unenforced = lab.up(manifest, "--policy", "none")
    assert "not enforced: NetworkPolicy web" in unenforced.err
    assert all(reached(lab, lab.pod("stranger")))
    refused = lab.run(
        "check", "-f", "-", stdin="- {from: stranger, to: 'svc:web', allowed: true}", status=1
    )
    assert "NetworkPolicy web is not enforced" in refused.out
    lab.up(manifest, "--policy", "nftables")
    assert not any(reached(lab, lab.pod("stranger")))
    kept = lab.up(manifest, "--cni", "flannel").err
    assert (
        "note: the policy engine nftables, selected before, is kept; the default with cni flannel "
        "is none (--policy none)"
    ) in kept
    assert not any(reached(lab, lab.pod("stranger")))


def test_an_engine_must_fit_the_cni_mode_of_the_running_lab(lab: Lab) -> None:
    """A file without a Cluster document leaves the CNI mode of the lab as it is."""
    manifest = CLIENTS + WEB + POLICY
    lab.up(manifest, "--cni", "cilium", "--policy", "none", "--nodes", "1")
    assert all(reached(lab, lab.pod("stranger")))
    lab.up(manifest, "--policy", "ebpf")
    assert not any(reached(lab, lab.pod("stranger")))
    refused = lab.up(manifest, "--policy", "nftables", status=2).err
    assert "nftables does not see the packets between pods with cni cilium" in refused
    inspected = lab.run("inspect", "-o", "json").json
    assert (inspected["cni"], inspected["policy_engine"]) == ("cilium", "ebpf")


def test_engines_that_cannot_work_are_refused() -> None:
    """Nothing is changed; the message names the engines of the CNI mode."""
    unknown = run("plan", "--lab", "no-lab", "--policy", "nftable", status=2).err
    assert 'networking.policyEngine: "nftable" is not known; did you mean nftables?' in unknown
    unfit = run("plan", "--lab", "no-lab", "--cni", "cilium", "--policy", "nftables", status=2).err
    assert "nftables does not see the packets between pods with cni cilium" in unfit
    assert "policy engines with cni cilium: ebpf, none" in unfit
    elsewhere = run("plan", "--lab", "no-lab", "--policy", "ebpf", status=2).err
    assert "ebpf does not see the packets between pods with cni bridge" in elsewhere
