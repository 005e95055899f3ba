"""Labs of an ordinary user: a user namespace gives all that a lab needs, and nothing of it is
anybody else's business.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clusters import deployment, pod, service
from tests.conftest import OURS
from tests.labs import users
from tests.labs.lab import Lab, descendants, ran, run, wait_for
from tests.labs.users import NOBODY, SOMEBODY, User, UsersLab
from tests.patience import patiently

CLIENT = pod("client")
REAL = """\
apiVersion: v1
kind: Pod
metadata: {name: real, annotations: {kubenetlab.dev/real-commands: "true"}}
spec: {containers: [{name: main, image: busybox, command: [sh, -c, "id -u; touch /etc/x /tmp/x; ls /tmp; exec sleep 1000"]}]}
---
"""


@pytest.fixture
def lab(nobody: User) -> Iterator[UsersLab]:
    """A lab of that user; gone after the test."""
    lab = UsersLab(f"{OURS}u", nobody)
    try:
        yield lab
    finally:
        lab.down()


def names_in_run_netns() -> list[str]:
    return (
        [name for name in os.listdir("/run/netns") if name.startswith(OURS)]
        if os.path.isdir("/run/netns")
        else []
    )


def test_what_only_root_can_have_is_refused_at_once(lab: UsersLab) -> None:
    """Programs of BPF: for a new lab, and for one that runs in another mode, which goes on in that."""
    words = "proxy ebpf needs root of the machine (eBPF programs), which a user namespace does not give: run kubenetlab up as root (sudo)"
    assert words in lab.run("up", "-f", "-", "--proxy", "ebpf", given=CLIENT, status=1).err
    assert not lab.directory.exists()
    lab.run("up", "-f", "-", given=CLIENT)
    assert words in lab.run("up", "--proxy", "ebpf", status=1).err
    assert lab.seen["kube_proxy_mode"] == "nftables"
    assert lab.run("diff").out == "the kernel is as it should be\n"


def test_a_whole_lab_without_root(lab: UsersLab) -> None:
    """Made, probed, changed and freed as by root; the machine's list of namespaces never hears of
    it.
    """
    lab.run("up", "-f", "-", given=CLIENT + deployment(replicas=2) + service())
    assert lab.seen["run_directory"] == str(lab.directory)
    assert lab.directory.stat().st_mode & 0o777 == 0o700
    assert lab.run("ping", "-o", "json").json["ok"]
    assert lab.run("exec", "client", "--", "hostname").out == "client\n"
    assert lab.run("exec", "client", "--", "getent", "hosts", "web").out.split() == [
        lab.service("web")["cluster_ips"][0],
        "web.default.svc.cluster.local",
    ]
    lab.apply(pod("other"))
    lab.run("scale", "deployment", "web", "--replicas", "4")
    wait_for(lambda: len([found for found in lab.pods("web") if found["ready"]]) == 4, "four pods")
    assert lab.run("check").status == 0
    assert lab.run("diff").out.strip() == "the kernel is as it should be"
    assert names_in_run_netns() == []
    processes = descendants(lab.seen["init_pid"])
    lab.down()
    assert list(lab.user.run_directory.iterdir()) == []
    assert [pid for pid in processes[1:] if Path(f"/proc/{pid}").exists()] == []


def endpoints(name: str, count: int) -> str:
    """A Service with endpoints that somebody has written down."""
    ready = ", ".join(
        f'{{addresses: ["10.50.{number // 250}.{number % 250 + 1}"]}}' for number in range(count)
    )
    return f"""\
---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{ports: [{{port: 80, targetPort: 8080}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{port: 8080}}]
endpoints: [{ready}]
"""


def test_many_endpoints_without_root(lab: UsersLab) -> None:
    """The kernel takes less at once from an ordinary user than a large ruleset needs."""
    lab.run("up", "-f", "-", given=CLIENT + endpoints("many", 900))
    assert lab.run("diff").out == "the kernel is as it should be\n"
    lab.apply(endpoints("more", 900))
    rules = lab.run("inspect", "node:worker").out
    assert rules.count("dnat to 10.50.") == 1800
    assert lab.run("diff").out == "the kernel is as it should be\n"


def test_real_commands_without_root(lab: UsersLab) -> None:
    """They are root inside, and this user outside: what they write stays in their own directories."""
    lab.run("up", "-f", "-", given=REAL)
    said = lab.run("logs", "real").out.splitlines()
    assert said[0] == "0"
    assert "Read-only file system" in said[1]
    assert said[2:] == ["x"]
    (container,) = lab.pod("real")["containers"]
    outside = Path(f"/proc/{lab.seen['init_pid']}/root/proc/{container['pid']}/status").read_text()
    assert f"Uid:\t{NOBODY}" in outside


def test_a_killed_init_takes_the_lab_along(lab: UsersLab) -> None:
    """Without root, too, killing is cleaning: the next `up` begins anew."""
    lab.run("up", "-f", "-", given=CLIENT)
    init = lab.seen["init_pid"]
    processes = descendants(init)
    os.kill(init, signal.SIGKILL)
    wait_for(
        lambda: not [pid for pid in processes[1:] if Path(f"/proc/{pid}").exists()],
        "all processes to go",
    )
    assert lab.user.run("list").out == "no lab is up\n"
    lab.run("up", "-f", "-", given=CLIENT)


def test_a_killed_agent_adopts_a_lab_without_root(lab: UsersLab) -> None:
    """The next one finds the same pods."""
    lab.run("up", "-f", "-", given=CLIENT)
    before, agent = lab.seen["pods"], lab.seen["agent_pid"]
    os.kill(agent, signal.SIGKILL)
    assert lab.seen["agent_pid"] != agent
    assert lab.seen["pods"] == before


def test_labs_are_their_owners(lab: UsersLab) -> None:
    """Root's lab, and another user's, are neither seen nor ended nor spoken to; those of the same
    name run side by side.
    """
    roots = Lab(lab.name)
    try:
        roots.up(CLIENT)
        lab.run("up", "-f", "-", given=CLIENT)
        pids = roots.seen["init_pid"], lab.seen["init_pid"]
        assert pids[0] != pids[1]
        assert lab.seen["run_directory"] != roots.seen["run_directory"]
        with users.user(SOMEBODY) as other:
            assert other.run("list").out == "no lab is up\n"
            assert "is not up" in other.run("down", "--lab", lab.name).out
            stolen = other.run(
                "list", environment={"XDG_RUNTIME_DIR": str(lab.user.run_directory)}, status=1
            )
            assert "cannot be used: Permission denied" in stolen.err
            for pid in pids:
                killed = other.process("-c", f"import os; os.kill({pid}, 9)")
                assert "PermissionError" in killed.stderr
            for directory in (roots.directory, lab.directory):
                knocked = other.process(
                    "-c",
                    f"import socket; socket.socket(socket.AF_UNIX).connect('{directory}/api.sock')",
                )
                assert "PermissionError" in knocked.stderr
        assert (roots.seen["init_pid"], lab.seen["init_pid"]) == pids
        assert {entry["init_pid"] for entry in lab.user.run("list", "-o", "json").json} == {pids[1]}
        assert pids[1] not in {entry["init_pid"] for entry in run("list", "-o", "json").json}
    finally:
        roots.down()


def test_whoever_gets_at_the_socket_is_not_answered(lab: UsersLab) -> None:
    """The kernel tells who asks: a stranger, even one who can open the socket, is hung up on."""
    lab.run("up", "-f", "-", given=CLIENT)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stranger:
        stranger.connect(str(lab.directory / "api.sock"))  # we are root, and may
        try:
            stranger.sendall(
                b"GET /apis/kubenetlab.dev/v1alpha1/inspect HTTP/1.1\r\nHost: lab\r\n\r\n"
            )
            assert stranger.recv(100) == b""
        except ConnectionError:
            pass


def test_a_run_directory_that_cannot_be_used_is_told(nobody: User) -> None:
    """As after `su`, which leaves the variable as it was: one line, which names the variable."""
    for where in ("/run/kubenetlab", "/nonexistent/there"):
        said = nobody.run("up", environment={"XDG_RUNTIME_DIR": where}, status=1)
        assert "set XDG_RUNTIME_DIR to a directory of your own" in said.err


def test_without_a_run_directory_there_is_one_in_tmp(nobody: User) -> None:
    """Where no login made one: the user's alone."""
    lab = f"{OURS}v"
    own = Path(f"/tmp/kubenetlab-{NOBODY}")
    try:
        nobody.run("up", "--lab", lab, "-f", "-", given=CLIENT, environment={"XDG_RUNTIME_DIR": ""})
        assert (own.stat().st_mode & 0o777, own.stat().st_uid) == (0o700, NOBODY)
    finally:
        nobody.run("down", "--lab", lab, environment={"XDG_RUNTIME_DIR": ""})
    assert not own.exists()


FEW_PROCESSES = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NPROC, (12, 12))
sys.argv = ["kubenetlab", "up", "--lab", "few"]
from kubenetlab.cli import main
main()
"""


def test_a_user_with_few_processes_is_told(nobody: User) -> None:
    """As by `ulimit -Hu`, which counts all of a user's processes: told before any of the lab's is
    begun.
    """
    said = nobody.process("-c", FEW_PROCESSES)
    assert said.returncode == 1
    assert re.search(
        r"  processes: \d+ needed; this user's hard RLIMIT_NPROC is 12, \d+ of them taken",
        said.stderr,
    ), said.stderr
    assert "    → as root: ulimit -Hu " in said.stderr
    assert list(nobody.run_directory.iterdir()) == []


def test_doctor_speaks_of_user_namespaces(nobody: User) -> None:
    """What was found out is kept in the user's own directory, and root's is not asked."""
    findings = nobody.run("doctor", "-o", "json").json
    assert {finding["state"] for finding in findings} <= {"ok", "optional"}
    assert "labs are created in a user namespace" in next(
        finding["detail"] for finding in findings if finding["name"] == "user"
    )
    kept = nobody.run_directory / "kubenetlab" / "doctor.json"
    assert kept.stat().st_uid == NOBODY
    assert nobody.run("list").out == "no lab is up\n"


def test_connections_are_counted_and_shown_without_root(lab: UsersLab) -> None:
    """ping --count opens them inside, inspect reads the nodes' connection tracking."""
    lab.up(CLIENT + deployment("web", 2) + service("web"))
    counted = lab.run("ping", "client", "web", "--count", "20", "-o", "json").json
    assert (counted["answered"], sum(server["count"] for server in counted["servers"])) == (20, 20)
    found = lab.run("inspect", "svc:web", "-o", "json").json
    address, node = lab.pod("client")["addresses"][0], lab.pod("client")["node"]
    own = [
        entry
        for entry in found["conntrack"]
        if entry["client"].startswith(f"{address}:") and entry["node"] == node
    ]
    assert (len(own), found["untracked"]) == (20, [])
    assert len(found["nodes"]) == 3


def test_who_is_root_in_a_user_namespace_alone(nobody: User) -> None:
    """`unshare -Ur`: such a user's labs lie where the user's labs are, and commands from outside
    find them.
    """
    name = f"{OURS}r"
    python, variables = users.interpreter(NOBODY)
    knl = f"{python} -m kubenetlab"
    script = f"""
set -e
{knl} up --lab {name} -f -
{knl} ping --lab {name} > /dev/null
{knl} exec --lab {name} client -- ip addr
{knl} list
"""
    environment = {
        "PATH": os.environ["PATH"],
        "XDG_RUNTIME_DIR": str(nobody.run_directory),
        **variables,
    }
    inside = ["unshare", "--user", "--map-root-user", "sh", "-c"]

    def said(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, input=CLIENT, env=environment, user=NOBODY, group=NOBODY, extra_groups=[], cwd="/",
            capture_output=True, text=True, check=False, timeout=patiently(90),
        )  # fmt: skip

    try:
        done = ran(said(*inside, script), 0)
        assert name in done.out
        assert "10.244." in done.out
        assert (nobody.run_directory / "kubenetlab" / name).is_dir()
        other = ran(said(*inside, f"{knl} exec --lab {name} client -- true"), 1)
        assert "cannot enter the lab's namespaces: setns: Operation not permitted" in other.err
        assert name in nobody.run("list").out
    finally:
        nobody.run("down", "--lab", name)
    assert names_in_run_netns() == []
