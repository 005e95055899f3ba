"""A lab's processes: who may die, what stays, what goes, and that nothing is left."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kubenetlab.lab.wire import encode
from tests.clusters import deployment, replaced
from tests.labs.lab import COMMAND, Lab, descendants, run, title_of, wait_for

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
    """What the kernel holds of a lab, in the kernel's own words: links, addresses, routes, rules, listeners, pause processes."""
    seen = lab.seen
    places = {place["sandbox"]: place for place in (*seen["nodes"], *seen["pods"], *seen["external"])}
    commands = (
        ("ip", "-o", "addr"),
        ("ip", "route"),
        ("nft", "-a", "list", "ruleset"),
        ("ss", "-Hlntu"),
    )
    return {
        name: (place["pid"], *(_sorted_without_counters(lab.inside(place, *command)) for command in commands))
        for name, place in places.items()
    }


def _sorted_without_counters(text: str) -> list[str]:
    return sorted(" ".join(line.split()) for line in text.splitlines())


def generations(lab: Lab) -> dict[str, str]:
    """Every node's ruleset generation: each transaction raises it."""
    found = {}
    for node in lab.seen["nodes"]:
        with subprocess.Popen(
            ["nsenter", f"--net={node['netns']}", "nft", "monitor"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
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
    return all(answer.who.startswith("web-") and answer.seen[0] == client["addresses"][0] for answer in answers)


# --- deaths ---


def test_a_killed_agent_leaves_everything_as_it_is(lab: Lab) -> None:
    """The next one adopts what it finds: the same pods, addresses, rules, listeners; no packet is lost, nothing is written."""
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
    """As the kubelet does when a pause container dies: the same pod, with a new sandbox, and so with a new address."""
    lab.up(MANIFEST)
    pod = lab.pod("web")
    (victim,) = lab.pids(f"{lab.name}/{pod['sandbox']}")
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: lab.pod(pod["name"])["pid"] not in (0, None, pod["pid"]) and lab.pod(pod["name"])["ready"], "a new sandbox")
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
    """They go with it and come back with it; probes are asked from the new node, also those that manifests wrote."""
    host = "apiVersion: v1\nkind: Pod\nmetadata: {name: host}\nspec: {hostNetwork: true, nodeName: worker, containers: [{name: main, image: agnhost, args: [netexec, --http-port=9000]}]}\n---\n"
    lab.up(
        host
        + replaced(
            MANIFEST,
            ("        ports:", "        readinessProbe: {httpGet: {path: /healthz, port: http}, periodSeconds: 1}\n        ports:"),
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
    """With everybody's links to it, and what stands on those; again and again, for the kernel takes its own time to clear them away."""
    lab.up(MANIFEST)
    for _ in range(5):
        kill_switch(lab)
        wait_for(lambda: lab.run("ping", status=None).status == 0, "the whole matrix")
    assert lab.run("diff").status == 0


def test_what_the_kernel_refuses_is_told_and_holds_up_nobody_else(lab: Lab) -> None:
    """Somebody has taken the name of the next pod's link: that pod waits, others come and go, and it comes when the name is free."""
    lab.up(MANIFEST)
    number = (
        max(int(pod["host_ifname"].removeprefix("veth")) for pod in lab.seen["pods"] if pod["node"] == "worker" and pod["host_ifname"]) + 1
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
    return all(answer.who for answer in lab.ask(lab.place("nodes", "worker"), *[("TCP", lab.service("web")["cluster_ips"][0], 80)] * 8))


def test_a_killed_init_takes_everything_with_it(lab: Lab) -> None:
    """Processes, namespaces, sockets: the kernel frees them; the next command clears the names that lead nowhere."""
    lab.up(MANIFEST)
    seen = lab.seen
    processes = descendants(seen["init_pid"])
    assert len(processes) > 10
    os.kill(seen["init_pid"], signal.SIGKILL)
    wait_for(lambda: not any(title_of(pid) for pid in processes), "the end of all processes", within_s=5)
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


# --- making ---


def test_the_api_is_for_the_owner_alone(lab: Lab) -> None:
    """The socket is 0600 in a directory of 0700; and the kernel is asked who is there."""
    lab.up(MANIFEST)
    path = lab.directory / "api.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(lab.directory.stat().st_mode) == 0o700
    # The way in is open to nobody else: it is opened for a stranger, to see that the kernel is asked who that is.
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


def start_up(lab: Lab, *words: str) -> subprocess.Popen[str]:
    """An `up` that can be interrupted, of a lab large enough to be met in the middle."""
    manifest = replaced(MANIFEST, ("replicas: 4", "replicas: 150"))
    process = subprocess.Popen(
        [*COMMAND, "up", "--lab", lab.name, "-f", "-", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(manifest)
    process.stdin.close()
    process.stdin = None
    return process


def sandboxes(lab: Lab) -> list[int]:
    """Pause processes of a lab, whoever their parent is."""
    return [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and title_of(int(entry.name)).startswith(f"{lab.name}/")
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_up_that_is_stopped_in_the_middle_leaves_nothing(lab: Lab, number: signal.Signals) -> None:
    """Ctrl-C, a polite end, a rude one: the half-made lab is gone, and can be made again."""
    process = start_up(lab)
    wait_for(lambda: len(sandboxes(lab)) > 20, "the making to begin")
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    wait_for(lambda: not sandboxes(lab), "the end of the half-made lab", within_s=5)
    if number != signal.SIGKILL:
        assert f"nothing of lab {lab.name} is left" in err
        assert not lab.directory.exists()
    assert "Traceback" not in out + err
    lab.up(MANIFEST)
    assert web_answers(lab)


def test_an_interrupt_while_waiting_leaves_the_lab_up(lab: Lab) -> None:
    """Once it is built, Ctrl-C only ends the waiting, and says what was waited for."""
    slow = replaced(MANIFEST, ("args: [netexec]}]", "args: [netexec], readinessProbe: {tcpSocket: {port: 1}, failureThreshold: 1000}}]"))
    process = subprocess.Popen(
        [*COMMAND, "up", "--lab", lab.name, "-f", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    process.stdin.write(slow)
    process.stdin.close()
    process.stdin = None
    wait_for(lambda: lab.run("get", "pods", status=None).status == 0 and lab.pod("web")["ready"], "the lab")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert f"stopped waiting; lab {lab.name} is up, and not ready yet: default/client\nnext: kubenetlab get pods -A -w" in err
    assert web_answers(lab)


def test_an_up_of_a_lab_that_is_being_made(lab: Lab) -> None:
    """Two at once: one makes it, the other one is told or applies to it; never two labs of one name."""
    first, second = start_up(lab), start_up(lab)
    said = [process.communicate(timeout=60) for process in (first, second)]
    statuses = sorted((first.returncode, second.returncode))
    assert statuses in ([0, 0], [0, 1]), said
    assert all("Traceback" not in out + err and "bug" not in out + err for out, err in said)
    assert len([pid for pid in sandboxes(lab) if title_of(pid) == f"{lab.name}/node/worker"]) == 1


def test_a_down_while_a_lab_is_being_made(lab: Lab) -> None:
    """Whoever comes first: in the end nothing is there, and both say so in plain words; two at once do no harm."""
    making = start_up(lab)
    wait_for(lambda: lab.directory.exists(), "the making to begin")
    downs = [
        subprocess.Popen([*COMMAND, "down", "--lab", lab.name], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=60)[0] for process in (*downs, making)]
    assert [down.returncode for down in downs] == [0, 0], said
    assert making.returncode in (0, 1)
    assert not any("bug" in text for text in said)
    wait_for(lambda: not sandboxes(lab), "the end of the lab", within_s=5)
    lab.up(MANIFEST)
    assert web_answers(lab)


def test_an_up_outlives_the_agent_it_waits_for(lab: Lab) -> None:
    """Its successor is asked, and the verdict is the same."""
    slow = replaced(MANIFEST, ("args: [netexec]}]", "args: [netexec], readinessProbe: {tcpSocket: {port: 1}, failureThreshold: 1}}]"))
    waiting = subprocess.Popen(
        [*COMMAND, "up", "--lab", lab.name, "-f", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert waiting.stdin is not None
    waiting.stdin.write(slow)
    waiting.stdin.close()
    waiting.stdin = None
    wait_for(lambda: lab.run("get", "pods", status=None).status == 0 and lab.pod("web")["ready"], "the lab")
    os.kill(lab.seen["agent_pid"], signal.SIGKILL)
    out, err = waiting.communicate(timeout=60)
    assert waiting.returncode == 1
    assert "Readiness probe failed: dial tcp 10.244.1.2:1: connect: connection refused" in err
    assert "9 of 10 pods ready" in out


def test_a_client_of_init_that_hangs_up_does_no_harm(lab: Lab) -> None:
    """It asks for much and reads nothing, as an agent does that dies in the middle."""
    lab.up(MANIFEST)
    for _ in range(3):
        with socket.socket(socket.AF_UNIX) as rude:
            rude.connect(str(lab.directory / "init.sock"))
            rude.sendall(encode({"id": 1, "do": "list"}) * 5000)
    assert lab.run("get", "pods").status == 0
    assert web_answers(lab)


def test_two_labs_with_the_same_addresses_at_once(labs: Callable[[], Lab]) -> None:
    """Side by side, and each reaches its own; commands must say which."""
    one, two = labs(), labs()
    one.up(MANIFEST)
    two.up(replaced(MANIFEST, ("name: web", "name: wob"), ("app: web", "app: wob")))
    assert one.pod("client")["addresses"] == two.pod("client")["addresses"]
    (address,) = one.pod("client")["addresses"]
    for lab, name in ((one, "web"), (two, "wob")):
        answers = lab.ask(lab.pod("client"), *[("TCP", lab.service(name)["cluster_ips"][0], 80)] * 10)
        assert all(answer.who.startswith(f"{name}-") and answer.seen[0] == address for answer in answers)
    said = run("get", "pods", status=1).err
    assert "several labs are up" in said
    assert one.name in said
    assert {lab["name"] for lab in run("list", "-o", "json").json} >= {one.name, two.name}
    one.down()
    assert two.ask(two.pod("client"), ("TCP", two.service("wob")["cluster_ips"][0], 80))[0].who


def test_a_machine_that_refuses_is_told_of_and_nothing_is_left(lab: Lab) -> None:
    """A limit that cannot be seen before, of a user namespace around ours, say: the kernel's reason once, what to do, exit status 1, no lab."""
    limit = "echo 8 > /proc/sys/user/max_net_namespaces"
    inner = f"unshare --user --map-root-user {' '.join(COMMAND)} up --lab {lab.name} -f -"
    child = subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", f"{limit} && exec {inner}"],
        input=MANIFEST,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if "Operation not permitted" in child.stderr and "unshare" in child.stderr:
        pytest.skip("no user namespaces here, in which to set a limit")
    assert child.returncode == 1, child.stdout + child.stderr
    assert child.stderr.count("cannot add sandbox") == 2
    assert "kernel: unshare: No space left on device (ENOSPC)" in child.stderr
    assert "→ a limit of namespaces is reached" in child.stderr
    assert child.stderr.splitlines()[-1].endswith("more with the same reason")
    assert "Traceback" not in child.stderr
    wait_for(lambda: not sandboxes(lab), "the end of what was made", within_s=5)


def test_time_is_not_of_the_essence() -> None:
    """No test here sleeps: all wait for a condition, with a deadline."""
    for path in Path(__file__).parents[1].rglob("test_*.py"):
        assert "time.sle" + "ep(" not in path.read_text(), path
    assert time.monotonic() > 0


def test_nobody_but_a_pod_keeps_its_network(lab: Lab) -> None:
    """Of namespaces that were made ahead no descriptor is left, in no process: a pod that is deleted is gone, with its link."""
    lab.up(deployment(replicas=120))
    for pid in lab.pids(f"kubenetlab {lab.name}"):
        opened = [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.is_symlink()]
        assert sum(name.startswith("net:") for name in opened) <= 2, title_of(pid)
    lab.run("delete", "deployment", "web")
    kept = [pod["host_ifname"] for pod in lab.seen["pods"] if pod["node"] == "worker" and pod["host_ifname"]]
    wait_for(lambda: lab.run("exec", "node:worker", "--", "ip", "-br", "link").out.count("veth") == len(kept), "the last link to go")
