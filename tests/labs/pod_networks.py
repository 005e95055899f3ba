"""What the tests of CNI modes share: a cluster with three pods, and captures on the fabric."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kubenetlab.datapath.cni.conflist import DIRECTORIES
from tests.labs.lab import Lab
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
    if frame[23] == 17 and udp[2:4] == int(sys.argv[1]).to_bytes(2, "big"):
        frames.append((len(frame), 14 + int.from_bytes(inner[16:18], "big"), frame[46:49].hex()))
    else:
        frames.append((len(frame), len(frame), ""))
print(json.dumps(frames))
"""
"""Program that prints the IPv4 frames sent by a node until it reads a line.

Each is (size on the fabric, size of the packet inside as a frame of its own, VNI in hexadecimal).
"""


PLUGINS_ADVICE = (
    "CNI plugins are missing; on Debian and Ubuntu: apt-get install containernetworking-plugins"
)


def has_plugins(*names: str) -> bool:
    """Return True if the machine has some CNI plugins; by default those of the default list."""
    return all(
        any(Path(directory, name).is_file() for directory in DIRECTORIES)
        for name in names or ("bridge", "host-local", "portmap")
    )


def manifest(family: str, cni: str, fabric: str = "{}") -> str:
    """Return a cluster with pods a and b on one node, c on another one, and a Service for them."""
    pods = "".join(
        f"---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: web}}}}\n"
        f"spec: {{nodeName: {node}, containers: [{{name: main, image: agnhost, args: [netexec], "
        "ports: [{containerPort: 8080}]}]}\n"
        for name, node in (("a", "worker"), ("b", "worker"), ("c", "worker2"))
    )
    return (
        "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
        f"networking: {{ipFamily: {family}, cni: {cni}}}\nfabric: {fabric}\n"
        f"external: [{{name: outside, address: {OUTSIDE[family]}, ports: [8080]}}]\n{pods}"
        "---\napiVersion: v1\nkind: Service\nmetadata: {name: web}\n"
        "spec: {ipFamilyPolicy: PreferDualStack, selector: {app: web}, ports: [{port: 80, "
        "targetPort: 8080}]}\n"
    )


OUTSIDE = {"ipv4": "198.51.100.10", "ipv6": '"2001:db8:51:100::10"', "dual": "198.51.100.10"}


@contextmanager
def sent_frames(lab: Lab, node: str, port: int = 8472) -> Iterator[list[tuple[int, int, str]]]:
    """Yield a list that contains the frames sent by the node once the block has ended.

    port: UDP port of the tunnels.
    """
    frames: list[tuple[int, int, str]] = []
    netns = f"--net={lab.place('nodes', node)['netns']}"
    with subprocess.Popen(
        ["nsenter", netns, sys.executable, "-c", FRAME_SIZES, str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as capture:
        assert capture.stdout is not None
        assert capture.stdout.readline() == "ready\n"
        yield frames
        out, _ = capture.communicate("\n", timeout=patiently(10))
    frames += map(tuple, json.loads(out))


def link(lab: Lab, place: Any, name: str) -> dict[str, Any]:
    (shown,) = json.loads(lab.inside(place, "ip", "-j", "-d", "link", "show", name))
    return dict(shown)
