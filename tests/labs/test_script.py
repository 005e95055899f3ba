"""`plan -o sh` and `up` are two ways to one lab: the script's commands and our netlink messages are
each other's judges.
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

from tests.golden.outputs import CASES
from tests.labs.lab import Lab, wait_for

READING = Path(__file__).with_name("reading.py")
MANIFESTS = Path(__file__).parents[2] / "manifests"
LABS = {
    "quickstart": MANIFESTS / "01-quickstart",
    "statefulset": MANIFESTS / "07-statefulset",
    "every kind of Service, hostNetwork, permanent neighbours": CASES / "services" / "input.yaml",
    "routed pods": CASES / "routed" / "input.yaml",
    "both families": CASES / "dual" / "input.yaml",
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


class World:
    """Namespaces for network and mounts with a /run/netns of their own: what is made in it is gone
    with it.
    """

    def __init__(self) -> None:
        begin = "mkdir -p /run/netns && mount -t tmpfs tmpfs /run/netns && echo ready && exec cat"
        self._holder = subprocess.Popen(
            ["unshare", "-mn", "sh", "-c", begin],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "ready\n"

    def inside(self, *command: str) -> list[str]:
        """A command that runs there."""
        return ["nsenter", "-t", str(self._holder.pid), "-m", "-n", *command]

    def python(self, netns: str, text: str, *arguments: str) -> list[str]:
        """A command that runs a Python program in one of the namespaces there."""
        return self.inside(
            "ip", "netns", "exec", netns, sys.executable, "-S", "-E", "-c", text, *arguments
        )

    def run(self, *command: str, given: str = "", status: int = 0) -> str:
        """What a command prints there, on both its outputs."""
        return ran(self.inside(*command), given, status)

    def end(self) -> None:
        self._holder.communicate()


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.end()


def ran(command: list[str], given: str = "", status: int = 0) -> str:
    done = subprocess.run(
        command, input=given, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == status, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def planned(lab: Lab, manifest: Path) -> str:
    return lab.run("plan", "-o", "sh", "-f", str(manifest)).out


def reading(lab: str, *before: str) -> Any:
    return json.loads(ran([*before, sys.executable, str(READING), lab]))


def carriers(seen: dict[str, Any]) -> dict[str, str]:
    """The kernel may tell a link of its carrier as late as a second after the other end is up."""
    return {
        f"{namespace}/{name}": link["operstate"]
        for namespace in seen
        for name, link in seen[namespace]["links"].items()
    }


@pytest.mark.parametrize("manifest", LABS.values(), ids=LABS)
def test_the_script_makes_the_lab(manifest: Path, lab: Lab, world: World) -> None:
    """Link by link, address by address, rule by rule, setting by setting: nothing differs from what
    `up` makes.
    """
    by_hand = planned(lab, manifest)
    world.run("sh", "-s", given=by_hand)
    lab.run("up", "-f", str(manifest), status=None)
    wanted = reading(lab.name)

    def made() -> Any:
        found = reading(lab.name, *world.inside())
        return found if carriers(found) == carriers(wanted) else None

    found = wait_for(made, "links that are up on both sides")
    assert list(found) == list(wanted)
    for namespace, seen in wanted.items():
        for what, value in seen.items():
            assert found[namespace][what] == value, f"{what} of {namespace}"
    assert planned(lab, manifest) == by_hand, (
        "a lab that is up is another than the one that was to be"
    )


def test_what_the_script_makes_carries_packets_and_goes(
    lab: Lab, world: World, tmp_path: Path
) -> None:
    """What it says to try works, a Service leads to whoever listens in its pod, and `down` leaves
    nothing.
    """
    manifest = MANIFESTS / "05-service-and-endpoints"
    file = tmp_path / "lab.sh"
    file.write_text(planned(lab, manifest))
    said = world.run("env", "LAB=copy", "sh", str(file))
    for line in [line for line in said.splitlines() if line.startswith("  ")]:
        world.run(*line.split())
    web = [
        name
        for name in world.run("ip", "netns", "list").split()
        if name.startswith("copy_pod_default_web-")
    ]
    match = re.search(r'{ (\S+) . tcp . 80 comment "default/web:http"', file.read_text())
    assert match is not None
    servers = [
        subprocess.Popen(world.python(pod, SERVER, "8080"), stdout=subprocess.PIPE, text=True)
        for pod in web
    ]
    try:
        for server in servers:
            assert server.stdout is not None
            assert server.stdout.readline() == "listening\n"
        assert ran(world.python("copy_pod_default_client", CLIENT, match[1], "80")) == "hello\n"
    finally:
        for server in servers:
            server.kill()
            server.communicate()
    assert "File exists" in world.run("env", "LAB=copy", "sh", str(file), status=1)
    world.run("env", "LAB=copy", "sh", str(file), "down")
    assert world.run("ip", "netns", "list") == ""
