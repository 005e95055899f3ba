"""Benchmark changes: time from an API call that replaces an endpoint until all nodes use it.

One endpoint of one Service among many is replaced.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import time
from collections.abc import Sequence
from typing import Any

from bench.measure import KUBENETLAB, LAB, folder, heading, lab, output, table
from bench.rules import MODES, cluster_ip, endpoints
from kubenetlab.kernel.syscalls import CLONE_NEWNET, setns
from kubenetlab.lab.client import Client
from kubenetlab.lab.paths import LAB_API

SIZES = (100, 1000, 10_000)
ROUNDS = 12
SERVER, PORT = 8080, 80
CHANGE_TIMEOUT_S, ANSWER_TIMEOUT_S = 10.0, 0.02
"""Timeouts of a change, and of one connection, which is repeated."""
POLL_INTERVAL_S = 0.002
"""Pause before a node is polled again; without it, polling takes the processor from the agent."""
CHANGE_INTERVAL_S = 1.0
"""Pause between two changes, in which the lab updates its kube-proxies."""
LAB_YAML = """\
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
networking: {podSubnet: 10.240.0.0/12, serviceSubnet: 10.96.0.0/12}
---
apiVersion: v1
kind: Pod
metadata: {name: one}
spec: {nodeName: worker, containers: [{name: main, image: agnhost, args: [netexec]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: two}
spec: {nodeName: worker2, containers: [{name: main, image: agnhost, args: [netexec]}]}
"""


def run(rounds: int = ROUNDS, sizes: Sequence[int] = SIZES) -> None:
    """Print the table."""
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
        inspected = client.inspect()
        pods = {pod["name"]: pod["addresses"][0] for pod in inspected["pods"]}
        paths = [node["netns"] or "" for node in inspected["nodes"]]
        nodes = [os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in paths]
        number = services // 2
        _measure_change(client, nodes, number, "one", pods["one"])
        durations = [
            _measure_change(client, nodes, number, name, pods[name])
            for name in ("two", "one") * (rounds // 2)
        ]
        for fd in nodes:
            os.close(fd)
    answered, in_force = ([1000 * pair[side] for pair in durations] for side in (0, 1))
    return [
        f"{services:,}",
        f"`{mode}`",
        f"{statistics.median(answered):.0f}",
        f"{statistics.median(in_force):.0f}",
        f"{max(in_force):.0f}",
    ]


def _measure_change(
    client: Client, nodes: Sequence[int], number: int, name: str, address: str
) -> tuple[float, float]:
    """Return the seconds until the API has answered, and until all nodes use the new endpoint.

    A node uses it when a new connection reaches the pod called `name`. The nodes are polled one
    after the other, after the API has answered. The second time is that at which the last
    connection began.
    """
    time.sleep(CHANGE_INTERVAL_S)
    document = _slice(number, [address])
    started = time.perf_counter()
    client.post(f"{LAB_API}/apply", {"documents": [document]})
    answered = time.perf_counter() - started
    waiting, asked_at = list(nodes), started
    while waiting:
        asked_at = time.perf_counter()
        assert asked_at - started < CHANGE_TIMEOUT_S, (
            f"{len(waiting)} nodes do not use the new endpoint after {CHANGE_TIMEOUT_S:g} s"
        )
        if _answering_pod(waiting[0], cluster_ip(number)) == name:
            waiting.pop(0)
        else:
            time.sleep(POLL_INTERVAL_S)
    return answered, asked_at - started


def _answering_pod(node: int, address: str) -> str:
    """Return the hostname of the pod that answers a new connection from a node, or ""."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(node, CLONE_NEWNET)
        with socket.create_connection((address, PORT), ANSWER_TIMEOUT_S) as connection:
            connection.sendall(b"GET /hostname HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return connection.recv(1024).rpartition(b"\r\n\r\n")[2].decode()
    except OSError:
        return ""
    finally:
        setns(home, CLONE_NEWNET)
        os.close(home)


def _service(number: int) -> str:
    spec = {"clusterIP": cluster_ip(number), "ports": [{"port": PORT, "targetPort": SERVER}]}
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
