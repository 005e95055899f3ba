"""Rules of network policies that another process has changed: shown, repaired, without a gap."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from tests.clusters import pod
from tests.labs.conftest import new_lab
from tests.labs.datagram_streams import streaming
from tests.labs.lab import Lab, wait_for

PODS = (
    pod("web", meta=", labels: {app: web}", spec=", nodeName: worker")
    + pod("friend", meta=", labels: {role: friend}", spec=", nodeName: worker2")
    + pod("stranger", spec=", nodeName: worker2")
)
POLICY = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{from: [{podSelector: {matchLabels: {role: friend}}}]}]
---
"""
Edit = Callable[[Lab], str]
"""Make a change that opens `web` to the stranger; return what `diff` has to name."""


def on_worker(lab: Lab, *command: str) -> str:
    return lab.inside(lab.place("nodes", "worker"), *command)


def address(lab: Lab, name: str) -> str:
    return str(lab.pod(name)["addresses"][0])


def flush_chain(lab: Lab) -> str:
    on_worker(lab, "nft", "flush", "chain", "ip", "network-policy", "ingress")
    return "network-policy ingress"


def delete_pod(lab: Lab) -> str:
    element = f"{{ {address(lab, 'web')} }}"
    on_worker(lab, "nft", "delete", "element", "ip", "network-policy", "ingress-pods", element)
    return "network-policy ingress-pods"


def add_peer(lab: Lab) -> str:
    listed = json.loads(on_worker(lab, "nft", "-j", "list", "sets", "ip"))["nftables"]
    (name,) = (
        entry["set"]["name"]
        for entry in listed
        if "set" in entry and address(lab, "friend") in entry["set"].get("elem", ())
    )
    element = f"{{ {address(lab, 'stranger')} }}"
    on_worker(lab, "nft", "add", "element", "ip", "network-policy", name, element)
    return f"network-policy {name}"


def delete_table(lab: Lab) -> str:
    on_worker(lab, "nft", "delete", "table", "ip", "network-policy")
    return "nft table ip network-policy"


def flush_dispatch(lab: Lab) -> str:
    on_worker(lab, "iptables", "-F", "cali-to-wl-dispatch")
    return "cali-to-wl-dispatch"


def accept_everything(lab: Lab) -> str:
    on_worker(lab, "iptables", "-I", "FORWARD", "-j", "ACCEPT")
    on_worker(lab, "iptables", "-F", "cali-FORWARD")
    on_worker(lab, "iptables", "-D", "FORWARD", "-j", "ACCEPT")
    return "cali-FORWARD"


def add_member(lab: Lab) -> str:
    saved = on_worker(lab, "ipset", "save").splitlines()
    name = next(line.split()[1] for line in saved if line.endswith(f" {address(lab, 'friend')}"))
    on_worker(lab, "ipset", "add", name, address(lab, "stranger"))
    return name


EDITS: dict[str, tuple[Edit, ...]] = {
    "nftables": (flush_chain, delete_pod, add_peer, delete_table),
    "iptables": (flush_dispatch, accept_everything, add_member),
}

KILLED = ("agent", "node-agent-0", "")
"""Process that is killed before the repair, in turn."""


@pytest.fixture(scope="module", params=EDITS)
def enforcing(request: pytest.FixtureRequest) -> Iterator[tuple[Lab, str]]:
    for lab in new_lab():
        lab.up(PODS + POLICY, "--policy", request.param)
        yield lab, request.param


def reached(lab: Lab, name: str) -> bool:
    (answer,) = lab.ask(lab.pod(name), ("TCP", address(lab, "web"), 8080))
    return not answer.error


@pytest.mark.parametrize("number", range(4))
def test_changed_rules_are_shown_and_restored(enforcing: tuple[Lab, str], number: int) -> None:
    """The repair loses no packet that the policies allow, also by an agent that has just begun."""
    lab, engine = enforcing
    if number >= len(EDITS[engine]):
        pytest.skip(f"there are fewer changes for {engine}")
    lab.run("up", "--drift", "keep")
    assert not reached(lab, "stranger")
    expected = EDITS[engine][number](lab)
    assert reached(lab, "stranger")
    shown = lab.run("diff", status=1).out
    assert "node/worker\n" in shown
    assert expected in shown
    explained = lab.run("explain-policy", "stranger", "default/web:8080").out
    assert "rules in the kernel of node:worker are not the desired ones" in explained
    with streaming(lab.pod("friend"), lab.pod("web")) as allowed:
        if killed := KILLED[number % len(KILLED)]:
            lab.kill(killed)
        lab.run("up", "--drift", "repair")
        wait_for(lambda: lab.run("diff", status=None).status == 0, "the repair")
    assert not reached(lab, "stranger")
    assert reached(lab, "friend")
    assert len(allowed.passed_at) == allowed.sent
