"""Faults of the pod network: the packets that they stop, those that pass, and healing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from tests.clusters import pod
from tests.labs.http_client import http_get
from tests.labs.lab import Lab, wait_for
from tests.labs.pod_networks import manifest
from tests.labs.test_pod_networks import CALICO, CILIUM, FLANNEL, require
from tests.patience import patiently

TUNNELS = {
    "flannel": FLANNEL["vxlan"],
    "calico": CALICO["vxlan"],
    "weave": "weave",
    "cilium": CILIUM["tunnel"],
}


def reaches(lab: Lab, source: str, destination: str, index: int = 0) -> bool:
    """Return whether a pod gets an answer from the server of another one."""
    address = lab.pod(destination)["addresses"][index]
    (answer,) = lab.ask(lab.pod(source), ("TCP", address, 8080))
    return not answer.error


def answering(lab: Lab, *pairs: str) -> dict[str, tuple[bool, ...]]:
    """Return whether the first pod of each pair gets answers from the addresses of the second.

    All ask at the same time, because silence takes seconds. `ac` is the pair of the pods a and c.
    """
    pods = {pod["name"]: pod for pod in lab.inspected["pods"] if pod["namespace"] == "default"}
    asked = [
        (pods[pair[0]], [("TCP", address, 8080) for address in pods[pair[1]]["addresses"]])
        for pair in pairs
    ]
    replies = lab.ask_each(*asked)
    return {
        pair: tuple(not answer.error for answer in answers)
        for pair, answers in zip(pairs, replies, strict=True)
    }


def node_answers(lab: Lab, source: str, destination: str) -> bool:
    """Return whether a node answers the echo requests of another one."""
    address = lab.place("nodes", destination)["addresses"][0]
    return lab.run("ping", f"node:{source}", address, status=None).status == 0


@contextmanager
def broken(lab: Lab, fault: str, *options: str) -> Iterator[str]:
    """Break something, and yield its summary; heal it and require the lab to be as it was."""
    assert lab.run("diff", status=None).status == 0
    out = lab.run("break", fault, *options).out
    yield out.strip().partition(": ")[2]
    lab.run("heal")
    assert lab.get("faults")["items"] == []
    wait_for(lambda: lab.run("diff", status=None).status == 0, "the lab without the fault")
    wait_for(lambda: lab.run("ping", "-o", "json", status=None).json["ok"], "the whole matrix")
    assert lab.problems == []


def explains(lab: Lab, summary: str, line: str) -> None:
    """Require that `diff`, `ping` and a single ping name the fault, also after a new agent."""
    for is_new in (False, True):
        if is_new:
            lab.kill("agent")
        drift = lab.run("diff", status=1)
        assert line in drift.out
        assert f"broken on purpose: {summary} (fault 1)" in drift.err
    matrix = lab.run("ping", status=1)
    assert f"broken on purpose: {summary} (fault 1)" in matrix.err


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
@pytest.mark.parametrize("cni", TUNNELS.values(), ids=TUNNELS)
def test_without_datagrams_of_the_overlay_pods_reach_only_their_own_node(
    lab: Lab, cni: str, family: str
) -> None:
    """Nodes reach each other, and other nodes' pods too; the fault survives the agent."""
    require(cni)
    lab.up(manifest(family, cni))
    assert reaches(lab, "a", "c")
    with broken(lab, "overlay", "--node", "worker") as summary:
        assert summary == "the packets of the tunnels of worker are dropped"
        assert node_answers(lab, "worker", "worker2")
        assert answering(lab, "ab", "ac", "ca") == {"ab": (True,), "ac": (False,), "ca": (False,)}
        once = lab.run("ping", "a", "c", status=1)
        assert f"broken on purpose: {summary} (fault 1)" in once.err
        checked = lab.run("check", status=1)
        assert f"broken on purpose: {summary} (fault 1)" in checked.err
        explains(lab, summary, "- nft table ip")
        assert not reaches(lab, "a", "c")
    assert reaches(lab, "a", "c")


ROUTES = {
    "bridge": ("bridge", "+ route 10.244.2.0/24 "),
    "flannel": (FLANNEL["vxlan"], "+ route 10.244.2.0/24 "),
    "calico": (CALICO["bgp"], "file /etc/bird/bird.conf"),
    "reflector": (CALICO["reflector"], "file /etc/bird/bird.conf"),
    "kube-router": ("kube-router", "file /etc/bird/bird.conf"),
    "cilium": (CILIUM["native"], "+ route 10.244.2.0/24 "),
    "cilium-legacy": (CILIUM["legacy"], ""),
}


@pytest.mark.parametrize(("cni", "line"), ROUTES.values(), ids=ROUTES)
@pytest.mark.parametrize("how", ["missing", "blackhole"])
def test_without_a_route_pods_of_one_pair_of_nodes_do_not_reach_each_other(
    lab: Lab, cni: str, line: str, how: str
) -> None:
    """Both directions fail; the pods of a node, the nodes, and all other pairs are as before."""
    require(cni)
    lab.up(manifest("dual", cni) + "---\n" + pod("d", ", nodeName: control-plane"))
    options = ["--node", "worker", "--to", "worker2", "--how", how]
    if not line:
        refused = lab.run("break", "route", *options, status=2)
        assert "finds the node of a pod in another way" in refused.err
        return
    cut, intact = ("ac", "ca"), ("ab", "ad", "da", "dc")
    with broken(lab, "route", *options) as summary:
        wait_for(lambda: answering(lab, *cut) == dict.fromkeys(cut, (False, False)), "the cut")
        assert answering(lab, *intact) == dict.fromkeys(intact, (True, True))
        assert node_answers(lab, "worker", "worker2")
        is_replaced = how == "blackhole" and "bird" not in line
        explains(lab, summary, "route 10.244.2.0/24" if is_replaced else line)
        assert not reaches(lab, "a", "c")
    wait_for(partial(reaches, lab, "a", "c", 1), "the route")


def gets_large_response(lab: Lab, client: str, server: str, index: int = 0) -> bool:
    """Return whether a pod gets a response of 4,000 bytes from the server of another one."""
    address = lab.pod(server)["addresses"][index]
    reply = http_get(lab, lab.pod(client), address, 8080, f"/echo?msg={'x' * 4000}")
    return len(reply.body) >= 4000


MTU = {
    "bridge": "bridge",
    "routed": "{type: bridge, layout: routed}",
    "flannel": FLANNEL["vxlan"],
    "calico": CALICO["bgp"],
    "calico-vxlan": CALICO["vxlan"],
    "weave": "weave",
    "kube-router": "kube-router",
    "cilium": CILIUM["tunnel"],
    "native": CILIUM["native"],
}


@pytest.mark.parametrize("cni", MTU.values(), ids=MTU)
def test_large_responses_hang_where_the_mtu_is_too_small(lab: Lab, cni: str) -> None:
    """Small ones arrive between the same pods; pods of the same node are not concerned."""
    require(cni)
    lab.up(manifest("dual", cni))
    for index in (0, 1):
        assert gets_large_response(lab, "c", "a", index)
    with broken(lab, "mtu", "--node", "worker") as summary:
        for index in (0, 1):
            assert not gets_large_response(lab, "c", "a", index)
            assert reaches(lab, "c", "a", index)
            assert reaches(lab, "a", "c", index)
            assert gets_large_response(lab, "b", "a", index)
        drift = lab.run("diff", status=1)
        assert "mtu 1400" in drift.out
        assert f"broken on purpose: {summary} (fault 1)" in drift.err
        lab.kill("agent")
        assert lab.run("diff", status=1).out == drift.out
        assert lab.run("ping", "-o", "json").json["ok"]
        assert not gets_large_response(lab, "c", "a")
    for index in (0, 1):
        assert gets_large_response(lab, "c", "a", index)


BGP = {"calico": CALICO["bgp"], "reflector": CALICO["reflector"], "kube-router": "kube-router"}
HOLD_S = 9


@pytest.mark.parametrize("cni", BGP.values(), ids=BGP)
def test_blocked_sessions_end_and_their_routes_are_withdrawn(lab: Lab, cni: str) -> None:
    """After the hold time pods of the node reach only their own node; others are as before."""
    require(cni)
    lab.up(manifest("ipv4", cni) + "---\n" + pod("d", ", nodeName: control-plane"))
    address = lab.place("nodes", "worker")["addresses"][0]
    sessions = ("exec", "node:worker", "--", "birdc", "show", "protocols")
    assert "Established" in lab.run(*sessions).out
    assert address in learned(lab, "worker2")
    with broken(lab, "bgp", "--node", "worker") as summary:
        assert reaches(lab, "a", "c")
        wait_for(lambda: not learned(lab, "worker"), "the hold time", patiently(3 * HOLD_S))
        wait_for(
            lambda: address not in learned(lab, "worker2"), "the withdrawal", patiently(3 * HOLD_S)
        )
        assert "Established" not in lab.run(*sessions).out
        assert answering(lab, "ac", "ca", "ab", "dc") == {
            "ac": (False,),
            "ca": (False,),
            "ab": (True,),
            "dc": (True,),
        }
        assert node_answers(lab, "worker", "worker2")
        explains(lab, summary, "of daemon bird")
        assert not reaches(lab, "a", "c")


def learned(lab: Lab, node: str) -> str:
    """Return the routes by gateways that BIRD has added on a node."""
    words = ("exec", f"node:{node}", "--", "ip", "route", "show", "proto", "bird")
    return "\n".join(line for line in lab.run(*words).out.splitlines() if " via " in line)
