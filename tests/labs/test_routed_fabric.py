"""A routed fabric: nodes of different segments reach each other by the router only."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.labs.lab import Lab
from tests.labs.pod_networks import sent_frames

DIRECT = "{type: flannel, directRouting: true}"
CROSS_SUBNET = "{type: calico, backend: vxlan, crossSubnet: true}"
HOST_GW = "{type: flannel, backend: host-gw}"


def manifest(family: str, cni: str, workers: str = "a a b") -> str:
    """Return a lab with a pod on each worker; a worker is the name of its segment."""
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
        f"nodes: [{{role: control-plane}}{nodes}]\nfabric: {{topology: routed}}\n"
        f"networking: {{ipFamily: {family}, cni: {cni}}}\n{pods}"
        "---\napiVersion: v1\nkind: Service\nmetadata: {name: web}\n"
        "spec: {type: LoadBalancer, ipFamilyPolicy: PreferDualStack, selector: {app: web}, "
        "ports: [{port: 80, targetPort: 8080}]}\n"
    )


@pytest.mark.parametrize(
    ("cni", "family"),
    [
        *((cni, family) for cni in (DIRECT, CROSS_SUBNET) for family in ("ipv4", "ipv6", "dual")),
        ("weave", "ipv4"),
    ],
)
def test_overlays_cross_the_router(lab: Lab, cni: str, family: str) -> None:
    """Pods reach pods with their own addresses, and everything that Kubernetes promises holds."""
    lab.up(manifest(family, cni))
    assert lab.problems == []
    pods = [lab.pod(name) for name in "abc"]
    targets = [("TCP", address, 8080) for pod in pods for address in pod["addresses"]]
    for pod in pods:
        for answer in lab.ask(pod, *targets):
            assert answer.server, answer.error
            assert answer.client[0] in pod["addresses"]
    assert lab.run("check", "-o", "json").json["ok"]
    assert lab.run("diff").status == 0


def test_nodes_reach_each_other_by_the_router(lab: Lab) -> None:
    """Only nodes of one segment are neighbours; the fabric of a router has one link for each."""
    lab.up(manifest("dual", DIRECT))
    routes = {
        destination: json.loads(
            lab.run("exec", "node:worker", "--", "ip", "-j", "route", "get", destination).out
        )[0].get("gateway")
        for destination in ("172.18.2.3", "172.18.3.2", "172.18.1.2", "fd00:172:18:3::3:2")
    }
    assert routes == {
        "172.18.2.3": None,
        "172.18.3.2": "172.18.2.1",
        "172.18.1.2": "172.18.2.1",
        "fd00:172:18:3::3:2": "fd00:172:18:2::1",
    }
    netns = f"--net={lab.place('nodes', 'worker')['netns']}"
    for address, ttl in (("172.18.2.3", 64), ("172.18.3.2", 63)):
        done = subprocess.run(
            ["nsenter", netns, "ping", "-c1", "-W5", address],
            capture_output=True,
            text=True,
            check=True,
        )
        assert f"ttl={ttl}" in done.stdout


def test_direct_routes_lead_to_nodes_of_the_same_segment(lab: Lab) -> None:
    """Packets to others are encapsulated."""
    lab.up(manifest("ipv4", DIRECT))
    a, b, c = (lab.pod(name)["addresses"][0] for name in "abc")
    for target, is_encapsulated in ((b, False), (c, True)):
        with sent_frames(lab, "worker") as frames:
            assert lab.ask(lab.pod("a"), ("TCP", target, 8080))[0].client[0] == a
        assert any(vni for *_, vni in frames) == is_encapsulated


@pytest.mark.parametrize("cni", [HOST_GW, "ptp"], ids=["host-gw", "ptp"])
def test_plain_routes_fail_across_the_router_and_commands_say_why(lab: Lab, cni: str) -> None:
    """The lab is up, as a cluster would be; commands name the gateway and end with status 1."""
    text = manifest("ipv4", cni)
    planned = lab.run("plan", "-f", "-", stdin=text, status=1)
    created = lab.run("up", "-f", "-", stdin=text, status=1)
    for result in (planned, created):
        assert "because the gateway 172.18.2.2 is not on-link, and 9 more routes" in result.err
    assert "is not on-link" in lab.run("check", status=1).out
    a = lab.pod("a")
    (b, c) = lab.ask(a, *(("TCP", lab.pod(name)["addresses"][0], 8080) for name in "bc"))
    assert (b.server, b.client[0]) == ("b", a["addresses"][0])
    assert not c.server
    assert lab.run("diff").status == 0
    lab.run("up", "-f", "-", "--strict", "--lab", f"{lab.name}-strict", stdin=text, status=2)


def test_segments_come_and_go_with_their_nodes(lab: Lab) -> None:
    lab.up(manifest("dual", DIRECT))
    lab.run("apply", "-f", "-", stdin=manifest("dual", DIRECT, "a a b c"))
    assert lab.run("check", "-o", "json").json["ok"]
    assert lab.place("nodes", "worker4")["addresses"] == ["172.18.4.2", "fd00:172:18:4::4:2"]
    lab.run("apply", "-f", "-", stdin=manifest("dual", DIRECT, "a a"))
    lab.run("delete", "pod", "c", "d", "--ignore-not-found")
    assert lab.run("check", "-o", "json").json["ok"]
    assert lab.run("diff").status == 0
    links = lab.run("exec", "node:control-plane", "--", "ip", "-j", "route").out
    assert "172.18.3" not in links


def test_the_mode_bridge_is_refused(lab: Lab) -> None:
    refused = lab.run("up", "-f", "-", stdin=manifest("ipv4", "bridge"), status=2)
    assert "bridge needs all nodes on one layer-2 segment" in refused.err
    assert "--cni flannel" in refused.err
