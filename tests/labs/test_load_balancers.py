"""The lab's load balancer distributes flows over nodes; flows stay when other nodes leave."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.labs.lab import Lab, wait_for
from tests.labs.lab_view import LabView

MANIFEST = """\
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
nodes:
- {role: control-plane}
- {role: worker, name: n1}
- {role: worker, name: n2}
- {role: worker, name: n3}
networking: {ipFamily: dual}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: main, image: agnhost, args: [netexec]}]}
---
apiVersion: v1
kind: Service
metadata: {name: shared}
spec:
  type: LoadBalancer
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: local}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
"""
NODES = ("node:n1", "node:n2", "node:n3")
FLOWS = 30
PERSISTENT_CLIENT = """
import http.client, sys
address, count = sys.argv[1], int(sys.argv[2])
connections = [http.client.HTTPConnection(address, 80, timeout=2) for _ in range(count)]
for line in sys.stdin:
    answers = []
    for connection in connections:
        try:
            connection.request("GET", "/hostname")
            server = connection.getresponse().read().decode()
            connection.request("GET", "/clientip")
            client = connection.getresponse().read().decode().rpartition(":")[0]
            answers.append(f"{server} {client}")
        except (OSError, http.client.HTTPException):
            connection.close()
            answers.append(" ")
    print(*answers, sep=",", flush=True)
"""
"""Send a request on each connection for each input line.

A lost connection is reopened by the next request.
"""


@pytest.mark.parametrize("version", [4, 6])
def test_flows_are_distributed_over_the_nodes(lab: Lab, version: int) -> None:
    """With the policy Cluster, each node forwards flows to any pod.

    With Local, each node serves its own pod, which sees the client.
    """
    lab.up(MANIFEST)
    view = LabView(lab, version)
    answers = view.ask("ext:client", *[("TCP", view.load_balancer_ips["shared"], 80)] * 200)
    assert {answer.client[0] for answer in answers} == {view.address(node) for node in NODES}
    answers = view.ask("ext:client", *[("TCP", view.load_balancer_ips["local"], 80)] * 200)
    assert {answer.server for answer in answers} == {pod["name"] for pod in lab.pods("web")}
    assert all(answer.client[0] == answer.source[0] for answer in answers)


@pytest.mark.parametrize("service", ["shared", "local"])
def test_only_the_flows_of_a_removed_node_break(lab: Lab, service: str) -> None:
    """One of three nodes becomes unhealthy.

    Connections through the other two nodes continue, and new ones avoid the unhealthy node.
    """
    lab.up(MANIFEST)
    view = LabView(lab, 4)
    address, client = view.load_balancer_ips[service], view.places["ext:client"]
    with connected(client, address) as ask:
        before = ask()
        by_node = {
            node: {flow for flow, answer in enumerate(before) if answer[1] == view.address(node)}
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
            lambda: "172.18.0.4" not in router(lab, "ip", "route", "show", address),
            "the removal of n2",
        )
        after = ask()
        unaffected = by_node["node:n1"] | by_node["node:n3"]
        assert [after[flow] for flow in unaffected] == [before[flow] for flow in unaffected]
        assert all(server for server, _ in ask())


def router(lab: Lab, *command: str) -> str:
    """Return the output of a command in the fabric's router."""
    return subprocess.run(
        ["ip", "netns", "exec", f"{lab.name}_fabric_router", *command],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@contextmanager
def connected(place: Any, address: str) -> Iterator[Any]:
    """Yield a function that sends a request on each connection.

    It returns the name of the server and the client address that it saw.
    """
    line = [
        "nsenter",
        f"--net={place['netns']}",
        sys.executable,
        "-c",
        PERSISTENT_CLIENT,
        address,
        str(FLOWS),
    ]
    with subprocess.Popen(
        line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:

        def ask() -> list[tuple[str, str]]:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("ask\n")
            return [
                (server, client)
                for server, _, client in (
                    answer.partition(" ") for answer in process.stdout.readline()[:-1].split(",")
                )
            ]

        yield ask
        assert process.stdin is not None
        process.stdin.close()


@pytest.mark.parametrize("kind", ["nexthop", "group", "route"])
def test_removed_objects_of_the_router_are_restored(lab: Lab, kind: str) -> None:
    """The kernel removes dependent objects with them."""
    lab.up(MANIFEST)
    address = LabView(lab, 4).load_balancer_ips["shared"]
    before = router(lab, "ip", "route", "show", address)
    group = before.partition("nhid ")[2].split()[0]
    commands = {
        "nexthop": ("nexthop", "flush"),
        "group": ("nexthop", "del", "id", group),
        "route": ("route", "del", address),
    }
    router(lab, "ip", *commands[kind])
    assert router(lab, "ip", "route", "show", address) != before
    wait_for(
        lambda: router(lab, "ip", "route", "show", address) == before,
        "the router to be as it was",
        within_s=5,
    )
    wait_for(lambda: not lab.problems, "the lab to be whole")
    assert lab.run("diff").out.strip() == "the kernel is as it should be"
