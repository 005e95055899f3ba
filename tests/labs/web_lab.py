"""A lab with a client and a Service, for tests of processes and changes."""

from __future__ import annotations

import subprocess
from typing import Any

from tests.clusters import deployment
from tests.labs.lab import Lab

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


def kernel_state(lab: Lab) -> dict[str, Any]:
    """Return the lab's state in the kernel: links, addresses, routes, rules, listeners, pids."""
    inspected = lab.inspected
    places = {
        place["sandbox"]: place
        for place in (*inspected["nodes"], *inspected["pods"], *inspected["external"])
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
            *(_sorted_lines(lab.inside(place, *command)) for command in commands),
        )
        for name, place in places.items()
    }


def _sorted_lines(text: str) -> list[str]:
    return sorted(" ".join(line.split()) for line in text.splitlines())


def rule_generations(lab: Lab) -> dict[str, str]:
    """Return the ruleset generation of every node, which each transaction increments."""
    generations = {}
    for node in lab.inspected["nodes"]:
        with subprocess.Popen(
            ["nsenter", f"--net={node['netns']}", "nft", "monitor"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as monitor:
            monitor.kill()
        generations[node["name"]] = lab.inside(node, "python3", "-S", "-c", GENERATION_PROGRAM)
    return generations


GENERATION_PROGRAM = """
import socket, struct
s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
s.send(struct.pack("=IHHII", 20, 10 << 8 | 16, 1, 1, 0) + struct.pack("=BBH", 0, 0, 0))
print(struct.unpack_from(">I", s.recv(4096), 24)[0])
"""


def web_answers(lab: Lab) -> bool:
    client, address = lab.pod("client"), lab.service("web")["cluster_ips"][0]
    answers = lab.ask(client, *[("TCP", address, 80)] * 20)
    return all(
        answer.server.startswith("web-") and answer.client[0] == client["addresses"][0]
        for answer in answers
    )
