"""Labs of an ordinary user, inside a user namespace and isolated from other users."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubenetlab.kernel.features.detection import has_program
from tests.clusters import deployment, pod, service
from tests.conftest import LAB_PREFIX
from tests.labs import users
from tests.labs.lab import Lab, command_result, descendants, run, wait_for
from tests.labs.users import NOBODY, OTHER_USER, User, UsersLab
from tests.patience import patiently

CLIENT = pod("client")
REAL = """\
apiVersion: v1
kind: Pod
metadata: {name: real, annotations: {kubenetlab.dev/real-commands: "true"}}
spec:
  containers:
  - name: main
    image: busybox
    command: [sh, -c, "id -u; touch /etc/x /tmp/x; ls /tmp; exec sleep 1000"]
---
"""


@pytest.fixture
def lab(nobody: User) -> Iterator[UsersLab]:
    """Yield a lab of that user; remove it after the test."""
    lab = UsersLab(f"{LAB_PREFIX}u", nobody)
    try:
        yield lab
    finally:
        lab.down()


def names_in_run_netns() -> list[str]:
    return (
        [name for name in os.listdir("/run/netns") if name.startswith(LAB_PREFIX)]
        if os.path.isdir("/run/netns")
        else []
    )


def test_tunnels_between_nodes_need_no_root(lab: UsersLab) -> None:
    manifest = CLIENT + deployment(replicas=3) + service()
    lab.run("up", "-f", "-", "--cni", "flannel", stdin=manifest)
    assert lab.run("ping", "-o", "json").json["ok"]
    assert lab.run("diff").out == "the kernel is as it should be\n"
    entries = lab.run("exec", "node:worker", "--", "bridge", "fdb", "show", "dev", "flannel.1").out
    assert entries.count("permanent") == 2, "one for each of the other nodes"


@pytest.mark.skipif(not has_program("bird"), reason="needs BIRD 2 (apt-get install bird2)")
def test_bgp_between_nodes_needs_no_root(lab: UsersLab) -> None:
    """BIRD runs in the user namespace of the lab, sees its files, and is started again."""
    manifest = "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nnetworking: {ipFamily: dual}\n"
    lab.run("up", "-f", "-", "--cni", "kube-router", stdin=manifest)
    assert lab.run("ping", "-o", "json").json["ok"]
    assert lab.run("diff").status == 0
    shown = lab.run("exec", "node:worker", "--", "birdc", "show", "protocols").out
    assert shown.count("Established") == 4
    config = lab.run("exec", "node:worker", "--", "cat", "/etc/bird/bird.conf").out
    assert "router id 172.18.0.3;" in config
    first = lab.run("exec", "node:worker", "--", "pidof", "bird").out
    lab.run("exec", "node:worker", "--", "kill", "-9", first.strip())

    def has_new_bird() -> bool:
        found = lab.run("exec", "node:worker", "--", "pidof", "bird", status=None)
        return found.status == 0 and found.out != first

    wait_for(has_new_bird, "a new BIRD")
    assert lab.run("ping", "-o", "json").json["ok"]


def test_features_that_need_root_are_rejected(lab: UsersLab) -> None:
    """The feature is eBPF programs.

    A new lab is not created, and a running lab keeps its mode.
    """
    refusal = (
        "cni cilium needs root of the machine (eBPF programs), "
        "which a user namespace does not give: run kubenetlab up as root (sudo)"
    )
    assert refusal in lab.run("up", "-f", "-", "--cni", "cilium", stdin=CLIENT, status=1).err
    message = (
        "proxy ebpf needs root of the machine (eBPF programs), "
        "which a user namespace does not give: run kubenetlab up as root (sudo)"
    )
    assert message in lab.run("up", "-f", "-", "--proxy", "ebpf", stdin=CLIENT, status=1).err
    assert not lab.directory.exists()
    lab.run("up", "-f", "-", stdin=CLIENT)
    assert message in lab.run("up", "--proxy", "ebpf", status=1).err
    assert lab.inspected["kube_proxy_mode"] == "nftables"
    assert lab.run("diff").out == "the kernel is as it should be\n"


def test_an_ordinary_user_can_use_a_lab(lab: UsersLab) -> None:
    """It is created, tested, changed and removed as by root.

    The machine's /run/netns has no names of it.
    """
    lab.run("up", "-f", "-", stdin=CLIENT + deployment(replicas=2) + service())
    assert lab.inspected["run_directory"] == str(lab.directory)
    assert lab.directory.stat().st_mode & 0o777 == 0o700
    assert lab.run("ping", "-o", "json").json["ok"]
    assert lab.run("exec", "client", "--", "hostname").out == "client\n"
    assert lab.run("exec", "client", "--", "getent", "hosts", "web").out.split() == [
        lab.service("web")["cluster_ips"][0],
        "web.default.svc.cluster.local",
    ]
    lab.apply(pod("other"))
    lab.run("scale", "deployment", "web", "--replicas", "4")
    wait_for(
        lambda: len([web_pod for web_pod in lab.pods("web") if web_pod["ready"]]) == 4, "four pods"
    )
    assert lab.run("check").status == 0
    assert lab.run("diff").out.strip() == "the kernel is as it should be"
    assert names_in_run_netns() == []
    processes = descendants(lab.inspected["init_pid"])
    lab.down()
    assert list(lab.user.run_directory.iterdir()) == []
    assert [pid for pid in processes[1:] if Path(f"/proc/{pid}").exists()] == []


def endpoints(name: str, count: int) -> str:
    """Return a Service with manually written endpoints."""
    entries = ", ".join(
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
endpoints: [{entries}]
"""


def test_a_large_ruleset_is_loaded_without_root(lab: UsersLab) -> None:
    """The kernel accepts less at once from an ordinary user than a large ruleset needs."""
    lab.run("up", "-f", "-", stdin=CLIENT + endpoints("many", 900))
    assert lab.run("diff").out == "the kernel is as it should be\n"
    lab.apply(endpoints("more", 900))
    rules = lab.run("inspect", "node:worker").out
    assert rules.count("dnat to 10.50.") == 1800
    assert lab.run("diff").out == "the kernel is as it should be\n"


def test_real_commands_run_without_root(lab: UsersLab) -> None:
    """They are root inside and this user outside, and write only to private directories."""
    lab.run("up", "-f", "-", stdin=REAL)
    output = lab.run("logs", "real").out.splitlines()
    assert output[0] == "0"
    assert "Read-only file system" in output[1]
    assert output[2:] == ["x"]
    (container,) = lab.pod("real")["containers"]
    outside = Path(
        f"/proc/{lab.inspected['init_pid']}/root/proc/{container['pid']}/status"
    ).read_text()
    assert f"Uid:\t{NOBODY}" in outside


def test_a_killed_init_ends_the_lab_without_root(lab: UsersLab) -> None:
    """The next `up` starts from nothing."""
    lab.run("up", "-f", "-", stdin=CLIENT)
    init = lab.inspected["init_pid"]
    processes = descendants(init)
    os.kill(init, signal.SIGKILL)
    wait_for(
        lambda: not [pid for pid in processes[1:] if Path(f"/proc/{pid}").exists()],
        "the end of all processes",
    )
    assert lab.user.run("list").out == "no lab is up\n"
    lab.run("up", "-f", "-", stdin=CLIENT)


def test_a_new_agent_adopts_a_lab_without_root(lab: UsersLab) -> None:
    """It finds the same pods."""
    lab.run("up", "-f", "-", stdin=CLIENT)
    before, agent = lab.inspected["pods"], lab.inspected["agent_pid"]
    os.kill(agent, signal.SIGKILL)
    assert lab.inspected["agent_pid"] != agent
    assert lab.inspected["pods"] == before


def test_users_cannot_access_labs_of_others(lab: UsersLab) -> None:
    """Labs of root and other users are invisible and inaccessible.

    Labs with the same name run side by side.
    """
    roots_lab = Lab(lab.name)
    try:
        roots_lab.up(CLIENT)
        lab.run("up", "-f", "-", stdin=CLIENT)
        pids = roots_lab.inspected["init_pid"], lab.inspected["init_pid"]
        assert pids[0] != pids[1]
        assert lab.inspected["run_directory"] != roots_lab.inspected["run_directory"]
        with users.user(OTHER_USER) as other:
            assert other.run("list").out == "no lab is up\n"
            assert "is not up" in other.run("down", "--lab", lab.name).out
            denied = other.run(
                "list", environment={"XDG_RUNTIME_DIR": str(lab.user.run_directory)}, status=1
            )
            assert "cannot be used: Permission denied" in denied.err
            for pid in pids:
                signalled = other.run_python("-c", f"import os; os.kill({pid}, 9)")
                assert "PermissionError" in signalled.stderr
            for directory in (roots_lab.directory, lab.directory):
                connected = other.run_python(
                    "-c",
                    f"import socket; socket.socket(socket.AF_UNIX).connect('{directory}/api.sock')",
                )
                assert "PermissionError" in connected.stderr
        assert (roots_lab.inspected["init_pid"], lab.inspected["init_pid"]) == pids
        assert {entry["init_pid"] for entry in lab.user.run("list", "-o", "json").json} == {pids[1]}
        assert pids[1] not in {entry["init_pid"] for entry in run("list", "-o", "json").json}
    finally:
        roots_lab.down()


def test_the_api_checks_the_peer_credentials(lab: UsersLab) -> None:
    """The server disconnects even root, who can open the socket."""
    lab.run("up", "-f", "-", stdin=CLIENT)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stranger:
        stranger.connect(str(lab.directory / "api.sock"))  # root may open the socket
        try:
            stranger.sendall(
                b"GET /apis/kubenetlab.dev/v1alpha1/inspect HTTP/1.1\r\nHost: lab\r\n\r\n"
            )
            assert stranger.recv(100) == b""
        except ConnectionError:
            pass


def test_an_unusable_run_directory_is_reported(nobody: User) -> None:
    """For example, `su` leaves XDG_RUNTIME_DIR unchanged.

    The message is one line and names the variable.
    """
    for directory in ("/run/kubenetlab", "/nonexistent/there"):
        result = nobody.run("up", environment={"XDG_RUNTIME_DIR": directory}, status=1)
        assert "set XDG_RUNTIME_DIR to a directory of your own" in result.err


def test_without_xdg_runtime_dir_the_run_directory_is_in_tmp(nobody: User) -> None:
    """Only the user can access it."""
    lab = f"{LAB_PREFIX}v"
    directory = Path(f"/tmp/kubenetlab-{NOBODY}")
    try:
        nobody.run("up", "--lab", lab, "-f", "-", stdin=CLIENT, environment={"XDG_RUNTIME_DIR": ""})
        assert (directory.stat().st_mode & 0o777, directory.stat().st_uid) == (0o700, NOBODY)
    finally:
        nobody.run("down", "--lab", lab, environment={"XDG_RUNTIME_DIR": ""})
    assert not directory.exists()


FEW_PROCESSES = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NPROC, (12, 12))
sys.argv = ["kubenetlab", "up", "--lab", "few"]
from kubenetlab.cli import main
main()
"""


def test_a_low_limit_of_processes_is_reported(nobody: User) -> None:
    """`ulimit -Hu` counts all processes of a user.

    The report precedes the start of the lab's processes.
    """
    result = nobody.run_python("-c", FEW_PROCESSES)
    assert result.returncode == 1
    assert re.search(
        r"  processes: \d+ needed; this user's hard RLIMIT_NPROC is 12, \d+ of them taken",
        result.stderr,
    ), result.stderr
    assert "    → as root: ulimit -Hu " in result.stderr
    assert list(nobody.run_directory.iterdir()) == []


def test_doctor_reports_user_namespaces(nobody: User) -> None:
    """Its results are stored in the user's directory, without root."""
    findings = nobody.run("doctor", "-o", "json").json
    assert {finding["state"] for finding in findings} <= {"ok", "optional"}
    assert "labs are created in a user namespace" in next(
        finding["detail"] for finding in findings if finding["name"] == "user"
    )
    cached_results = nobody.run_directory / "kubenetlab" / "doctor.json"
    assert cached_results.stat().st_uid == NOBODY
    assert nobody.run("list").out == "no lab is up\n"


def test_connections_can_be_counted_and_inspected_without_root(lab: UsersLab) -> None:
    """They are opened inside, and inspect reads the nodes' connection tracking."""
    lab.up(CLIENT + deployment("web", 2) + service("web"))
    series = lab.run("ping", "client", "web", "--count", "20", "-o", "json").json
    assert (series["answered"], sum(server["count"] for server in series["servers"])) == (20, 20)
    report = lab.run("inspect", "svc:web", "-o", "json").json
    address, node = lab.pod("client")["addresses"][0], lab.pod("client")["node"]
    clients_entries = [
        entry
        for entry in report["conntrack"]
        if entry["client"].startswith(f"{address}:") and entry["node"] == node
    ]
    assert (len(clients_entries), report["untracked"]) == (20, [])
    assert len(report["nodes"]) == 3


def test_root_of_a_user_namespace_is_the_ordinary_user(nobody: User) -> None:
    """With `unshare -Ur`, labs are in the directory of the user's labs.

    Commands from outside find them.
    """
    name = f"{LAB_PREFIX}r"
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
    unshare = ["unshare", "--user", "--map-root-user", "sh", "-c"]

    def run_as_user(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            input=CLIENT,
            env=environment,
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
            timeout=patiently(90),
        )

    try:
        result = command_result(run_as_user(*unshare, script), 0)
        assert name in result.out
        assert "10.244." in result.out
        assert (nobody.run_directory / "kubenetlab" / name).is_dir()
        second_result = command_result(
            run_as_user(*unshare, f"{knl} exec --lab {name} client -- true"), 1
        )
        assert (
            "cannot enter the lab's namespaces: setns: Operation not permitted" in second_result.err
        )
        assert name in nobody.run("list").out
    finally:
        nobody.run("down", "--lab", name)
    assert names_in_run_netns() == []
