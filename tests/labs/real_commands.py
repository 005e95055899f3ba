"""Pods that run commands of this machine: manifests, and what tests read about them."""

from __future__ import annotations

from typing import Any

from tests.clusters import service
from tests.labs.lab import Lab

ONE_NODE = (
    "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
    "nodes: [{role: control-plane}]\nexternal: []\n---\n"
)


SERVES = """\
  - name: main
    image: python
    command: [python3, -m, http.server, "8000"]
    ports: [{containerPort: 8000}]
    readinessProbe: {httpGet: {port: 8000}}
    livenessProbe:
      exec: {command: [test, "!", -e, /tmp/ill]}
      periodSeconds: 1
      failureThreshold: 1
"""
SERVICE = service("web", target=8000)


def pod(
    name: str,
    containers: str,
    spec: str = "",
    annotation: str = ", annotations: {kubenetlab.dev/real-commands: 'true'}",
) -> str:
    return (
        "apiVersion: v1\nkind: Pod\n"
        f"metadata: {{name: {name}, labels: {{app: {name}}}{annotation}}}\n"
        f"spec:\n  containers:\n{containers}{spec}---\n"
    )


def status(lab: Lab, name: str) -> Any:
    """Return the status of the first container."""
    return lab.get("pod", name)["status"]["containerStatuses"][0]


def log_lines(lab: Lab, name: str, *words: str) -> list[str]:
    return lab.run("logs", name, *words).out.splitlines()


def probe_files(lab: Lab) -> list[str]:
    """Return the files that hold what probes print."""
    return [path.name for path in lab.directory.iterdir() if ".probe" in path.name]
