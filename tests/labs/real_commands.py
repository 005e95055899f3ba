"""Pods that run commands of this machine: manifests and what tests ask about them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.labs.lab import Lab

ONE_NODE = "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nnodes: [{role: control-plane}]\nexternal: []\n---\n"


def pod(
    name: str,
    containers: str,
    spec: str = "",
    annotation: str = ", annotations: {kubenetlab.dev/real-commands: 'true'}",
) -> str:
    return f"apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}{annotation}}}\nspec:\n  containers:\n{containers}{spec}---\n"


def status(lab: Lab, name: str) -> Any:
    """The first container's status."""
    return lab.get("pod", name)["status"]["containerStatuses"][0]


def said(lab: Lab, name: str, *words: str) -> list[str]:
    return lab.run("logs", name, *words).out.splitlines()


SERVES = """\
  - name: main
    image: python
    command: [python3, -m, http.server, "8000"]
    ports: [{containerPort: 8000}]
    readinessProbe: {httpGet: {port: 8000}}
    livenessProbe: {exec: {command: [test, "!", -e, /tmp/ill]}, periodSeconds: 1, failureThreshold: 1}
"""


SERVICE = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {selector: {app: web}, ports: [{port: 80, targetPort: 8000}]}\n---\n"


SERVES = """\
  - name: main
    image: python
    command: [python3, -m, http.server, "8000"]
    ports: [{containerPort: 8000}]
    readinessProbe: {httpGet: {port: 8000}}
    livenessProbe: {exec: {command: [test, "!", -e, /tmp/ill]}, periodSeconds: 1, failureThreshold: 1}
"""


SERVICE = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {selector: {app: web}, ports: [{port: 80, targetPort: 8000}]}\n---\n"


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def probe_files(lab: Lab) -> list[str]:
    """Return the files that hold what probes print."""
    return [path.name for path in lab.directory.iterdir() if ".probe" in path.name]
