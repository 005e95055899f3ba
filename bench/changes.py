"""changes: how long it takes from the API call until one endpoint that is another, of one Service among many, is in force on all nodes."""

from __future__ import annotations

import json
import os
import socket
import statistics
import time
from collections.abc import Sequence
from typing import Any

from bench.measure import KUBENETLAB, LAB, folder, heading, lab, output, table
from bench.rules import MODES, endpoints, vip
from kubenetlab.kernel.syscalls import CLONE_NEWNET, setns
from kubenetlab.lab.client import Client
from kubenetlab.lab.paths import LAB_API

SIZES = (100, 1000, 10_000)
ROUNDS = 12
SERVER, PORT = 8080, 80
PATIENCE_S, ANSWER_S = 10.0, 0.02
"""How long a change may take; how long an answer may: who is sent to nobody asks again."""
PAUSE_S = 0.002
"""Before who has not heard of it is asked again: who asks without a pause takes the processor from who is to tell it."""
REST_S = 1.0
"""Between two changes: the lab tells its kube-proxies of the last one."""
LAB_YAML = """\
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
networking: {podSubnet: 10.240.0.0/12, serviceSubnet: 10.96.0.0/12}
---
{apiVersion: v1, kind: Pod, metadata: {name: one}, spec: {nodeName: worker, containers: [{name: main, image: agnhost, args: [netexec]}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: two}, spec: {nodeName: worker2, containers: [{name: main, image: agnhost, args: [netexec]}]}}
"""


def run(rounds: int = ROUNDS, sizes: Sequence[int] = SIZES) -> None:
    """Prints the table."""
    print(heading(rounds))
    head = ("Services", "mode", "the API answers, ms", "in force on 3 nodes, ms", "the slowest")
    print(
        table(
            head,
            [
                _row(mode, size, rounds)
                for size in sizes
                for mode in MODES
                if (mode, size) != ("nftables,layout=faithful", 10_000)
            ],
        )
    )


def _row(mode: str, services: int, rounds: int) -> list[str]:
    with folder() as files, lab():
        manifest = files / "services.yaml"
        manifest.write_text(LAB_YAML + "".join(map(_service, range(services))))
        output(
            KUBENETLAB,
            "up",
            "--lab",
            LAB,
            "-f",
            str(manifest),
            "--proxy",
            mode,
            "--timeout",
            "300s",
        )
        client = Client(LAB)
        seen = client.inspect()
        pods = {pod["name"]: pod["addresses"][0] for pod in seen["pods"]}
        nodes = [os.open(node["netns"], os.O_RDONLY | os.O_CLOEXEC) for node in seen["nodes"]]
        number = services // 2
        _changed(client, nodes, number, "one", pods["one"])
        found = [
            _changed(client, nodes, number, name, pods[name])
            for name in ("two", "one") * (rounds // 2)
        ]
        for fd in nodes:
            os.close(fd)
    answered, in_force = ([1000 * pair[side] for pair in found] for side in (0, 1))
    return [
        f"{services:,}",
        f"`{mode}`",
        f"{statistics.median(answered):.0f}",
        f"{statistics.median(in_force):.0f}",
        f"{max(in_force):.0f}",
    ]


def _changed(
    client: Client, nodes: Sequence[int], number: int, name: str, address: str
) -> tuple[float, float]:
    """Seconds until the API has answered, and until the connections of every node come to the pod of that name: those begun at that time
    or later. The nodes are asked, one after the other, when the answer is there."""
    time.sleep(REST_S)
    document = _slice(number, [address])
    begun = time.perf_counter()
    client.post(f"{LAB_API}/apply", {"documents": [document]})
    answered = time.perf_counter() - begun
    left, asked = list(nodes), begun
    while left:
        asked = time.perf_counter()
        assert asked - begun < PATIENCE_S, (
            f"{len(left)} nodes have not heard of it after {PATIENCE_S:g} s"
        )
        if _who_answers(left[0], vip(number)) == name:
            left.pop(0)
        else:
            time.sleep(PAUSE_S)
    return answered, asked - begun


def _who_answers(node: int, address: str) -> str:
    """The name that a server behind an address says, asked from a node by a connection of its own."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(node, CLONE_NEWNET)
        with socket.create_connection((address, PORT), ANSWER_S) as connection:
            connection.sendall(b"GET /hostname HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return connection.recv(1024).rpartition(b"\r\n\r\n")[2].decode()
    except OSError:
        return ""
    finally:
        setns(home, CLONE_NEWNET)
        os.close(home)


def _service(number: int) -> str:
    spec = {"clusterIP": vip(number), "ports": [{"port": PORT, "targetPort": SERVER}]}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": f"svc-{number}"},
        "spec": spec,
    }
    return "".join(
        f"---\n{json.dumps(document)}\n"
        for document in (service, _slice(number, endpoints(number)))
    )


def _slice(number: int, addresses: Sequence[str]) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"svc-{number}",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": f"svc-{number}"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "", "port": SERVER}],
        "endpoints": [{"addresses": [address]} for address in addresses],
    }
