"""Configuration lists, plugins made of shell scripts, and what plugins keep on nodes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kubenetlab.datapath.cni.conflist import DIRECTORIES
from tests.labs.lab import Lab
from tests.labs.pod_networks import OUTSIDE, PLUGINS_ADVICE, has_plugins

HOST_LOCAL = {"type": "host-local", "ranges": [[{"subnet": "{{.PodCIDR}}"}]]}


needs_plugins = pytest.mark.skipif(not has_plugins(), reason=PLUGINS_ADVICE)


def pods(*names: tuple[str, str], **fields: Any) -> str:
    """Return manifests of pods: (name, node) of each; fields of the container."""
    container = {"name": "main", "image": "agnhost", "args": ["netexec"]}
    container |= {"ports": [{"containerPort": 8080}]} | fields
    return "".join(
        "---\napiVersion: v1\nkind: Pod\n"
        f"metadata: {{name: {name}, labels: {{app: web}}}}\n"
        f"spec: {{nodeName: {node}, containers: [{json.dumps(container)}]}}\n"
        for name, node in names
    )


def cluster(cni: object, family: str = "ipv4") -> str:
    return (
        "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
        f"networking: {{ipFamily: {family}, cni: {json.dumps(cni)}}}\n"
        f"external: [{{name: outside, address: {OUTSIDE[family]}, ports: [8080]}}]\n"
    )


THREE = pods(("a", "worker"), ("b", "worker"), ("c", "worker2"))
SERVICE = (
    "---\napiVersion: v1\nkind: Service\nmetadata: {name: web}\n"
    "spec: {ipFamilyPolicy: PreferDualStack, selector: {app: web},"
    " ports: [{port: 80, targetPort: 8080}]}\n"
)


def configuration(*plugins: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return the mode with a configuration list."""
    document = {"cniVersion": "1.0.0", "name": "net", "plugins": list(plugins)}
    return {"type": "conflist", "conflist": document} | fields


BRIDGE = {"type": "bridge", "isGateway": True, "hairpinMode": True, "ipam": HOST_LOCAL}
PTP = configuration(
    {"type": "ptp", "ipam": HOST_LOCAL | {"routes": [{"dst": "0.0.0.0/0"}]}},
    {"type": "tuning", "sysctl": {"net.ipv4.conf.eth0.rp_filter": "2"}},
)


def kept(lab: Lab, kind: str = "results") -> list[str]:
    """Return the names of files that plugins keep on all nodes: results, or addresses."""
    folder = {"results": "results", "addresses": "networks/*"}[kind]
    paths = lab.directory.glob(f"files/*/var/lib/cni/{folder}/*")
    return sorted(path.name for path in paths if path.name[0].isalnum() and path.name != "lock")


def leases(lab: Lab) -> list[str]:
    """Return the addresses that host-local has assigned."""
    return [name for name in kept(lab, "addresses") if not name.startswith("last_reserved")]


def plugin(folder: Path, text: str, name: str = "own") -> dict[str, Any]:
    """Make a plugin from a shell script; return a mode with it."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return configuration({"type": name}, binDirs=[str(folder), *DIRECTORIES])


def failure(lab: Lab, pod: str) -> str:
    """Return the message of the latest event FailedCreatePodSandBox of a pod."""
    events = [
        event["message"]
        for event in lab.get("events")["items"]
        if event["reason"] == "FailedCreatePodSandBox" and event["involvedObject"]["name"] == pod
    ]
    return events[-1] if events else ""


def log_of(lab: Lab) -> str:
    return (lab.directory / "log").read_text()


ERROR = """echo '{"code": 7, "msg": "no such bridge", "details": "br7"}'; exit 1"""
