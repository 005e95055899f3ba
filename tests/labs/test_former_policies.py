"""Network policies while the agent of a CNI plugin that enforces them is stopped on one node."""

from __future__ import annotations

from typing import Any

import pytest

from tests.clusters import pod, replaced
from tests.labs.lab import SHORTLY, Lab, wait_for
from tests.labs.test_pod_networks import require

POLICY = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: quiet}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{from: [{podSelector: {matchLabels: {role: friend}}}]}]
---
"""
FRIEND = pod("friend", meta=", labels: {role: friend}", spec=", nodeName: worker")
STRANGER = pod("stranger", spec=", nodeName: worker")
WEB = "".join(
    pod(name, meta=f", labels: {{app: web, on: {node}}}", spec=f", nodeName: {node}")
    for name, node in (("web1", "worker"), ("web2", "worker2"))
)
MODES = ("calico", "kube-router", "weave", "cilium")


def reached(lab: Lab, source: str) -> dict[str, bool]:
    """Return which of the two pods, on the node without agent and elsewhere, answer."""
    targets = {name: ("TCP", lab.pod(name)["addresses"][0], 8080) for name in ("web1", "web2")}
    answers = lab.ask(lab.pod(source), *targets.values())
    return {name: not answer.error for name, answer in zip(targets, answers, strict=True)}


def outcome(cut_off: bool, elsewhere: bool) -> dict[str, bool]:
    return {"web1": cut_off, "web2": elsewhere}


@pytest.mark.parametrize("cni", MODES)
def test_the_node_keeps_its_policies_until_the_agent_is_back(lab: Lab, cni: str) -> None:
    """A changed policy, a changed label, a new and a deleted policy; every command says so."""
    require(cni)
    lab.up(FRIEND + STRANGER + WEB + POLICY, "--cni", cni)
    assert reached(lab, "friend") == outcome(True, True)
    assert reached(lab, "stranger") == outcome(False, False)
    lab.run("break", "cni-agent", "--node", "worker")
    changed = replaced(POLICY, ("role: friend", "role: boss"))
    said = lab.apply(changed, *SHORTLY, status=1).err
    assert "also of network policies" in said
    assert "NetworkPolicy default/quiet has changed" in said
    assert reached(lab, "friend") == outcome(True, False)
    lab.kill("agent")
    assert reached(lab, "friend") == outcome(True, False)
    assert "NetworkPolicy default/quiet has changed" in lab.run("check", status=1).out
    explained = " ".join(lab.run("explain-policy", "friend", "web1:8080").out.split())
    assert "worker: no agent of the CNI plugin runs there" in explained
    described = lab.run("describe", "netpol", "quiet").out
    assert "nodes without agent have former policies: worker" in described
    lab.run("ping", status=1)
    assert "node/worker\n" in lab.run("diff", status=1).out
    boss = replaced(STRANGER, ("name: stranger}", "name: stranger, labels: {role: boss}}"))
    lab.apply(boss, *SHORTLY, status=1)
    assert reached(lab, "stranger") == outcome(False, True)
    lab.run("heal")
    assert reached(lab, "friend") == outcome(False, False)
    assert reached(lab, "stranger") == outcome(True, True)
    assert lab.run("diff", status=None).status == 0


def test_a_node_keeps_the_identities_that_its_policies_know(lab: Lab) -> None:
    """A pod gets other labels, and so another identity, while the agent of cilium is stopped."""
    require("cilium")
    lab.up(FRIEND + STRANGER + WEB + POLICY, "--cni", "cilium")
    lab.run("break", "cni-agent", "--node", "worker")
    lab.apply(replaced(FRIEND, ("role: friend", "role: foe")), *SHORTLY, status=1)
    assert reached(lab, "friend") == outcome(True, False)
    lab.run("heal")
    assert reached(lab, "friend") == outcome(False, False)


def test_without_the_daemon_set_no_node_gets_a_new_policy(lab: Lab) -> None:
    """All nodes know the same policies, and lose those that were deleted when agents are back."""
    lab.up(FRIEND + STRANGER + WEB + POLICY, "--cni", "kube-router")
    name = ("daemonset", "kube-router", "-n", "kube-system")
    saved = lab.run("get", *name, "-o", "yaml").out
    lab.run("delete", *name)
    lab.run("delete", "netpol", "quiet")
    shut = replaced(POLICY, ("name: quiet", "name: shut"), ("app: web", "role: friend"))
    lab.apply(shut, *SHORTLY, status=1)
    assert reached(lab, "stranger") == outcome(False, False)
    assert reached(lab, "friend") == outcome(True, True)
    assert "default/quiet was deleted" in " ".join(lab.run("check", status=1).out.split())
    lab.apply(saved)
    wait_for(lambda: reached(lab, "stranger") == outcome(True, True), "the agents")


def test_a_new_pod_of_the_node_is_not_isolated(lab: Lab) -> None:
    """kube-router's CNI program needs no agent, so the pod runs, without the rules of a policy."""
    lab.up(STRANGER + WEB + POLICY, "--cni", "kube-router")
    lab.run("break", "cni-agent", "--node", "worker")
    late = pod("late", meta=", labels: {app: web}", spec=", nodeName: worker")
    lab.apply(late, *SHORTLY, status=1)

    def answers() -> bool:
        target: Any = ("TCP", lab.pod("late")["addresses"][0], 8080)
        (answer,) = lab.ask(lab.pod("stranger"), target)
        return not answer.error

    assert answers()
    matrix = lab.run("check", status=1).out
    assert "late" in matrix
    lab.run("heal")
    assert not answers()
