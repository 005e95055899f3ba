"""The first packets of new pods that network policies isolate.

A sender enters the pod's network before its link is up, and peers send to the address of the pod
before the pod exists. In one test the processes that load rules are stopped meanwhile.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from tests.clusters import deployment, pod, replaced
from tests.labs.conftest import new_lab
from tests.labs.datagram_streams import Receiver, Sender, streaming
from tests.labs.lab import Lab, wait_for
from tests.labs.test_pod_networks import require

MODES = (
    ("bridge,layout=onlink", "nftables"),
    ("bridge,layout=routed", "iptables"),
    ("calico", "iptables"),
    ("kube-router", "nftables"),
    ("cilium", "ebpf"),
)
POLICIES = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: late}
spec:
  podSelector: {matchLabels: {is: late}}
  ingress: [{from: [{podSelector: {matchLabels: {role: friend}}}]}]
  egress: [{to: [{podSelector: {matchLabels: {role: friend}}}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: friend}
spec:
  podSelector: {matchLabels: {role: friend}}
  ingress: [{from: [{podSelector: {matchLabels: {is: late}}}]}]
---
"""
PEERS = "".join(
    pod(name, meta=f", labels: {{role: {name}}}", spec=f", nodeName: {node}")
    for name, node in (("friend", "worker2"), ("stranger", "worker2"))
)
EAGER = replaced(deployment("eager", 0), ("labels: {app: eager}", "labels: {app: eager, is: late}"))
AFTER_S = 0.1
"""Time for which packets are sent before and after the rules are in force."""
UNTIL_NEIGHBORS_ARE_ASKED_AGAIN_S = 1.1
"""Time after which packets that wait for a neighbour have been sent (retrans_time_ms)."""


@pytest.fixture(scope="module", params=MODES, ids=" ".join)
def enforcing(request: pytest.FixtureRequest) -> Iterator[Lab]:
    cni, engine = request.param
    require(cni.partition(",")[0])
    for lab in new_lab():
        lab.up(PEERS + POLICIES + EAGER, "--cni", cni, "--policy", engine)
        yield lab


def netns(lab: Lab, name: str) -> str:
    """Return the path of the network namespace that a new pod will have."""
    return f"/run/netns/{lab.name}_pod_default_{name}"


def late(name: str, labels: str, address: str = "") -> str:
    annotation = f', annotations: {{kubenetlab.dev/addresses: "{address}"}}' if address else ""
    return pod(name, meta=f", labels: {{{labels}}}{annotation}", spec=", nodeName: worker")


def free_address(lab: Lab) -> str:
    """Return an address of the node `worker` that no pod has: that of a pod which is deleted."""
    lab.apply(late("scout", "is: scout"))
    (address,) = lab.pod("scout")["addresses"]
    lab.run("delete", "pod", "scout")
    return str(address)


def datagrams_of(lab: Lab, name: str) -> int:
    """Return how many UDP datagrams have reached a pod, with or without a socket for them."""
    lines = lab.inside(lab.pod(name), "cat", "/proc/net/snmp").splitlines()
    names, values = (line.split() for line in lines if line.startswith("Udp:"))
    counters = dict(zip(names, values, strict=True))
    return int(counters["InDatagrams"]) + int(counters["NoPorts"])


@contextmanager
def rules_delayed(lab: Lab) -> Iterator[None]:
    """Stop the processes that load rules for the time of the block."""
    agents = lab.pids(f"kubenetlab {lab.name} node-agent")
    assert agents
    for pid in agents:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in agents:
            os.kill(pid, signal.SIGCONT)


def test_a_new_pod_sends_nothing_against_its_policy(enforcing: Lab) -> None:
    """The same packets pass to a peer that the policy allows, once the rules are in force."""
    lab = enforcing
    peers = {name: lab.pod(name) for name in ("friend", "stranger")}
    receivers = {name: Receiver(peer["netns"]) for name, peer in peers.items()}
    for receiver in receivers.values():
        receiver.wait_until_ready()
    with rules_delayed(lab):
        lab.run("scale", "deploy/eager", "1")
        title = f"{lab.name}/pod/default/eager-"
        (pause,) = wait_for(lambda: lab.pids(title), "the namespace of the pod")
        place = f"/proc/{pause}/ns/net"
        senders = [Sender(place, peer["addresses"][0]) for peer in peers.values()]
        go_on(senders)
    wait_for(lambda: lab.pod("eager")["ready"], "the pod to be ready")
    go_on(senders)
    reports = [sender.stop() for sender in senders]
    received = {name: len(receiver.stop()) for name, receiver in receivers.items()}
    lab.run("scale", "deploy/eager", "0")
    for sent, failed_before in reports:
        assert sent
        assert failed_before, "the link was up before the rules were in force"
    assert received["friend"] > 0
    assert received["stranger"] == 0


def test_a_new_pod_receives_nothing_against_its_policy(enforcing: Lab) -> None:
    """Two peers send to its address since before it existed; the policy allows one of them.

    Packets that the node has accepted before may wait for the link of the pod.
    """
    lab = enforcing
    address = free_address(lab)
    received = {}
    for peer in ("stranger", "friend"):
        name = f"after-{peer}"
        sender = Sender(lab.pod(peer)["netns"], address)
        go_on([sender])
        lab.apply(late(name, "is: late", address))
        assert lab.pod(name)["addresses"] == [address]
        go_on([sender], UNTIL_NEIGHBORS_ARE_ASKED_AGAIN_S)
        received[peer] = datagrams_of(lab, name)
        sender.stop()
        lab.run("delete", "pod", name)
    assert received["friend"] > 0
    assert received["stranger"] == 0


def test_a_pod_does_not_inherit_the_rights_of_an_address(enforcing: Lab) -> None:
    """The pod that had the address before was allowed to send; no policy isolates the heir."""
    lab = enforcing
    lab.apply(late("testator", "is: late"))
    (address,) = lab.pod("testator")["addresses"]
    friend = lab.pod("friend")
    receiver = Receiver(friend["netns"])
    receiver.wait_until_ready()
    sender = Sender(netns(lab, "heir"), friend["addresses"][0])
    lab.run("delete", "pod", "testator", "--no-wait")
    lab.apply(late("heir", "is: heir", address), "--no-wait")
    wait_for(lambda: lab.pod("heir")["ready"], "the heir to be ready")
    go_on([sender])
    sent, _ = sender.stop()
    assert receiver.stop() == []
    assert lab.pod("heir")["addresses"] == [address]
    with streaming(lab.pod("heir"), friend) as allowed:
        lab.apply(late("heir", "is: late", address))
        allowed.go_on(AFTER_S)
    lab.run("delete", "pod", "heir")
    assert sent
    assert allowed.passed_at


def go_on(senders: Sequence[Sender], seconds: float = AFTER_S) -> None:
    """Wait until packets have been sent for some more time."""
    for sender in senders:
        sender.go_on(seconds)
