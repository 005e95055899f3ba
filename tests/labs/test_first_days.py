"""What one meets in the first days with a lab: changes that hold, rollouts that end well, and answers that say what is meant."""

from __future__ import annotations

import os
import signal

import pytest

from kubenetlab.lab.client import Client
from tests.clusters import ONE_NODE, deployment
from tests.labs.lab import Lab, run, wait_for

WEB = "/apis/apps/v1/namespaces/default/deployments/web"
AGENTS = """\
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agents}
spec:
  selector: {matchLabels: {app: agents}}
  template:
    metadata: {labels: {app: agents}ANNOTATIONS}
    spec:
      hostNetwork: true
      terminationGracePeriodSeconds: 1
      containers:
      - {name: main, image: IMAGE, ports: [{containerPort: 9100}]}
"""
BUILT_IN = AGENTS.replace("ANNOTATIONS", "").replace("IMAGE", 'agnhost, args: [netexec, "--http-port=9100"]')
REAL = AGENTS.replace("ANNOTATIONS", ', annotations: {kubenetlab.dev/real-commands: "true"}').replace(
    "IMAGE", 'python, command: [python3, -m, http.server, "9100"]'
)


def test_a_confirmed_change_outlives_the_agent(lab: Lab) -> None:
    """Killed as soon as it has answered, its successor knows of every change."""
    lab.up(ONE_NODE + deployment("web", 1))
    client = Client(lab.name)
    for replicas in (2, 3, 4):
        agent = lab.seen["agent_pid"]
        client.request("PUT", f"{WEB}/scale", {"spec": {"replicas": replicas}})
        os.kill(agent, signal.SIGKILL)
        assert client.get(WEB)["spec"]["replicas"] == replicas
    wait_for(lambda: len([pod for pod in lab.pods("web") if pod["ready"]]) == 4, "the pods")


@pytest.mark.parametrize("manifest", [BUILT_IN, REAL], ids=["built-in", "real"])
def test_the_nodes_port_is_free_for_the_next_pod(lab: Lab, manifest: str) -> None:
    """A DaemonSet in its node's network gets new pods again and again: none of them meets its predecessor's socket."""
    lab.up(ONE_NODE + manifest)
    for turn in range(5):
        lab.apply(manifest.replace("labels: {app: agents}", f"labels: {{app: agents, turn: t{turn}}}"))
        run("rollout", "status", "ds/agents", "--lab", lab.name)
    assert "address already in use" not in lab.run("get", "events").out.lower()
    (pod,) = lab.get("pods", "-l", "app=agents")["items"]
    assert pod["status"]["containerStatuses"][0]["restartCount"] == 0
