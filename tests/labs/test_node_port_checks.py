"""`check` probes node ports and external IPs, and generated tables have rows for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.clusters import replaced
from tests.labs.lab import Lab
from tests.labs.lab_view import MISSING
from tests.unit.observe.policies.worlds import DENY, pod, policy, service

CLUSTER = """
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
nodes: [{role: control-plane}, {role: worker}, {role: worker}]
networking: {ipFamily: dual}
---
"""
NODES = ("control-plane", "worker", "worker2")
DUAL = "ipFamilyPolicy: PreferDualStack"
LOCAL = f"{DUAL}\n  externalTrafficPolicy: Local"
WORLD = (
    CLUSTER
    + pod("web")
    + pod("client")
    + pod("far", "worker2")
    + pod("agent", "worker2", "hostNetwork: true")
    + pod("one", labels=", group: both")
    + pod("two", "worker2", labels=", group: both")
    + service("open", DUAL, kind="NodePort")
    + service("kept", LOCAL, kind="NodePort")
    + service("both", DUAL, "group: both", "NodePort")
    + service("spread", LOCAL, "group: both", "NodePort")
    + service("external", f"{DUAL}\n  externalIPs: [192.0.2.50, '2001:db8:1::50']")
    + service("external-kept", f"{LOCAL}\n  externalIPs: [192.0.2.51]", kind="LoadBalancer")
)
FROM_EVERYBODY = policy("{podSelector: {matchLabels: {app: web}}, ingress: [{}]}")
FROM_OUTSIDE = policy(
    "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{ipBlock: {cidr: 198.51.100.0/24}},"
    " {ipBlock: {cidr: '2001:db8:51:100::/64'}}]}]}"
)
FROM_NODES = policy(
    "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{ipBlock: {cidr: 172.18.0.0/16}}]}"
    "]}"
)
FROM_PODS = policy(
    "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{namespaceSelector: {}}]}]}"
)
NO_EGRESS = policy("{podSelector: {matchLabels: {app: far}}, policyTypes: [Egress]}", "quiet")
POLICIES = {
    "everybody": FROM_EVERYBODY,
    "outside": FROM_OUTSIDE,
    "nodes": FROM_NODES,
    "none, no egress": DENY + NO_EGRESS,
}
MODES = [
    ("bridge", "nftables", "nftables"),
    ("bridge", "iptables", "iptables"),
    ("bridge", "ebpf", "nftables"),
    ("bridge", "ebpf,dsr=true", "nftables"),
    ("bridge", "nftables,detectLocalMode=none", "nftables"),
    ("bridge", "ipvs", "iptables"),
    ("flannel", "nftables", "iptables"),
    ("flannel", "ebpf", "nftables"),
    ("weave", "ebpf,dsr=true", "iptables"),
    ("calico", "iptables", "nftables"),
    ("cilium", "none", "ebpf"),
]
"""CNI mode, kube-proxy mode and policy engine."""


@pytest.fixture(scope="module", params=MODES, ids=lambda mode: " ".join(mode))
def options(request: pytest.FixtureRequest) -> tuple[str, ...]:
    cni, proxy, engine = request.param
    if missing := MISSING.get(proxy):
        pytest.skip(missing)
    return "--cni", cni, "--proxy", proxy, "--policy", engine


def test_node_ports_are_as_the_evaluator_expects(lab: Lab, options: tuple[str, ...]) -> None:
    """Both traffic policies, from outside, from pods and from nodes, in both families."""
    lab.up(WORLD, *options)
    for name, policies in {"without policies": "", **POLICIES}.items():
        if policies:
            lab.apply(policies)
        result = lab.run("check", "-o", "json", status=None).json
        assert [each for each in result["checks"] if each["state"] != "holds"] == [], name
        found = {(each["source"], each["target"]): each for each in result["checks"]}
        sees_node = "bridge" in options and not any("dsr" in word for word in options)
        assert_probed(found, name, sees_node=sees_node)


def assert_probed(found: dict[tuple[str, str], Any], policies: str, *, sees_node: bool) -> None:
    """Assert expectations of some probes from outside.

    sees_node: True if endpoints see the address that other nodes know of a node in between.
    """

    def expected(service: str, node: str) -> str:
        return str(
            found["ext:client", f"nodeport:{node}/default/{service}:80/TCP IPv4"]["expected"]
        )

    is_open = policies in ("without policies", "everybody")
    sees_client = "answer" if is_open or policies == "outside" else "nothing"
    assert (expected("kept", "worker"), expected("kept", "worker2")) == (sees_client, "nothing")
    assert expected("open", "worker") == sees_client
    if sees_node:
        by_node = "answer" if is_open or policies == "nodes" else "nothing"
        assert expected("open", "worker2") == by_node
    assert expected("both", "control-plane") == "answer"
    assert expected("spread", "control-plane") == "nothing"
    assert found["ext:client", "192.0.2.51:80/TCP"]["expected"] == sees_client
    assert ("node:worker2", "nodeport:worker/default/kept:80/TCP IPv6") in found


@pytest.mark.parametrize("external", ["Cluster", "Local"])
def test_a_generated_table_finds_a_site_that_hosts_outside_lose(
    lab: Lab, tmp_path: Path, external: str
) -> None:
    """A Service of type NodePort, for everybody, and then only for pods."""
    kept = f"externalTrafficPolicy: {external}"
    text = replaced(CLUSTER, ("dual", "ipv4")) + pod("web") + service("web", kept, kind="NodePort")
    lab.up(text + FROM_EVERYBODY)
    table = tmp_path / "expect.yaml"
    lab.run("check", "--generate", str(table))
    rows = [line for line in table.read_text().splitlines() if "nodeport" in line]
    outside = '- {from: "ext:client", to: "nodeport:'
    if external == "Cluster":
        assert rows == [
            "# to nodeport:*/default/web",
            f'{outside}*/default/web", port: 80, expect: allow}}',
        ]
    else:
        assert [line for line in rows if line.startswith("-")] == [
            f'{outside}{node}/default/web", port: 80, expect: {result}}}'
            for node, result in zip(NODES, ("deny", "allow", "deny"), strict=True)
        ]
    lab.run("check", "-f", str(table))
    lab.apply(FROM_PODS)
    lab.run("check")
    report = lab.run("check", "-f", str(table), "-o", "json", status=1).json
    failed = {each["target"] for each in report["checks"] if each["state"] == "fails"}
    nodes = NODES if external == "Cluster" else ("worker",)
    assert failed == {f"nodeport:{node}/default/web:80/TCP" for node in nodes}
    ping = lab.run("ping", "ext:client", "nodeport:worker/default/web", "-o", "json", status=None)
    assert (ping.json["expected"], ping.json["found"]) == ("nothing", "silence")


def test_a_node_without_rules_fails_the_check_of_its_node_port(lab: Lab) -> None:
    """The probes from outside depend on the rules of the node that they address."""
    text = replaced(CLUSTER, ("dual", "ipv4")) + pod("web") + service("web", kind="NodePort")
    lab.up(text, "--drift", "keep")
    lab.run("check")
    lab.run("exec", "node:worker2", "--", "nft", "delete", "table", "ip", "kube-proxy")
    report = lab.run("check", "-o", "json", status=1).json
    failed = {
        each["target"]: (each["expected"], each["found"])
        for each in report["checks"]
        if each["state"] == "fails" and each["source"] == "ext:client"
    }
    assert failed == {"nodeport:worker2/default/web:80/TCP": ("answer", "refused")}
