"""The CNI mode flannel: packets between pods with both backends, in every address family."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.labs.lab import Lab, wait_for
from tests.patience import patiently

FRAME_SIZES = """
import json, socket, sys
link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
link.bind(("eth0", 0))
link.setblocking(False)
print("ready", flush=True)
sys.stdin.readline()
frames = []
while True:
    try:
        frame, (*_, direction, _, _) = link.recvfrom(65536)
    except BlockingIOError:
        break
    if direction != socket.PACKET_OUTGOING or frame[12:14] != b"\\x08\\x00":
        continue
    udp, inner = frame[34:42], frame[50:]
    if frame[23] == 17 and udp[2:4] == (8472).to_bytes(2, "big"):
        frames.append((len(frame), 14 + int.from_bytes(inner[16:18], "big"), frame[46:49].hex()))
    else:
        frames.append((len(frame), len(frame), ""))
print(json.dumps(frames))
"""
"""Program that prints the IPv4 frames sent by a node until it reads a line.

Each is (size on the fabric, size of the packet inside as a frame of its own, VNI in hexadecimal).
"""


def manifest(family: str, cni: str) -> str:
    pods = "".join(
        f"---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: web}}}}\n"
        f"spec: {{nodeName: {node}, containers: [{{name: main, image: agnhost, args: [netexec], "
        "ports: [{containerPort: 8080}]}]}\n"
        for name, node in (("a", "worker"), ("b", "worker"), ("c", "worker2"))
    )
    return (
        "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
        f"networking: {{ipFamily: {family}, cni: {cni}}}\n"
        f"external: [{{name: outside, address: {OUTSIDE[family]}, ports: [8080]}}]\n{pods}"
        "---\napiVersion: v1\nkind: Service\nmetadata: {name: web}\n"
        "spec: {ipFamilyPolicy: PreferDualStack, selector: {app: web}, ports: [{port: 80, "
        "targetPort: 8080}]}\n"
    )


OUTSIDE = {"ipv4": "198.51.100.10", "ipv6": '"2001:db8:51:100::10"', "dual": "198.51.100.10"}
BACKENDS = {
    "vxlan": "{type: flannel}",
    "host-gw": "{type: flannel, backend: host-gw}",
    "direct": "{type: flannel, directRouting: true}",
    "routed": "{type: flannel, layout: routed, neighbors: permanent, vni: 7}",
}


@pytest.mark.parametrize("family", ["ipv4", "ipv6", "dual"])
@pytest.mark.parametrize("cni", BACKENDS.values(), ids=BACKENDS)
def test_pods_reach_pods_without_address_translation(lab: Lab, cni: str, family: str) -> None:
    """Servers see the pod's own address; what leaves the cluster has the node's address."""
    lab.up(manifest(family, cni))
    assert lab.problems == []
    pods = [lab.pod(name) for name in "abc"]
    targets = [("TCP", address, 8080) for pod in pods for address in pod["addresses"]]
    for pod in pods:
        for answer in lab.ask(pod, *targets):
            assert answer.server, answer.error
            assert answer.client[0] == answer.source[0]
            assert answer.client[0] in pod["addresses"]
    for node in lab.inspected["nodes"]:
        assert all(answer.server for answer in lab.ask(node, *targets))
    for pod in pods:
        node = lab.place("nodes", pod["node"])
        (answer,) = lab.ask(pod, ("TCP", OUTSIDE[family].strip('"'), 8080))
        assert answer.client[0] in node["addresses"], answer


@contextmanager
def sent_frames(lab: Lab, node: str) -> Iterator[list[tuple[int, int, str]]]:
    """Yield a list that contains the frames sent by the node once the block has ended."""
    frames: list[tuple[int, int, str]] = []
    netns = f"--net={lab.place('nodes', node)['netns']}"
    with subprocess.Popen(
        ["nsenter", netns, sys.executable, "-c", FRAME_SIZES],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as capture:
        assert capture.stdout is not None
        assert capture.stdout.readline() == "ready\n"
        yield frames
        out, _ = capture.communicate("\n", timeout=patiently(10))
    frames += map(tuple, json.loads(out))


@pytest.mark.parametrize("vni", [1, 300])
def test_a_packet_between_nodes_grows_by_fifty_bytes(lab: Lab, vni: int) -> None:
    """The identifier of the tunnel is in each datagram; pods have a smaller MTU instead."""
    lab.up(manifest("ipv4", f"{{type: flannel, vni: {vni}}}"))
    a, c = lab.pod("a"), lab.pod("c")
    with sent_frames(lab, "worker") as frames:
        assert lab.ask(a, ("TCP", c["addresses"][0], 8080))[0].server
    tunnelled = [frame for frame in frames if frame[2]]
    assert tunnelled
    assert {size - inside for size, inside, _ in tunnelled} == {50}
    assert {identifier for *_, identifier in tunnelled} == {f"{vni:06x}"}
    assert link(lab, a, "eth0")["mtu"] == link(lab, c, "eth0")["mtu"] == 1450
    tunnel = link(lab, lab.place("nodes", "worker"), f"flannel.{vni}")
    assert (tunnel["mtu"], tunnel["linkinfo"]["info_data"]["id"]) == (1450, vni)


@pytest.mark.parametrize(("backend", "mtu"), [("host-gw", 1500), ("direct", 1450)])
def test_packets_to_nodes_of_the_same_subnet_are_routed(lab: Lab, backend: str, mtu: int) -> None:
    """Nothing is encapsulated; pods keep the MTU of the tunnel where there is one."""
    lab.up(manifest("ipv4", BACKENDS[backend]))
    a, c = lab.pod("a"), lab.pod("c")
    with sent_frames(lab, "worker") as frames:
        assert lab.ask(a, ("TCP", c["addresses"][0], 8080))[0].server
    assert frames
    assert not [frame for frame in frames if frame[2]]
    assert link(lab, a, "eth0")["mtu"] == mtu


def link(lab: Lab, place: Any, name: str) -> dict[str, Any]:
    (shown,) = json.loads(lab.inside(place, "ip", "-j", "-d", "link", "show", name))
    return dict(shown)


def test_a_damaged_tunnel_is_repaired(lab: Lab) -> None:
    """The agent, also a new one, replaces the entries and the link that others deleted."""
    lab.up(manifest("ipv4", BACKENDS["vxlan"]))
    node, a, c = lab.place("nodes", "worker"), lab.pod("a"), lab.pod("c")
    target = ("TCP", c["addresses"][0], 8080)
    (entry,) = [
        entry
        for entry in json.loads(lab.inside(node, "bridge", "-j", "fdb", "show", "dev", "flannel.1"))
        if entry["dst"] == lab.place("nodes", "worker2")["addresses"][0]
    ]
    for command in (
        f"bridge fdb delete {entry['mac']} dev flannel.1 dst {entry['dst']}",
        "ip route delete 10.244.2.0/24",
        "ip link delete flannel.1",
    ):
        lab.inside(node, *command.split())
        wait_for(lambda: lab.run("diff", status=None).status == 0, f"the repair after {command}")
        assert lab.ask(a, target)[0].server, command
    lab.kill("agent")
    lab.inside(node, "ip", "link", "delete", "flannel.1")
    wait_for(lambda: lab.run("diff", status=None).status == 0, "the repair by the new agent")
    assert lab.problems == []
