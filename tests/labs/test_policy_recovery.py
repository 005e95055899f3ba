"""Network policies that change while the lab's agent and its node agents are killed.

Datagrams arrive without a pause. Those that every version of the policies denies never pass, and
none is lost that every version allows, by one rule or by another.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial

import pytest
import yaml

from kubenetlab.lab.client import Client
from kubenetlab.lab.paths import LAB_API
from tests.clusters import pod, replaced
from tests.labs.conftest import new_lab
from tests.labs.datagram_streams import Sender, Stream, streaming
from tests.labs.lab import Lab, descendants, title_of, wait_for
from tests.labs.test_first_packets import (
    AFTER_S,
    UNTIL_NEIGHBORS_ARE_ASKED_AGAIN_S,
    datagrams_of,
)
from tests.labs.test_pod_networks import require

CHANGES = 3
MAX_DELAY_S = 0.04
"""Maximum time between the reply to a change and the death of the processes, in seconds."""
ROLES = {"agent": ("agent",), "node agent": ("node-agent",), "both": ("agent", "node-agent")}

CLIENTS = "".join(
    pod(name, meta=f", labels: {{{labels}}}", spec=", nodeName: worker2")
    for name, labels in (
        ("friend", "role: friend, team: a"),
        ("stranger", "role: stranger"),
        ("outlaw", "role: friend, team: a, is: outlaw"),
    )
)
WEB = pod("web", meta=", labels: {app: web}", spec=", nodeName: worker")
BY_ROLE = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{from: [{podSelector: {matchLabels: {role: friend}}}]}]
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: outlaws}
spec:
  tier: Admin
  priority: 1
  subject: {pods: {podSelector: {matchLabels: {app: web}}}}
  ingress: [{action: Deny, from: [{pods: {podSelector: {matchLabels: {is: outlaw}}}}]}]
---
"""
BY_TEAM = replaced(
    BY_ROLE,
    ("role: friend", "team: a"),
    ("ingress: [{action", "egress: []\n  ingress: [{action"),
    (
        "matchLabels: {is: outlaw}",
        "matchExpressions: [{key: is, operator: In, values: [outlaw, bandit]}]",
    ),
)
"""Other rules, sets and chains with the same verdicts."""

ENGINES = {
    "nftables": ("--policy", "nftables"),
    "iptables": ("--policy", "iptables"),
    "ebpf": ("--cni", "cilium", "--policy", "ebpf"),
}
"""Policy engine → options of `up`."""


@pytest.fixture(scope="module", params=ENGINES)
def enforcing(request: pytest.FixtureRequest) -> Iterator[Lab]:
    options = ENGINES[request.param]
    require("cilium" if request.param == "ebpf" else "bridge")
    for lab in new_lab():
        lab.up(CLIENTS + WEB + BY_ROLE, *options)
        yield lab


def kill(lab: Lab, init: int, roles: Sequence[str]) -> None:
    """Kill processes of a lab, and wait until each has a successor."""
    titles = [f"kubenetlab {lab.name} {role}" for role in roles]
    former = {pid for pid in descendants(init) if title_of(pid).startswith(tuple(titles))}
    assert former
    for pid in former:
        os.kill(pid, signal.SIGKILL)

    def has_successors() -> bool:
        pids = {pid: title_of(pid) for pid in descendants(init)}
        return not former & pids.keys() and all(
            any(each.startswith(title) for each in pids.values()) for title in titles
        )

    wait_for(has_successors, "successors")


def post(lab: Lab, manifest: str) -> None:
    """Apply a manifest without waiting for the kernel."""
    documents = [each for each in yaml.safe_load_all(manifest) if each]
    Client(lab.name).post(f"{LAB_API}/apply", {"documents": documents})


def is_ready(lab: Lab, name: str) -> bool:
    """Return True for a ready pod of a lab whose agent may be starting."""
    return any(pod["name"] == name and pod["ready"] for pod in lab.inspected["pods"])


@pytest.mark.parametrize("roles", ROLES)
def test_policies_are_never_open_nor_half_applied(enforcing: Lab, roles: str) -> None:
    """The last change is in force when `apply` of the same objects returns."""
    lab, rng = enforcing, random.Random(7)
    init, web = lab.inspected["init_pid"], lab.pod("web")
    with ExitStack() as stack:
        streams: dict[str, Stream] = {
            name: stack.enter_context(streaming(lab.pod(name), web, port=port))
            for name, port in (("friend", 7777), ("stranger", 7778), ("outlaw", 7779))
        }
        for number in range(CHANGES):
            post(lab, (BY_TEAM, BY_ROLE)[number % 2])
            streams["friend"].go_on(rng.random() * MAX_DELAY_S)
            kill(lab, init, ROLES[roles])
        lab.apply(BY_ROLE)
        assert lab.run("diff", status=None).status == 0
    assert streams["stranger"].passed_at == []
    assert streams["outlaw"].passed_at == []
    assert len(streams["friend"].passed_at) == streams["friend"].sent


@pytest.mark.parametrize("roles", ["node agent", "both"])
def test_a_new_pod_is_never_open(enforcing: Lab, roles: str) -> None:
    """Two peers send to its address since before it existed, while the processes die.

    The processes die when its link may exist, and the rules may be missing.
    """
    lab, rng = enforcing, random.Random(8)
    init = lab.inspected["init_pid"]
    late = replaced(WEB, ("name: web", "name: scout"))
    lab.apply(late)
    (address,) = lab.pod("scout")["addresses"]
    lab.run("delete", "pod", "scout")
    received = {}
    for peer in ("stranger", "friend"):
        name = f"late-{peer}"
        asking = replaced(
            late,
            ("name: scout", f"name: {name}"),
            (
                "labels: {app: web}",
                f'labels: {{app: web}}, annotations: {{kubenetlab.dev/addresses: "{address}"}}',
            ),
        )
        sender = Sender(lab.pod(peer)["netns"], address)
        sender.go_on(AFTER_S)
        post(lab, asking)
        sender.go_on(rng.random() * MAX_DELAY_S)
        kill(lab, init, ROLES[roles])
        wait_for(partial(is_ready, lab, name), f"{name} to be ready")
        assert lab.pod(name)["addresses"] == [address]
        sender.go_on(UNTIL_NEIGHBORS_ARE_ASKED_AGAIN_S)
        received[peer] = datagrams_of(lab, name)
        sender.stop()
        lab.run("delete", "pod", name)
    assert received["friend"] > 0
    assert received["stranger"] == 0


def test_a_denial_is_in_force_after_the_recovery(enforcing: Lab) -> None:
    """The processes die right after the reply of the API, and the rules change nevertheless."""
    lab = enforcing
    init, web, friend = lab.inspected["init_pid"], lab.pod("web"), lab.pod("friend")
    denied = replaced(BY_ROLE, ("role: friend", "role: nobody"))
    with streaming(friend, web) as before:
        before.go_on(0.1)
        post(lab, denied)
        kill(lab, init, ROLES["both"])
        wait_for(lambda: lab.run("diff", status=None).status == 0, "the rules")
    with streaming(friend, web) as after:
        after.go_on(0.1)
    lab.apply(BY_ROLE)
    with streaming(friend, web) as again:
        again.go_on(0.1)
    assert before.passed_at
    assert after.passed_at == []
    assert len(again.passed_at) == again.sent
