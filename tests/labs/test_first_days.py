"""What one meets in the first days with a lab: changes that hold, rollouts that end well, and
answers that say what is meant.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from kubenetlab.lab.client import Client
from tests.clusters import ONE_NODE, deployment, pod, service
from tests.labs.lab import COMMAND, Lab, run, wait_for

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
BUILT_IN = AGENTS.replace("ANNOTATIONS", "").replace(
    "IMAGE", 'agnhost, args: [netexec, "--http-port=9100"]'
)
REAL = AGENTS.replace(
    "ANNOTATIONS", ', annotations: {kubenetlab.dev/real-commands: "true"}'
).replace("IMAGE", 'python, command: [python3, -m, http.server, "9100"]')
JOB = """\
apiVersion: batch/v1
kind: Job
metadata: {name: once}
spec: {template: {spec: {restartPolicy: Never, containers: [{name: main, image: agnhost, args: [connect, "web:80"]}]}}}
---
"""
POLICY = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny-all}
spec: {podSelector: {}, policyTypes: [Ingress]}
---
"""
REMARK = "not enforced by this lab, could change this result: NetworkPolicy deny-all"


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
    """A DaemonSet in its node's network gets new pods again and again: none of them meets its
    predecessor's socket.
    """
    lab.up(ONE_NODE + manifest)
    for turn in range(5):
        lab.apply(
            manifest.replace("labels: {app: agents}", f"labels: {{app: agents, turn: t{turn}}}")
        )
        run("rollout", "status", "ds/agents", "--lab", lab.name)
    assert "address already in use" not in lab.run("get", "events").out.lower()
    (pod,) = lab.get("pods", "-l", "app=agents")["items"]
    assert pod["status"]["containerStatuses"][0]["restartCount"] == 0


def test_answers_say_what_is_meant(labs: Callable[[], Lab], tmp_path: Path) -> None:
    """Of two labs the one that was asked, in each hint; a port that is not there; policies that
    would change the answer; completed pods.
    """
    lab, other = labs(), labs()
    lab.up(ONE_NODE + pod("client") + deployment("web", 1) + service("web") + JOB + POLICY)
    other.up(ONE_NODE + pod("client"))
    here = f" --lab {lab.name}"
    refused = lab.run(
        "ping", "client", "svc:web", "--tcp", "81", "--allow-unmodelled", "NetworkPolicy"
    )
    assert "refused, as promised: the Service has no port 81/TCP; it has 80/TCP" in refused.out
    assert refused.err == f"next: kubenetlab ping{here}\n"
    assert lab.run("get", "pod", "client").err == f"next: kubenetlab exec client{here} -- ip addr\n"
    assert (
        lab.run("scale", "deploy/web", "--replicas", "1").err
        == f"next: kubenetlab get pods -w{here}\n"
    )

    table = tmp_path / "expect.yaml"
    table.write_text(
        "- {from: client, to: 'svc:web', port: 80, allowed: false}\n- {from: client, to: 'svc:web', port: 80, allowed: true}\n"
    )
    said = lab.run(
        "check", "-f", str(table), "--junit", str(tmp_path / "junit.xml"), status=1
    ).out.splitlines()
    assert said[1].strip() == REMARK
    assert said[-1].endswith("1 hold, 1 fail, 1 object not enforced")
    suite = ElementTree.parse(tmp_path / "junit.xml").getroot()
    first, _ = suite.iter("failure")
    assert (first.text or "").splitlines()[0::2] == [f"{table}:1", REMARK]
    assert "1 object not enforced" in lab.run("check", status=1).out

    (listed,) = [entry for entry in run("list", "-o", "json").json if entry["name"] == lab.name]
    assert listed["ready"] == listed["pods"]


def test_kubectls_habits_are_understood(lab: Lab) -> None:
    """exec -it, names to be taken up again, short names of kinds that are only kept, workloads for
    their pods; namespaces in order.
    """
    late = pod("a", meta=", namespace: aaa")
    lab.up(ONE_NODE + pod("client") + deployment("web", 1) + service("web") + JOB + POLICY + late)
    assert lab.run("exec", "-it", "deploy/web", "--", "hostname").out.startswith("web-")
    assert lab.run("get", "deploy,netpol", "-o", "name").out.splitlines() == [
        "deployment.apps/web",
        "networkpolicy.networking.k8s.io/deny-all",
    ]
    assert lab.run("get", "netpol", "-l", "app=web", "-o", "name").out == ""
    (name,) = lab.run("get", "deployment.apps/web", "-o", "name").out.split()
    assert (
        lab.run("get", name, "networkpolicy.networking.k8s.io/deny-all").out.count(
            "\ndeployment.apps/web "
        )
        == 1
    )
    namespaces = [line.split()[0] for line in lab.run("get", "pods", "-A").out.splitlines()[1:]]
    assert namespaces == sorted(namespaces)
    assert namespaces[0] == "aaa"
    assert lab.run("logs", "job/once").status == 0
    lab.run("delete", "netpol", "deny-all")
    assert lab.run("get", "netpol").out == "nothing found in namespace default\n"
    assert 'there is no kind "netpool"' in lab.run("get", "netpool", status=2).err


CRASHING = """\
apiVersion: v1
kind: Pod
metadata: {name: crashing, annotations: {kubenetlab.dev/real-commands: "true"}}
spec: {containers: [{name: main, image: x, command: [sh, -c, "date +%N; exit 1"]}]}
---
"""


def test_logs_of_former_and_coming_runs(lab: Lab) -> None:
    """-p is the run before the last restart, of processes and of stand-ins; -f goes on until the
    container ends.
    """
    lab.run("up", "-f", "-", given=ONE_NODE + pod("client") + CRASHING, status=None)
    wait_for(lambda: lab.run("logs", "crashing", "-p", status=None).status == 0, "a former run")
    now, before = (lab.run("logs", "crashing", *words).out.splitlines() for words in ((), ("-p",)))
    assert (len(now), len(before)) == (1, 1)
    assert now != before
    assert "previous terminated container" in lab.run("logs", "client", "-p", status=1).err
    words = [*COMMAND, "logs", "-f", "client", "--lab", lab.name]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        told = [following.stdout.readline(), following.stdout.readline()]
        assert ["Started HTTP" in told[0], "Started UDP" in told[1]] == [True, True]
        lab.run("ping", "node:control-plane", "client", "--http", "/hostname?one", "--tcp", "8080")
        assert "GET /hostname?one" in following.stdout.readline()
        lab.run(
            "ping",
            "node:control-plane",
            "client",
            "--http",
            "/exit?code=3",
            "--tcp",
            "8080",
            status=None,
        )
        rest = following.communicate(timeout=30)[0]
    assert following.returncode == 0
    assert "Will exit with 3" in rest
    assert rest in lab.run("logs", "client", "-p").out


def test_following_a_log_ends_with_ctrl_c(lab: Lab) -> None:
    """As any command does, and without a word."""
    lab.up(ONE_NODE + pod("client"))
    words = [*COMMAND, "logs", "-f", "client", "--lab", lab.name]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as following:
        assert following.stdout is not None
        assert "Started HTTP" in following.stdout.readline()
        following.send_signal(signal.SIGINT)
        assert following.communicate(timeout=30)[1].strip() == ""
    assert following.returncode == 130
