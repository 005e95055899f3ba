"""The lab's load balancer: flows are shared among nodes, and keep theirs whatever becomes of the
others.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.labs.lab import Lab, wait_for
from tests.labs.world import World

MANIFEST = """\
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
nodes: [{role: control-plane}, {role: worker, name: n1}, {role: worker, name: n2}, {role: worker, name: n3}]
networking: {ipFamily: dual}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template: {metadata: {labels: {app: web}}, spec: {containers: [{name: main, image: agnhost, args: [netexec]}]}}
---
apiVersion: v1
kind: Service
metadata: {name: shared}
spec: {type: LoadBalancer, ipFamilyPolicy: RequireDualStack, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: local}
spec: {type: LoadBalancer, externalTrafficPolicy: Local, ipFamilyPolicy: RequireDualStack, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
"""
NODES = ("node:n1", "node:n2", "node:n3")
FLOWS = 30
KEPT = """
import http.client, sys
connections = [http.client.HTTPConnection(sys.argv[1], 80, timeout=2) for _ in range(int(sys.argv[2]))]
for line in sys.stdin:
    found = []
    for connection in connections:
        try:
            connection.request("GET", "/hostname")
            who = connection.getresponse().read().decode()
            connection.request("GET", "/clientip")
            found.append(who + " " + connection.getresponse().read().decode().rpartition(":")[0])
        except (OSError, http.client.HTTPException):
            connection.close()
            found.append(" ")
    print(*found, sep=",", flush=True)
"""
"""Asks once by each connection for each line that it reads; a connection that was lost is made anew
by the next question.
"""


@pytest.mark.parametrize("version", [4, 6])
def test_flows_are_shared_among_the_nodes(lab: Lab, version: int) -> None:
    """By the policy Cluster each node takes some in, for any pod; by Local each for its own, and
    the client is seen itself.
    """
    lab.up(MANIFEST)
    world = World(lab, version)
    answers = world.ask("ext:client", *[("TCP", world.outside["shared"], 80)] * 200)
    assert {answer.seen[0] for answer in answers} == {world.address(node) for node in NODES}
    answers = world.ask("ext:client", *[("TCP", world.outside["local"], 80)] * 200)
    assert {answer.who for answer in answers} == {pod["name"] for pod in lab.pods("web")}
    assert all(answer.seen[0] == answer.source[0] for answer in answers)


@pytest.mark.parametrize("service", ["shared", "local"])
def test_only_the_flows_of_a_node_that_leaves_break(lab: Lab, service: str) -> None:
    """Thirty connections over three nodes, one of which is not well any more: those by the other
    two go on, and new ones are led past it.
    """
    lab.up(MANIFEST)
    world = World(lab, 4)
    address, client = world.outside[service], world.places["ext:client"]
    with connected(client, address) as ask:
        before = ask()
        by_node = {
            node: {flow for flow, answer in enumerate(before) if answer[1] == world.address(node)}
            for node in NODES
        }
        if service == "local":
            by_node = {
                f"node:{pod['node']}": {
                    n for n, answer in enumerate(before) if answer[0] == pod["name"]
                }
                for pod in lab.pods("web")
            }
        assert all(by_node[node] for node in NODES)
        lab.run("break", "kube-proxy", "--node", "n2", "--how", "stopped")
        wait_for(
            lambda: "172.18.0.4" not in router(lab, "ip", "route", "show", address), "n2 to leave"
        )
        after = ask()
        stayed = by_node["node:n1"] | by_node["node:n3"]
        assert [after[flow] for flow in stayed] == [before[flow] for flow in stayed]
        assert all(who for who, _ in ask())


def router(lab: Lab, *command: str) -> str:
    """What a command says in the fabric's router."""
    return subprocess.run(
        ["ip", "netns", "exec", f"{lab.name}_fabric_router", *command],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@contextmanager
def connected(place: Any, address: str) -> Iterator[Any]:
    """Asks by every connection, and says who answered, and whom it saw."""
    line = ["nsenter", f"--net={place['netns']}", sys.executable, "-c", KEPT, address, str(FLOWS)]
    with subprocess.Popen(
        line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:

        def ask() -> list[tuple[str, str]]:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("ask\n")
            return [
                (who, saw)
                for who, _, saw in (
                    found.partition(" ") for found in process.stdout.readline()[:-1].split(",")
                )
            ]

        yield ask
        assert process.stdin is not None
        process.stdin.close()


@pytest.mark.parametrize("what", ["nexthop", "group", "route"])
def test_what_somebody_takes_from_the_router_is_made_anew(lab: Lab, what: str) -> None:
    """A next hop, a group, a route: with whatever the kernel takes along."""
    lab.up(MANIFEST)
    address = World(lab, 4).outside["shared"]
    before = router(lab, "ip", "route", "show", address)
    group = before.partition("nhid ")[2].split()[0]
    commands = {
        "nexthop": ("nexthop", "flush"),
        "group": ("nexthop", "del", "id", group),
        "route": ("route", "del", address),
    }
    router(lab, "ip", *commands[what])
    assert router(lab, "ip", "route", "show", address) != before
    wait_for(
        lambda: router(lab, "ip", "route", "show", address) == before,
        "the router to be as it was",
        within_s=5,
    )
    wait_for(lambda: not lab.faults, "the lab to be whole")
    assert lab.run("diff").out.strip() == "the kernel is as it should be"
