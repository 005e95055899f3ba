"""Probes in labs with network policies: what the evaluator expects is what packets do."""

from __future__ import annotations

import pytest

from tests.labs.lab import Lab
from tests.unit.observe.policies.test_verdicts import PODS, policy

CLUSTER = """
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
nodes: [{role: control-plane}, {role: worker}, {role: worker}]
networking: {ipFamily: dual}
---
"""
POLICIES = policy(
    "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {matchLabels: "
    "{app: client}}}], ports: [{port: http}]}, {from: [{ipBlock: {cidr: 198.51.100.0/24}}]}]}",
    "web",
) + policy(
    "{podSelector: {matchLabels: {app: far}}, policyTypes: [Egress], egress: [{to: [{ipBlock: "
    "{cidr: 172.18.0.0/16}}]}]}",
    "quiet",
)


@pytest.mark.parametrize(
    ("cni", "proxy"),
    [
        ("bridge", "nftables"),
        ("bridge", "iptables"),
        ("bridge", "ebpf"),
        ("ptp", "nftables"),
        ("calico", "iptables"),
    ],
)
def test_all_probes_are_as_the_evaluator_expects(lab: Lab, cni: str, proxy: str) -> None:
    """Pods, nodes and hosts outside; Services by cluster IPs and load balancers; both families."""
    lab.up(CLUSTER + PODS + POLICIES, "--cni", cni, "--proxy", proxy, "--policy", "nftables")
    result = lab.run("ping", "-o", "json", status=None).json
    cells = {(cell["from"], cell["to"]): cell for cell in result["cells"]}
    assert [cell for cell in result["cells"] if not cell["ok"]] == []
    denied = cells["node:worker2", "default/web"]
    assert denied["expected"] == "nothing"
    assert denied["policies"] == ["default/web isolates default/web for ingress"]
    allowed = cells["default/client", "svc:default/web:80/TCP"]
    assert (allowed["expected"], allowed["found"]) == ("answer", "answer")
    assert allowed["policies"] == ["default/web rule 0 allows ingress"]
    # The far pod reaches the other node, whose address the policy names in one family only.
    assert cells["default/far", "node:worker"]["expected"] == "any"


def test_a_probe_names_the_policy_that_denies_it(lab: Lab) -> None:
    """Ports of pods and node ports have no promise, but a denial is one."""
    lab.up(CLUSTER.replace("dual", "ipv4") + PODS + POLICIES)
    quiet = "default/quiet isolates default/far for egress"
    web = "default/web isolates default/web for ingress"
    port = lab.run("ping", "far", "default/client:8080", "-o", "json").json
    assert (port["expected"], port["found"], port["policies"]) == ("nothing", "silence", [quiet])
    node_port = ("nodeport:worker2/default/open", "nodeport:worker/default/open")
    away, near = (
        lab.run("ping", "ext:client", target, "-o", "json", status=None).json
        for target in node_port
    )
    assert (away["expected"], away["found"], away["policies"]) == ("nothing", "silence", [web])
    assert (near["expected"], near["found"]) == (None, "answer")
    text = lab.run("ping", "far", "svc:web").out
    assert f"no answer, as promised: {quiet}; {web}" in text
    assert f"{quiet}: " in lab.run("ping", status=None).out
