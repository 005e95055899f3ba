"""Benchmark datapath: latency and throughput in a lab of `up`, and in the lab of `plan -o sh`."""

from __future__ import annotations

import os
import statistics
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from bench import manifests
from bench.measure import KUBENETLAB, LAB, compiled, folder, heading, lab, output, ratio, table
from kubenetlab.lab.client import Client

ROUNDS = 9
ECHO, SINK = 7000, 7001
CONNECTS, TURNS = 500, 5000
API = "/apis/kubenetlab.dev/v1alpha1/inspect"
HOLDER = "mkdir -p /run/netns && mount -t tmpfs tmpfs /run/netns && echo ready && exec cat"


class NetworkPath(NamedTuple):
    """A path from the pod `client` to an address, with its measurements.

    A measurement is connect time and round trip in microseconds, and Gbit/s.
    """

    title: str
    address: str
    ours: list[Sequence[float]]
    """Measurements in the lab of `up`, one for each round."""
    by_hand: list[Sequence[float]]
    """Measurements in the namespaces of the script, one for each round."""


PodCommand = Callable[[str], tuple[str, ...]]
"""Function that returns the prefix of commands to run in the network namespace of a pod."""


def netns_in_the_lab(pod: str) -> str:
    """Return the name of a pod's network namespace in the lab."""
    return f"{LAB}_pod_default_{pod}"


def in_the_lab(pod: str) -> tuple[str, ...]:
    return in_netns(netns_in_the_lab(pod))


def in_netns(netns: str) -> tuple[str, ...]:
    return ("nsenter", f"--net=/run/netns/{netns}")


@contextmanager
def script_lab(script: str, netns_of: Callable[[str], str]) -> Iterator[PodCommand]:
    """Run a script that makes pods, in private mount and network namespaces.

    netns_of: function that returns the name of a pod's network namespace.
    """
    with subprocess.Popen(
        ["unshare", "-mn", "sh", "-c", HOLDER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        in_namespaces = ("nsenter", "-t", str(holder.pid), "-m", "-n")
        output(*in_namespaces, "sh", "-s", stdin=script)
        yield lambda pod: (*in_namespaces, *in_netns(netns_of(pod)))


@contextmanager
def servers(inside: PodCommand, program: Path, processors: Sequence[int]) -> Iterator[None]:
    """Run an echo server and a sink in each pod.

    The echo server runs on the client's processor, the sink on another one if there is one.
    """
    client_processor, far_processor = str(processors[0]), str(processors[-1])
    commands = [
        (*inside(pod), "taskset", "-c", processor, str(program), role, str(port))
        for pod in ("near", "far")
        for role, port, processor in (
            ("echo", ECHO, client_processor),
            ("sink", SINK, far_processor),
        )
    ]
    processes = [subprocess.Popen(command) for command in commands]
    try:
        yield
    finally:
        for server in processes:
            server.kill()
            server.wait()


def run(rounds: int = ROUNDS) -> None:
    """Print the table; each path is measured in both labs in turn."""
    processors = sorted(os.sched_getaffinity(0))
    with folder() as files, ExitStack() as stack:
        program = compiled("roundtrip", files)
        if program is None:
            print("no datapath: gcc is not installed")
            return
        manifest = files / "paths.yaml"
        manifest.write_text(manifests.paths(ECHO, SINK))
        script = output(KUBENETLAB, "plan", "-o", "sh", "--lab", LAB, "-f", str(manifest))
        by_hand = stack.enter_context(script_lab(script, netns_in_the_lab))
        stack.enter_context(lab(manifest))
        for inside in (in_the_lab, by_hand):
            stack.enter_context(servers(inside, program, processors))
        paths = list(_paths())
        for _ in range(rounds):
            for path in paths:
                path.ours.append(
                    figures(in_the_lab("client"), program, path.address, processors[0])
                )
                path.by_hand.append(
                    figures(by_hand("client"), program, path.address, processors[0])
                )
    print_paths(rounds, paths)


def print_paths(rounds: int, paths: Iterable[NetworkPath]) -> None:
    """Print the table of measured paths."""
    print(heading(rounds))
    head = (
        "way",
        *(
            cell
            for figure in ("connect, µs", "round trip, µs", "TCP, Gbit/s")
            for cell in (figure, "by hand", "ratio")
        ),
    )
    print(table(head, ([path.title, *_cells(path)] for path in paths)))


def addresses_of_pods() -> dict[str, str]:
    """Return the first address of each pod of the benchmark's lab."""
    return {
        pod["name"]: pod["addresses"][0]
        for pod in Client(LAB).get(API)["pods"]
        if pod["namespace"] == "default"
    }


def _paths() -> Iterator[NetworkPath]:
    services = {
        service["name"]: service["cluster_ips"][0]
        for service in Client(LAB).get(API)["services"]
        if service["namespace"] == "default"
    }
    for title, addresses in (
        ("pod → pod", addresses_of_pods()),
        ("pod → ClusterIP → pod", services),
    ):
        for name, place in (("near", "same node"), ("far", "other node")):
            yield NetworkPath(f"{title}, {place}", addresses[name], [], [])


def figures(inside: Sequence[str], program: Path, address: str, processor: int) -> Sequence[float]:
    """Return the medians of connect and round trip in microseconds, and Gbit/s of one second."""
    client = (*inside, "taskset", "-c", str(processor), str(program))
    connect, turn = output(*client, "ask", address, str(ECHO), str(CONNECTS), str(TURNS)).split()
    return float(connect), float(turn), float(output(*client, "pour", address, str(SINK)))


def _cells(path: NetworkPath) -> Iterator[str]:
    """Yield each figure in both labs and the ratio: median latencies, and the best throughput."""
    *latencies, (ours, by_hand) = zip(
        zip(*path.ours, strict=True), zip(*path.by_hand, strict=True), strict=True
    )
    for lab_values, script_values in latencies:
        yield from (
            f"{statistics.median(lab_values):.1f}",
            f"{statistics.median(script_values):.1f}",
            f"{ratio(lab_values, script_values):.2f}",
        )
    yield from (f"{max(ours):.2f}", f"{max(by_hand):.2f}", f"{max(ours) / max(by_hand):.2f}")
