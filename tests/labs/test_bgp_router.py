"""BGP between nodes and the router of the fabric: routes to pods without encapsulation."""

from __future__ import annotations

import json
import os
import re
import signal
from typing import Any

import pytest

from kubenetlab.kernel.features.detection import has_program
from tests.labs.lab import Lab, wait_for
from tests.labs.pod_networks import sent_frames

pytestmark = pytest.mark.skipif(
    not has_program("bird"), reason="needs BIRD 2 (apt-get install bird2)"
)
MODES = ["calico", "kube-router"]
OUTSIDE = "198.51.100.10"


def manifest(cni: str, bgp: str = "{}", family: str = "ipv4", workers: str = "a b") -> str:
    """Return a control-plane and workers on segments, with a pod on each worker."""
    names = ["worker" if index == 1 else f"worker{index}" for index in range(1, 5)]
    nodes = "".join(f", {{role: worker, segment: {segment}}}" for segment in workers.split())
    pods = "".join(
        f"---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {pod}, labels: {{app: web}}}}\n"
        f"spec: {{nodeName: {node}, containers: [{{name: main, image: agnhost, args: [netexec], "
        "ports: [{containerPort: 8080}]}]}\n"
        for pod, node in zip("abcd"[: len(workers.split())], names, strict=False)
    )
    return (
        "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
        f"nodes: [{{role: control-plane, segment: a}}{nodes}]\n"
        f"fabric: {{topology: routed, bgp: {bgp}}}\n"
        f"networking: {{ipFamily: {family}, cni: {cni}}}\n{pods}"
    )


def bird_routes(lab: Lab, place: str) -> dict[str, set[str]]:
    """Return the routes of BIRD in the main table: destination → gateways."""
    shown = lab.run("exec", place, "--", "ip", "-j", "route", "show", "proto", "bird").out
    return {
        route["dst"]: {hop["gateway"] for hop in route.get("nexthops", [route]) if "gateway" in hop}
        for route in json.loads(shown)
    }


def sessions(lab: Lab, place: str) -> dict[str, str]:
    """Return the last word of `birdc show protocols` for each BGP session."""
    shown = lab.run("exec", place, "--", "birdc", "show", "protocols").out
    return {line.split()[0]: line.split()[-1] for line in shown.splitlines() if " BGP " in line}


def address(lab: Lab, node: str) -> str:
    return str(lab.place("nodes", node)["addresses"][0])


def reaches(lab: Lab, source: Any, target: Any) -> bool:
    """Return True if the target answers and sees the source's own address."""
    (answer,) = lab.ask(source, ("TCP", target["addresses"][0], 8080))
    return bool(answer.server) and answer.client[0] == source["addresses"][0]


@pytest.mark.parametrize("cni", MODES)
@pytest.mark.parametrize("as_number", [65000, 64512], ids=["eBGP", "iBGP"])
def test_routes_lead_over_the_router_to_other_segments_only(
    lab: Lab, cni: str, as_number: int
) -> None:
    """Nodes of one segment are each other's gateways; the router has a route to all nodes."""
    lab.up(manifest(cni, f"{{asNumber: {as_number}}}"))
    assert lab.problems == []
    own, near, far = (address(lab, node) for node in ("worker", "control-plane", "worker2"))
    assert {gateway for each in bird_routes(lab, "fabric:router").values() for gateway in each} == {
        own,
        near,
        far,
    }
    gateways = [each for each in bird_routes(lab, "node:worker").values() if each]
    assert sorted(gateways, key=str) == sorted([{near}, {"172.18.1.1"}], key=str)
    assert sessions(lab, "node:worker") == {"Router_172_18_1_1": "Established"}
    assert set(sessions(lab, "fabric:router").values()) == {"Established"}


@pytest.mark.parametrize("cni", MODES)
def test_packets_cross_the_router_without_encapsulation(lab: Lab, cni: str) -> None:
    """A pod of another segment is three hops away, and sees the pod's own address."""
    lab.up(manifest(cni))
    a, b = lab.pod("a"), lab.pod("b")
    with sent_frames(lab, "worker") as frames:
        assert reaches(lab, a, b)
    assert frames
    assert not any(identifier for *_, identifier in frames)
    pinged = lab.inside(a, "ping", "-c1", "-W5", b["addresses"][0])
    ttl = re.search(r"ttl=(\d+)", pinged)
    assert ttl is not None
    assert int(ttl[1]) == 64 - 3


@pytest.mark.parametrize("cni", MODES)
def test_hosts_outside_reach_pods(lab: Lab, cni: str) -> None:
    """The router forwards to what nodes announce; `check` expects the same."""
    lab.up(manifest(cni))
    (host,) = lab.inspected["external"]
    assert reaches(lab, host, lab.pod("b"))
    assert lab.run("check", "-o", "json").json["ok"]
    assert lab.run("diff").status == 0


def test_without_bgp_of_the_router_the_gateway_is_named(lab: Lab) -> None:
    text = manifest("calico").replace(", bgp: {}", "")
    failed = lab.run("up", "-f", "-", stdin=text, status=1)
    assert "is not on-link" in failed.err
    assert "fabric.bgp" in failed.err


def test_bgp_of_the_router_starts_and_ends_while_the_lab_is_up(lab: Lab) -> None:
    with_bgp = manifest("calico")
    lab.run("up", "-f", "-", stdin=with_bgp.replace(", bgp: {}", ""), status=1)
    assert not reaches(lab, lab.pod("a"), lab.pod("b"))
    lab.up(with_bgp)
    assert reaches(lab, lab.pod("a"), lab.pod("b"))
    assert lab.problems == []
    lab.run("up", "-f", "-", stdin=with_bgp.replace(", bgp: {}", ""), status=1)
    wait_for(lambda: not reaches(lab, lab.pod("a"), lab.pod("b")), "the end of the route")
    wait_for(lambda: not bird_routes(lab, "fabric:router"), "the end of the router's routes")


@pytest.mark.parametrize("cni", MODES)
def test_a_new_node_on_a_new_segment_is_reached(lab: Lab, cni: str) -> None:
    lab.up(manifest(cni))
    lab.apply(manifest(cni, workers="a b c"))
    assert reaches(lab, lab.pod("a"), lab.pod("c"))
    assert len(sessions(lab, "fabric:router")) == 4
    assert lab.problems == []


def test_a_killed_bird_of_the_router_loses_no_route(lab: Lab) -> None:
    """Graceful restart: packets keep passing, and the sessions are established again."""
    lab.up(manifest("kube-router"))
    a, b = lab.pod("a"), lab.pod("b")
    before = lab.pids("bird")
    netns = os.stat(lab.inspected["router"]["netns"]).st_ino
    (router,) = [pid for pid in before if os.stat(f"/proc/{pid}/ns/net").st_ino == netns]
    os.kill(router, signal.SIGKILL)

    def is_restarted() -> bool:
        assert reaches(lab, a, b)
        return router not in lab.pids("bird") and len(lab.pids("bird")) == len(before)

    wait_for(is_restarted, "a new BIRD on the router")
    wait_for(
        lambda: set(sessions(lab, "fabric:router").values()) == {"Established"}, "its sessions"
    )
    assert reaches(lab, a, b)


def test_blocked_sessions_of_a_node_withdraw_its_routes(lab: Lab) -> None:
    """The fault bgp: the router and all other nodes drop the routes, and get them back."""
    lab.up(manifest("calico"))
    a, b = lab.pod("a"), lab.pod("b")
    lab.run("break", "bgp", "--node", "worker2")
    wait_for(lambda: not reaches(lab, a, b), "the end of the sessions")
    far = address(lab, "worker2")
    wait_for(lambda: {far} not in bird_routes(lab, "fabric:router").values(), "the withdrawal")
    lab.run("heal")
    wait_for(lambda: reaches(lab, a, b), "the sessions")


def test_a_mode_without_bgp_is_reported(lab: Lab) -> None:
    """Flannel has no sessions with the router: the setting has no effect."""
    created = lab.run("up", "-f", "-", stdin=manifest("flannel"))
    assert "fabric.bgp: cni flannel has no BGP" in created.err
    assert not lab.pids("bird")


def forwarded(lab: Lab, router: str) -> int:
    """Return how many packets a router has sent to the segment of worker2."""
    shown = lab.run("exec", router, "--", "ip", "-j", "-s", "link", "show", "segment2").out
    (link,) = json.loads(shown)
    return int(link["stats64"]["tx"]["packets"])


@pytest.mark.parametrize("cni", MODES)
@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_two_routers_share_the_connections(lab: Lab, cni: str, family: str) -> None:
    """Nodes have two next hops to other segments; one goes, and no connection is lost."""
    lab.up(manifest(cni, "{routers: 2}", family))
    assert lab.problems == []
    a, b = lab.pod("a"), lab.pod("b")
    routers = ("fabric:router", "fabric:router2")
    names = sorted(sessions(lab, "node:worker"))
    assert len(names) == 2
    flows = [("TCP", b["addresses"][0], 8080)] * 60

    def shares() -> list[int]:
        before = [forwarded(lab, router) for router in routers]
        for answer in lab.ask(a, *flows):
            assert answer.server, answer.error
            assert answer.client[0] == a["addresses"][0]
        return [
            forwarded(lab, router) - count for router, count in zip(routers, before, strict=True)
        ]

    assert min(shares()) > 40  # of about 300 packets
    for name in sessions(lab, routers[1]):
        lab.run("exec", routers[1], "--", "birdc", "disable", name)

    def has_one_path() -> bool:
        shown = json.loads(lab.run("exec", "node:worker", "--", "ip", "-j", option, "route").out)
        return not any("nexthops" in route for route in shown)

    option = "-6" if family == "ipv6" else "-4"
    wait_for(has_one_path, "the withdrawal on worker")
    first, second = shares()
    assert first > 200
    assert second < 20  # neighbour discovery and BGP
    for name in sessions(lab, routers[1]):
        lab.run("exec", routers[1], "--", "birdc", "enable", name)
    wait_for(lambda: not has_one_path(), "the second path")
    assert lab.run("check", "-o", "json").json["ok"]
