"""Functions for tests of CNI modes: a cluster with three pods, and captures on the fabric."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kubenetlab.datapath.cni.conflist import DIRECTORIES
from kubenetlab.kernel.processes.cni_plugins import plugin_path
from tests.labs.frames import captured_frames, tunnelled
from tests.labs.lab import Lab

PLUGINS_ADVICE = (
    "CNI plugins are missing; on Debian and Ubuntu: apt-get install containernetworking-plugins"
)


def has_plugins(*names: str) -> bool:
    """Return True if the machine has some CNI plugins; by default those of the default list."""
    needed = names or ("bridge", "host-local", "portmap")
    return all(plugin_path(name, DIRECTORIES) is not None for name in needed)


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
    """Yield a list that contains the IPv4 frames sent by the node once the block has ended.

    Each is (size on the fabric, size of the packet inside as a frame of its own, VNI in
    hexadecimal).
    port: UDP port of the tunnels.
    """
    frames: list[tuple[int, int, str]] = []
    with captured_frames(lab, node) as captured:
        yield frames
    for frame in captured:
        if not frame.is_sent or frame.version != 4:
            continue
        is_tunnelled = bool(tunnelled([frame], port))
        size = frame.inner.size if is_tunnelled else len(frame.data)
        frames.append((len(frame.data), size, f"{frame.vni:06x}" if is_tunnelled else ""))


def link(lab: Lab, place: Any, name: str) -> dict[str, Any]:
    (shown,) = json.loads(lab.inside(place, "ip", "-j", "-d", "link", "show", name))
    return dict(shown)
