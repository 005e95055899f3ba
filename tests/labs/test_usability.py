"""First experiences with a lab: durable changes, clean rollouts, and helpful output."""

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
spec:
  template:
    spec:
      restartPolicy: Never
      containers: [{name: main, image: agnhost, args: [connect, "web:80"]}]
---
"""
POLICY = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny-all}
spec: {podSelector: {}, policyTypes: [Ingress]}
---
"""
NOT_ENFORCED = "not enforced by this lab, could change this result: NetworkPolicy deny-all"


def test_an_acknowledged_change_survives_a_kill_of_the_agent(lab: Lab) -> None:
    """The agent is killed right after its response; its successor knows every change."""
    lab.up(ONE_NODE + deployment("web", 1))
    client = Client(lab.name)
    for replicas in (2, 3, 4):
        agent = lab.inspected["agent_pid"]
        client.request("PUT", f"{WEB}/scale", {"spec": {"replicas": replicas}})
        os.kill(agent, signal.SIGKILL)
        assert client.get(WEB)["spec"]["replicas"] == replicas
    wait_for(lambda: len([pod for pod in lab.pods("web") if pod["ready"]]) == 4, "the pods")


@pytest.mark.parametrize("manifest", [BUILT_IN, REAL], ids=["built-in", "real"])
def test_a_new_pod_finds_the_port_of_its_node_free(lab: Lab, manifest: str) -> None:
    """The pods of a hostNetwork DaemonSet are replaced several times.

    No new pod conflicts with its predecessor's socket.
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


def test_output_names_the_lab_and_the_reasons(labs: Callable[[], Lab], tmp_path: Path) -> None:
    """Hints name the selected lab of several.

    Results name missing ports and policies that could change them. `list` counts completed pods.
    """
    lab, other_lab = labs(), labs()
    lab.up(
        ONE_NODE + pod("client") + deployment("web", 1) + service("web") + JOB + POLICY,
        "--policy",
        "none",
    )
    other_lab.up(ONE_NODE + pod("client"))
    lab_option = f" --lab {lab.name}"
    refused = lab.run(
        "ping", "client", "svc:web", "--tcp", "81", "--allow-unmodelled", "NetworkPolicy"
    )
    assert "refused, as promised: the Service has no port 81/TCP; it has 80/TCP" in refused.out
    assert refused.err == f"next: kubenetlab ping{lab_option}\n"
    assert (
        lab.run("get", "pod", "client").err
        == f"next: kubenetlab exec client{lab_option} -- ip addr\n"
    )
    assert (
        lab.run("scale", "deploy/web", "--replicas", "1").err
        == f"next: kubenetlab get pods -w{lab_option}\n"
    )

    table = tmp_path / "expect.yaml"
    table.write_text(
        "- {from: client, to: 'svc:web', port: 80, allowed: false}\n"
        "- {from: client, to: 'svc:web', port: 80, allowed: true}\n"
    )
    output = lab.run(
        "check", "-f", str(table), "--junit", str(tmp_path / "junit.xml"), status=1
    ).out.splitlines()
    assert output[1].strip() == NOT_ENFORCED
    assert output[-1].endswith("1 hold, 1 fail, 1 object not enforced")
    suite = ElementTree.parse(tmp_path / "junit.xml").getroot()
    first, _ = suite.iter("failure")
    assert (first.text or "").splitlines()[0::2] == [f"{table}:1", NOT_ENFORCED]
    assert "1 object not enforced" in lab.run("check", status=1).out

    (listed,) = [entry for entry in run("list", "-o", "json").json if entry["name"] == lab.name]
    assert listed["ready"] == listed["pods"]


def test_forms_of_kubectl_are_accepted(lab: Lab) -> None:
    """`exec -it`, output names as arguments, short names of kept kinds, and workloads.

    Workloads stand for their pods. Namespaces are sorted.
    """
    late = pod("a", meta=", namespace: aaa")
    lab.up(
        ONE_NODE + pod("client") + deployment("web", 1) + service("web") + JOB + POLICY + late,
        "--policy",
        "none",
    )
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


def test_logs_cover_previous_and_following_runs(lab: Lab) -> None:
    """-p prints the run before the last restart.

    -f follows until the container ends. Both work for processes and for built-in programs.
    """
    lab.run("up", "-f", "-", stdin=ONE_NODE + pod("client") + CRASHING, status=None)
    wait_for(lambda: lab.run("logs", "crashing", "-p", status=None).status == 0, "a former run")
    current, previous = (
        lab.run("logs", "crashing", *words).out.splitlines() for words in ((), ("-p",))
    )
    assert (len(current), len(previous)) == (1, 1)
    assert current != previous
    assert "previous terminated container" in lab.run("logs", "client", "-p", status=1).err
    words = [*COMMAND, "logs", "-f", "client", "--lab", lab.name]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        first_lines = [following.stdout.readline(), following.stdout.readline()]
        assert ["Started HTTP" in first_lines[0], "Started UDP" in first_lines[1]] == [True, True]
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


def test_ctrl_c_ends_following_a_log(lab: Lab) -> None:
    """The command ends without an error message."""
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
