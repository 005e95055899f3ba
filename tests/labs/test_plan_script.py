"""`plan -o sh` and `up` create the same lab.

The script's commands and the package's netlink messages check each other.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kubenetlab.kernel.features.detection import has_program
from tests.golden.outputs import CASES
from tests.labs.lab import Lab, wait_for

KERNEL_STATE = Path(__file__).with_name("kernel_state.py")
MANIFESTS = Path(__file__).parents[2] / "manifests"
LABS = {
    "quickstart": MANIFESTS / "01-quickstart",
    "statefulset": MANIFESTS / "07-statefulset",
    "every kind of Service, hostNetwork, permanent neighbours": CASES / "services" / "input.yaml",
    "routed pods": CASES / "routed" / "input.yaml",
    "both families": CASES / "dual" / "input.yaml",
    "tunnels between nodes": CASES / "flannel" / "input.yaml",
    "no network for pods": CASES / "no-cni" / "input.yaml",
}
SERVER = """
import socket, sys
with socket.create_server(("", int(sys.argv[1]))) as server:
    print("listening", flush=True)
    server.accept()[0].sendall(b"hello")
"""
CLIENT = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5) as connection:
    print(connection.recv(100).decode())
"""


class ScriptNamespaces:
    """Network and mount namespaces with a private /run/netns and /var/tmp.

    Everything created in it disappears with it.
    """

    def __init__(self) -> None:
        begin = (
            "mkdir -p /run/netns && mount -t tmpfs tmpfs /run/netns && "
            "mount -t tmpfs tmpfs /var/tmp && echo ready && exec cat"
        )
        self._holder = subprocess.Popen(
            ["unshare", "-mn", "sh", "-c", begin],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "ready\n"

    def inside(self, *command: str) -> list[str]:
        """Return a command line that runs there."""
        return ["nsenter", "-t", str(self._holder.pid), "-m", "-n", *command]

    def python(self, netns: str, text: str, *arguments: str) -> list[str]:
        """Return a command line of a Python program in one of the namespaces there."""
        return self.inside(
            "ip", "netns", "exec", netns, sys.executable, "-S", "-E", "-c", text, *arguments
        )

    def run(self, *command: str, stdin: str = "", status: int = 0) -> str:
        """Return the output of a command there, with its errors."""
        return ran(self.inside(*command), stdin, status)

    def close(self) -> None:
        self._holder.communicate()


@pytest.fixture
def namespaces() -> Iterator[ScriptNamespaces]:
    created = ScriptNamespaces()
    yield created
    created.close()


def ran(command: list[str], stdin: str = "", status: int = 0) -> str:
    completed = subprocess.run(
        command, input=stdin, capture_output=True, text=True, check=False, timeout=60
    )
    assert completed.returncode == status, (
        f"{command}: {completed.returncode}\n{completed.stdout}{completed.stderr}"
    )
    return completed.stdout + completed.stderr


def planned(lab: Lab, manifest: Path) -> str:
    return lab.run("plan", "-o", "sh", "-f", str(manifest)).out


def read_kernel_state(lab: str, *before: str) -> Any:
    return json.loads(ran([*before, sys.executable, str(KERNEL_STATE), lab]))


def carriers(state: dict[str, Any]) -> dict[str, str]:
    """Return the operational state of each link.

    The kernel may update it a second after the peer is up.
    """
    return {
        f"{namespace}/{name}": link["operstate"]
        for namespace in state
        for name, link in state[namespace]["links"].items()
    }


@pytest.mark.parametrize("manifest", LABS.values(), ids=LABS)
def test_the_script_creates_the_same_lab_as_up(
    manifest: Path, lab: Lab, namespaces: ScriptNamespaces
) -> None:
    """Links, addresses, rules and settings are equal."""
    script = planned(lab, manifest)
    namespaces.run("sh", "-s", stdin=script)
    lab.run("up", "-f", str(manifest), status=None)
    desired = read_kernel_state(lab.name)

    def observe() -> Any:
        observed = read_kernel_state(lab.name, *namespaces.inside())
        return observed if carriers(observed) == carriers(desired) else None

    observed = wait_for(observe, "links that are up on both sides")
    assert list(observed) == list(desired)
    for namespace, state in desired.items():
        for part, value in state.items():
            assert observed[namespace][part] == value, f"{part} of {namespace}"
    assert planned(lab, manifest) == script, "the plan of the running lab has changed"


def test_the_scripts_lab_carries_packets_and_can_be_removed(
    lab: Lab, namespaces: ScriptNamespaces, tmp_path: Path
) -> None:
    """The suggested commands work, a Service reaches its pods, and `down` leaves nothing."""
    manifest = MANIFESTS / "05-service-and-endpoints"
    file = tmp_path / "lab.sh"
    file.write_text(planned(lab, manifest))
    output = namespaces.run("env", "LAB=copy", "sh", str(file))
    for line in [line for line in output.splitlines() if line.startswith("  ")]:
        namespaces.run(*line.split())
    web = [
        name
        for name in namespaces.run("ip", "netns", "list").split()
        if name.startswith("copy_pod_default_web-")
    ]
    match = re.search(r'{ (\S+) . tcp . 80 comment "default/web:http"', file.read_text())
    assert match is not None
    servers = [
        subprocess.Popen(namespaces.python(pod, SERVER, "8080"), stdout=subprocess.PIPE, text=True)
        for pod in web
    ]
    try:
        for server in servers:
            assert server.stdout is not None
            assert server.stdout.readline() == "listening\n"
        assert (
            ran(namespaces.python("copy_pod_default_client", CLIENT, match[1], "80")) == "hello\n"
        )
    finally:
        for server in servers:
            server.kill()
            server.communicate()
    assert "File exists" in namespaces.run("env", "LAB=copy", "sh", str(file), status=1)
    namespaces.run("env", "LAB=copy", "sh", str(file), "down")
    assert namespaces.run("ip", "netns", "list") == ""


@pytest.mark.skipif(not has_program("bird"), reason="needs BIRD 2 (apt-get install bird2)")
def test_the_script_writes_files_and_runs_daemons(
    lab: Lab, namespaces: ScriptNamespaces, tmp_path: Path
) -> None:
    """BIRD of the script's nodes exchanges routes; `down` ends it and removes the files."""
    file = tmp_path / "lab.sh"
    file.write_text(planned(lab, CASES / "kube-router" / "input.yaml"))
    copy = f"{lab.name}-copy"
    command = ["env", f"LAB={copy}", "sh", str(file)]
    try:
        namespaces.run(*command)

        def routes() -> str:
            node = ["ip", "-n", f"{copy}_node_worker", "route", "show", "proto", "bird"]
            return namespaces.run(*node)

        assert wait_for(routes, "a route of BIRD").strip() == (
            "10.244.0.0/24 via 172.18.0.2 dev eth0"
        )
        pids = namespaces.run("ip", "netns", "pids", f"{copy}_node_worker").split()
        assert pids
        assert namespaces.run("ls", "/var/tmp").split() == [f"kubenetlab-{copy}"]
    finally:
        namespaces.run(*command, "down")
    wait_for(lambda: not any(Path("/proc", pid, "fd").exists() for pid in pids), "the end of BIRD")
    assert namespaces.run("ls", "/var/tmp") == ""
    assert not Path("/run/bird").exists()
