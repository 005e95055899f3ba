"""A lab's processes: who may die, what stays, what goes, and that nothing is left."""

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
from typing import Any

import pytest

from kubenetlab.lab.messages.init import ListProcesses
from kubenetlab.lab.transport.frames import encode
from tests.clusters import deployment, replaced
from tests.labs.lab import Lab, descendants, title_of, wait_for

MANIFEST = (
    """\
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  containers: [{name: main, image: agnhost, args: [netexec]}]
---
"""
    + deployment(replicas=4)
    + """\
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: http}]}
"""
)


def kernel_of(lab: Lab) -> dict[str, Any]:
    """What the kernel holds of a lab, in the kernel's own words: links, addresses, routes, rules,
    listeners, pause processes.
    """
    seen = lab.seen
    places = {
        place["sandbox"]: place for place in (*seen["nodes"], *seen["pods"], *seen["external"])
    }
    commands = (
        ("ip", "-o", "addr"),
        ("ip", "route"),
        ("nft", "-a", "list", "ruleset"),
        ("ss", "-Hlntu"),
    )
    return {
        name: (
            place["pid"],
            *(_sorted_without_counters(lab.inside(place, *command)) for command in commands),
        )
        for name, place in places.items()
    }


def _sorted_without_counters(text: str) -> list[str]:
    return sorted(" ".join(line.split()) for line in text.splitlines())


def generations(lab: Lab) -> dict[str, str]:
    """Every node's ruleset generation: each transaction raises it."""
    found = {}
    for node in lab.seen["nodes"]:
        with subprocess.Popen(
            ["nsenter", f"--net={node['netns']}", "nft", "monitor"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as watching:
            watching.kill()
        found[node["name"]] = lab.inside(node, "python3", "-S", "-c", GENERATION)
    return found


GENERATION = """
import socket, struct
s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
s.send(struct.pack("=IHHII", 20, 10 << 8 | 16, 1, 1, 0) + struct.pack("=BBH", 0, 0, 0))
print(struct.unpack_from(">I", s.recv(4096), 24)[0])
"""


def web_answers(lab: Lab) -> bool:
    client, address = lab.pod("client"), lab.service("web")["cluster_ips"][0]
    answers = lab.ask(client, *[("TCP", address, 80)] * 20)
    return all(
        answer.who.startswith("web-") and answer.seen[0] == client["addresses"][0]
        for answer in answers
    )


# --- deaths ---


def test_a_killed_agent_leaves_everything_as_it_is(lab: Lab) -> None:
    """The next one adopts what it finds: the same pods, addresses, rules, listeners; no packet is
    lost, nothing is written.
    """
    lab.up(MANIFEST)
    before, written, old = kernel_of(lab), generations(lab), lab.seen["agent_pid"]
    client, address = lab.pod("client"), lab.service("web")["cluster_ips"][0]
    for _ in range(3):
        os.kill(lab.seen["agent_pid"], signal.SIGKILL)
        assert all(answer.who for answer in lab.ask(client, *[("TCP", address, 80)] * 50))
    assert lab.seen["agent_pid"] != old
    assert kernel_of(lab) == before
    assert generations(lab) == written
    assert lab.run("diff").out.strip() == "the kernel is as it should be"
    lab.run("scale", "deployment", "web", "--replicas", "5")
    wait_for(lambda: len(lab.service("web")["endpoints"]) == 5, "the new agent to work")


@pytest.mark.parametrize("role", ["node-agent-0", "worker-0", "worker-1", "worker-2"])
def test_killed_helpers_come_back(lab: Lab, role: str) -> None:
    """Rules stay whoever dies; an app worker's sockets are opened anew, in the same pods."""
    lab.up(MANIFEST)
    pods = [(pod["name"], pod["pid"], pod["addresses"]) for pod in lab.seen["pods"]]
    victim = lab.kill(role)
    wait_for(lambda: web_answers(lab), "all pods to answer again")
    wait_for(lambda: all(pod["ready"] for pod in lab.seen["pods"]), "all pods to be ready")
    assert [(pod["name"], pod["pid"], pod["addresses"]) for pod in lab.seen["pods"]] == pods
    (successor,) = lab.pids(f"kubenetlab {lab.name} {role}")
    assert successor != victim


def test_a_killed_sandbox_is_made_again(lab: Lab) -> None:
    """As the kubelet does when a pause container dies: the same pod, with a new sandbox, and so
    with a new address.
    """
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


def test_a_killed_node_is_made_again(lab: Lab) -> None:
    """With all its pods' links: somebody killed the pause process of a whole node."""
    lab.up(MANIFEST)
    victim = next(pid for pid in lab.pids() if title_of(pid) == f"{lab.name}/node/worker")
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: victim not in lab.pids(), "its death")
    wait_for(lambda: web_answers(lab), "all pods to answer again")
    wait_for(lambda: lab.run("ping", status=None).status == 0, "the whole matrix")


def test_a_killed_node_with_pods_in_its_own_network(lab: Lab) -> None:
    """They go with it and come back with it; probes are asked from the new node, also those that
    manifests wrote.
    """
    host = "apiVersion: v1\nkind: Pod\nmetadata: {name: host}\nspec: {hostNetwork: true, nodeName: worker, containers: [{name: main, image: agnhost, args: [netexec, --http-port=9000]}]}\n---\n"
    lab.up(
        host
        + replaced(
            MANIFEST,
            (
                "        ports:",
                "        readinessProbe: {httpGet: {path: /healthz, port: http}, periodSeconds: 1}\n        ports:",
            ),
        )
    )
    before = lab.place("nodes", "worker")["pid"]
    (victim,) = [pid for pid in lab.pids() if title_of(pid) == f"{lab.name}/node/worker"]
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: lab.place("nodes", "worker")["pid"] not in (0, before), "the new node")
    wait_for(lambda: all(pod["ready"] for pod in lab.seen["pods"]), "all pods to be ready")
    wait_for(lambda: lab.run("diff", status=None).status == 0, "everything to be as it should be")
    assert web_answers(lab)
    name = lab.pod("web")["name"]
    (deployment,) = [pod["node"] for pod in lab.seen["pods"] if pod["name"] == name]
    assert deployment in ("worker", "worker2")
    lab.run("exec", "host", "--", "true")
    lab.run("ping")


def kill_switch(lab: Lab) -> None:
    (victim,) = lab.pids(f"{lab.name}/fabric/switch")
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: victim not in lab.pids(), "its death")


def test_a_killed_switch_is_made_again(lab: Lab) -> None:
    """With everybody's links to it, and what stands on those; again and again, for the kernel takes
    its own time to clear them away.
    """
    lab.up(MANIFEST)
    for _ in range(5):
        kill_switch(lab)
        wait_for(lambda: lab.run("ping", status=None).status == 0, "the whole matrix")
    assert lab.run("diff").status == 0


def test_what_the_kernel_refuses_is_told_and_holds_up_nobody_else(lab: Lab) -> None:
    """Somebody has taken the name of the next pod's link: that pod waits, others come and go, and
    it comes when the name is free.
    """
    lab.up(MANIFEST)
    number = (
        max(
            int(pod["host_ifname"].removeprefix("veth"))
            for pod in lab.seen["pods"]
            if pod["node"] == "worker" and pod["host_ifname"]
        )
        + 1
    )
    node = lab.place("nodes", "worker")
    lab.inside(node, "ip", "link", "add", f"veth{number}", "type", "bridge")
    late = "apiVersion: v1\nkind: Pod\nmetadata: {name: late}\nspec: {nodeName: worker, containers: [{name: main, image: agnhost, args: [netexec]}]}\n"
    said = lab.apply(late, "--timeout", "1s", status=1).err
    assert "kernel: File exists (EEXIST)      wanted by: cni bridge, for Pod default/late" in said
    lab.run("delete", "pod", "client")
    assert web_answers_from_node(lab)
    lab.inside(node, "ip", "link", "del", f"veth{number}")
    wait_for(lambda: lab.pod("late")["ready"], "the late pod")
    assert lab.run("diff").status == 0


def web_answers_from_node(lab: Lab) -> bool:
    """True when a node gets answers by the Service web."""
    return all(
        answer.who
        for answer in lab.ask(
            lab.place("nodes", "worker"), *[("TCP", lab.service("web")["cluster_ips"][0], 80)] * 8
        )
    )


def test_a_killed_init_takes_everything_with_it(lab: Lab) -> None:
    """Processes, namespaces, sockets: the kernel frees them; the next command clears the names that
    lead nowhere.
    """
    lab.up(MANIFEST)
    seen = lab.seen
    processes = descendants(seen["init_pid"])
    assert len(processes) > 10
    os.kill(seen["init_pid"], signal.SIGKILL)
    wait_for(
        lambda: not any(title_of(pid) for pid in processes), "the end of all processes", within_s=5
    )
    assert not lab.seen_names_alive()
    assert f"no lab {lab.name} is up" in lab.run("get", "pods", status=1).err
    assert lab.remains == [str(lab.directory)]
    lab.up(MANIFEST)
    assert web_answers(lab)


def test_down_frees_everything_and_can_be_said_twice(lab: Lab) -> None:
    """Processes, the run directory, the names; nothing there is success."""
    lab.up(MANIFEST)
    processes = descendants(lab.seen["init_pid"])
    names = sorted(Path("/run/netns").glob(f"{lab.name}_*"))
    assert len(names) == len(lab.seen["pods"]) + 3 + 1 + 3
    assert "is down" in lab.run("down").out
    assert not any(title_of(pid) for pid in processes)
    assert not any(os.path.lexists(name) for name in names)
    assert not lab.directory.exists()
    assert lab.run("down").status == 0


def test_the_api_is_for_the_owner_alone(lab: Lab) -> None:
    """The socket is 0600 in a directory of 0700; and the kernel is asked who is there."""
    lab.up(MANIFEST)
    path = lab.directory / "api.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(lab.directory.stat().st_mode) == 0o700
    # The way in is open to nobody else: it is opened for a stranger, to see that the kernel is
    # asked who that is.
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


def test_a_client_of_init_that_hangs_up_does_no_harm(lab: Lab) -> None:
    """It asks for much and reads nothing, as an agent does that dies in the middle."""
    lab.up(MANIFEST)
    for _ in range(3):
        with socket.socket(socket.AF_UNIX) as rude:
            rude.connect(str(lab.directory / "init.sock"))
            rude.sendall(encode(ListProcesses(), 1) * 5000)
    assert lab.run("get", "pods").status == 0
    assert web_answers(lab)


SHORT_PAUSES, LONG_PAUSE_S = 4, 1.6
LATE = """\
apiVersion: v1
kind: Pod
metadata: {name: late}
spec: {nodeName: worker, containers: [{name: main, image: agnhost, args: [netexec]}]}
"""


def test_what_is_refused_is_tried_again_less_and_less_often(lab: Lab) -> None:
    """Something else has the name of a new pod's link; once it is taken away, the pod is made
    without anything else happening.
    """
    lab.up(MANIFEST)
    node = lab.place("nodes", "worker")
    taken = (
        max(
            int(pod["host_ifname"].removeprefix("veth"))
            for pod in lab.seen["pods"]
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


def test_time_is_not_of_the_essence() -> None:
    """No test here sleeps: all wait for a condition, with a deadline."""
    for path in Path(__file__).parents[1].rglob("test_*.py"):
        assert "time.sle" + "ep(" not in path.read_text(), path
    assert time.monotonic() > 0


def test_nobody_but_a_pod_keeps_its_network(lab: Lab) -> None:
    """Of namespaces that were made ahead no descriptor is left, in no process: a pod that is
    deleted is gone, with its link.
    """
    lab.up(deployment(replicas=120))
    for pid in lab.pids(f"kubenetlab {lab.name}"):
        opened = [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.is_symlink()]
        assert sum(name.startswith("net:") for name in opened) <= 2, title_of(pid)
    lab.run("delete", "deployment", "web")
    kept = [
        pod["host_ifname"]
        for pod in lab.seen["pods"]
        if pod["node"] == "worker" and pod["host_ifname"]
    ]
    wait_for(
        lambda: (
            lab.run("exec", "node:worker", "--", "ip", "-br", "link").out.count("veth") == len(kept)
        ),
        "the last link to go",
    )
