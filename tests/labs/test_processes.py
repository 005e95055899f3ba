"""Processes of a lab: killed processes, their replacements, and removal without leftovers."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import time
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest

from kubenetlab.lab.messages.init import ListProcesses
from kubenetlab.lab.transport.frames import encode
from tests.clusters import deployment, pod, replaced
from tests.labs.lab import Lab, descendants, title_of, wait_for
from tests.labs.web_lab import MANIFEST, kernel_state, rule_generations, web_answers

# --- killed processes ---


def test_a_killed_agent_changes_nothing(lab: Lab) -> None:
    """The next agent adopts pods, addresses, rules and listeners.

    No packet is lost, and nothing is written.
    """
    lab.up(MANIFEST)
    before, generation, old_agent = (
        kernel_state(lab),
        rule_generations(lab),
        lab.inspected["agent_pid"],
    )
    client, address = lab.pod("client"), lab.service("web")["cluster_ips"][0]
    for _ in range(3):
        os.kill(lab.inspected["agent_pid"], signal.SIGKILL)
        assert all(answer.server for answer in lab.ask(client, *[("TCP", address, 80)] * 50))
    assert lab.inspected["agent_pid"] != old_agent
    assert kernel_state(lab) == before
    assert rule_generations(lab) == generation
    assert lab.run("diff").out.strip() == "the kernel is as it should be"
    lab.run("scale", "deployment", "web", "--replicas", "5")
    wait_for(lambda: len(lab.service("web")["endpoints"]) == 5, "the new agent to work")


def test_a_killed_agent_of_a_large_lab_is_replaced(lab: Lab) -> None:
    """The next agent asks again to be notified of each of the namespaces."""
    lab.up(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec:\n"
        "  replicas: 320\n  selector: {matchLabels: {app: web}}\n  template:\n"
        "    metadata: {labels: {app: web}}\n"
        "    spec: {containers: [{name: web, image: agnhost, args: [netexec]}]}\n",
        "--nodes",
        "3",
    )
    old_agent = lab.inspected["agent_pid"]
    os.kill(old_agent, signal.SIGKILL)
    lab.run("scale", "deployment", "web", "--replicas", "321")
    assert lab.inspected["agent_pid"] == lab.inspected["agent_pid"] != old_agent
    ready = "jsonpath={.status.readyReplicas}"
    wait_for(
        lambda: lab.run("get", "deployment", "web", "-o", ready).out.strip() == "321",
        "the new agent to add a pod",
    )


@pytest.mark.parametrize("role", ["node-agent-0", "worker-0", "worker-1", "worker-2"])
def test_killed_processes_of_a_lab_are_replaced(lab: Lab, role: str) -> None:
    """Rules stay in place.

    A new app worker reopens the sockets in the same pods.
    """
    lab.up(MANIFEST)
    pods = [(pod["name"], pod["pid"], pod["addresses"]) for pod in lab.inspected["pods"]]
    victim = lab.kill(role)
    wait_for(lambda: web_answers(lab), "all pods to answer again")
    wait_for(lambda: all(pod["ready"] for pod in lab.inspected["pods"]), "all pods to be ready")
    assert [(pod["name"], pod["pid"], pod["addresses"]) for pod in lab.inspected["pods"]] == pods
    (successor,) = lab.pids(f"kubenetlab {lab.name} {role}")
    assert successor != victim


def test_a_killed_sandbox_is_recreated(lab: Lab) -> None:
    """As with a kubelet, the same pod gets a new sandbox with a new address."""
    lab.up(MANIFEST)
    pod = lab.pod("web")
    (victim,) = lab.pids(f"{lab.name}/{pod['sandbox']}")
    os.kill(victim, signal.SIGKILL)
    wait_for(
        lambda: (
            lab.pod(pod["name"])["pid"] not in (0, None, pod["pid"])
            and lab.pod(pod["name"])["ready"]
        ),
        "a new sandbox",
    )
    assert lab.pod(pod["name"])["addresses"] != pod["addresses"]
    assert lab.get("pod", pod["name"])["status"]["containerStatuses"][0]["ready"]
    wait_for(lambda: web_answers(lab), "all pods to answer again")
    assert lab.run("diff").out.strip() == "the kernel is as it should be"


def test_a_killed_node_is_recreated(lab: Lab) -> None:
    """The links of all its pods are recreated, too."""
    lab.up(MANIFEST)
    victim = next(pid for pid in lab.pids() if title_of(pid) == f"{lab.name}/node/worker")
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: victim not in lab.pids(), "the end of the process")
    wait_for(lambda: web_answers(lab), "all pods to answer again")
    wait_for(lambda: lab.run("ping", status=None).status == 0, "the whole matrix")


def test_a_killed_node_is_recreated_with_its_host_network_pods(lab: Lab) -> None:
    """Probes are sent from the new node, including those of manifests."""
    host = pod("host", spec=", hostNetwork: true, nodeName: worker").replace(
        "args: [netexec]", "args: [netexec, --http-port=9000]"
    )
    lab.up(
        host
        + replaced(
            MANIFEST,
            (
                "        ports:",
                "        readinessProbe: {httpGet: {path: /healthz, port: http}, "
                "periodSeconds: 1}\n        ports:",
            ),
        )
    )
    before = lab.place("nodes", "worker")["pid"]
    (victim,) = [pid for pid in lab.pids() if title_of(pid) == f"{lab.name}/node/worker"]
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: lab.place("nodes", "worker")["pid"] not in (0, before), "the new node")
    wait_for(lambda: all(pod["ready"] for pod in lab.inspected["pods"]), "all pods to be ready")
    wait_for(lambda: lab.run("diff", status=None).status == 0, "the kernel to be as desired")
    assert web_answers(lab)
    name = lab.pod("web")["name"]
    (node_of_web,) = [pod["node"] for pod in lab.inspected["pods"] if pod["name"] == name]
    assert node_of_web in ("worker", "worker2")
    lab.run("exec", "host", "--", "true")
    lab.run("ping")


def kill_switch(lab: Lab) -> None:
    (victim,) = lab.pids(f"{lab.name}/fabric/switch")
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: victim not in lab.pids(), "the end of the process")


def test_a_killed_switch_is_recreated(lab: Lab) -> None:
    """All links to it are recreated, with their addresses and routes.

    The test repeats the kill, because the kernel removes the old links asynchronously.
    """
    lab.up(MANIFEST)
    for _ in range(5):
        kill_switch(lab)
        wait_for(lambda: lab.run("ping", status=None).status == 0, "the whole matrix")
    assert lab.run("diff").status == 0


def test_an_object_that_the_kernel_rejects_delays_only_its_pod(lab: Lab) -> None:
    """Another link has the name of the next pod's link.

    That pod waits, with a report, until the name is free. Other pods are created and deleted
    meanwhile.
    """
    lab.up(MANIFEST)
    number = (
        max(
            int(pod["host_ifname"].removeprefix("veth"))
            for pod in lab.inspected["pods"]
            if pod["node"] == "worker" and pod["host_ifname"]
        )
        + 1
    )
    node = lab.place("nodes", "worker")
    lab.inside(node, "ip", "link", "add", f"veth{number}", "type", "bridge")
    errors = lab.apply(LATE, "--timeout", "1s", status=1).err
    assert "kernel: File exists (EEXIST)      wanted by: cni bridge, for Pod default/late" in errors
    lab.run("delete", "pod", "client")
    assert web_answers_from_node(lab)
    lab.inside(node, "ip", "link", "del", f"veth{number}")
    wait_for(lambda: lab.pod("late")["ready"], "the late pod")
    assert lab.run("diff").status == 0


def web_answers_from_node(lab: Lab) -> bool:
    """Return True if a node gets answers from the Service web."""
    return all(
        answer.server
        for answer in lab.ask(
            lab.place("nodes", "worker"), *[("TCP", lab.service("web")["cluster_ips"][0], 80)] * 8
        )
    )


def test_a_killed_init_ends_the_lab(lab: Lab) -> None:
    """The kernel removes processes, namespaces and sockets.

    The next command removes dangling names.
    """
    lab.up(MANIFEST)
    inspected = lab.inspected
    processes = descendants(inspected["init_pid"])
    assert len(processes) > 10
    os.kill(inspected["init_pid"], signal.SIGKILL)
    wait_for(
        lambda: not any(title_of(pid) for pid in processes), "the end of all processes", within_s=5
    )
    assert not lab.live_netns_names()
    assert f"no lab {lab.name} is up" in lab.run("get", "pods", status=1).err
    assert lab.leftovers == [str(lab.directory)]
    lab.up(MANIFEST)
    assert web_answers(lab)


def test_down_removes_everything_and_can_be_repeated(lab: Lab) -> None:
    """It removes processes, the run directory and names; a missing lab is no error."""
    lab.up(MANIFEST)
    processes = descendants(lab.inspected["init_pid"])
    names = sorted(Path("/run/netns").glob(f"{lab.name}_*"))
    assert len(names) == len(lab.inspected["pods"]) + 3 + 1 + 3
    assert "is down" in lab.run("down").out
    assert not any(title_of(pid) for pid in processes)
    assert not any(os.path.lexists(name) for name in names)
    assert not lab.directory.exists()
    assert lab.run("down").status == 0


def test_only_the_owner_can_use_the_api(lab: Lab) -> None:
    """The modes are 0600 for the socket and 0700 for its directory.

    In addition, the server checks the peer credentials.
    """
    lab.up(MANIFEST)
    path = lab.directory / "api.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(lab.directory.stat().st_mode) == 0o700
    # The modes would keep other users out. They are opened here to test the check of credentials.
    lab.directory.chmod(0o755)
    path.chmod(0o666)
    stranger = subprocess.run(
        ["/usr/bin/python3", "-c", STRANGER, str(path)],
        user=65534,
        group=65534,
        extra_groups=[],
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
        cwd="/",
    )
    assert stranger.stdout == "connected, and hung up on\n"
    assert lab.run("get", "pods").status == 0


STRANGER = """
import socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
try:
    connection.sendall(b"GET /api/v1/pods HTTP/1.1\\r\\nHost: lab\\r\\n\\r\\n")
    print("connected, and", connection.recv(100).decode() or "hung up on")
except (BrokenPipeError, ConnectionResetError):
    print("connected, and hung up on")
"""


def test_a_client_of_init_that_disconnects_does_no_harm(lab: Lab) -> None:
    """It sends many requests and reads no reply, like an agent that is killed meanwhile."""
    lab.up(MANIFEST)
    for _ in range(3):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(lab.directory / "init.sock"))
            client.sendall(encode(ListProcesses(), 1) * 5000)
    assert lab.run("get", "pods").status == 0
    assert web_answers(lab)


SHORT_PAUSES, LONG_PAUSE_S = 4, 1.6
LATE = pod("late", spec=", nodeName: worker")


def test_failed_operations_are_repeated_with_increasing_pauses(lab: Lab) -> None:
    """Another link has the name of a new pod's link.

    Once it is removed, the pod is created without any other event.
    """
    lab.up(MANIFEST)
    node = lab.place("nodes", "worker")
    taken = (
        max(
            int(pod["host_ifname"].removeprefix("veth"))
            for pod in lab.inspected["pods"]
            if pod["host_ifname"]
        )
        + 1
    )
    lab.inside(node, "ip", "link", "add", f"veth{taken}", "type", "bridge")
    lab.apply(LATE, "--no-wait")

    def attempts() -> list[datetime]:
        lines = (lab.directory / "log").read_text().splitlines()
        return [
            datetime.fromisoformat(line.split()[0])
            for line in lines
            if "pod/default/late/" in line and "cannot add veth" in line
        ]

    def pauses() -> list[float]:
        return [(later - earlier).total_seconds() for earlier, later in pairwise(attempts())]

    wait_for(lambda: max(pauses(), default=0) > LONG_PAUSE_S, "a long pause")
    assert len([pause for pause in pauses() if pause < LONG_PAUSE_S / 2]) >= SHORT_PAUSES
    lab.inside(node, "ip", "link", "del", f"veth{taken}")
    wait_for(lambda: lab.pod("late")["ready"], "the pod")


def test_no_test_sleeps() -> None:
    """All tests wait for a condition with a deadline."""
    for path in Path(__file__).parents[1].rglob("test_*.py"):
        assert "time.sle" + "ep(" not in path.read_text(), path
    assert time.monotonic() > 0


def test_only_a_pod_keeps_its_network_namespace_open(lab: Lab) -> None:
    """No process keeps descriptors of preallocated namespaces; a node agent has those of its nodes.

    A deleted pod disappears with its link.
    """
    lab.up(deployment(replicas=120))
    for pid in lab.pids(f"kubenetlab {lab.name}"):
        targets = [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.is_symlink()]
        nodes = len(lab.inspected["nodes"]) if "node-agent" in title_of(pid) else 0
        assert sum(name.startswith("net:") for name in targets) <= 2 + nodes, title_of(pid)
    lab.run("delete", "deployment", "web")
    remaining_links = [
        pod["host_ifname"]
        for pod in lab.inspected["pods"]
        if pod["node"] == "worker" and pod["host_ifname"]
    ]
    wait_for(
        lambda: (
            lab.run("exec", "node:worker", "--", "ip", "-br", "link").out.count("veth")
            == len(remaining_links)
        ),
        "the last link to go",
    )
