"""datapath: what a packet's way costs in a lab of `up`, and in the same lab made by hand with the script of `plan -o sh`."""

from __future__ import annotations

import os
import statistics
import subprocess
from collections.abc import Callable, Iterator, Sequence
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


class Way(NamedTuple):
    """From the pod `client` to an address; `figures` are rounds of ours and by hand: connect µs, round trip µs, Gbit/s."""

    title: str
    address: str
    ours: list[Sequence[float]]
    by_hand: list[Sequence[float]]


Inside = Callable[[str], tuple[str, ...]]
"""What a command begins with that is to run in the network of the pod so named."""


def in_the_lab(pod: str) -> tuple[str, ...]:
    return ("nsenter", f"--net=/run/netns/{LAB}_pod_default_{pod}")


@contextmanager
def made_by_hand(manifest: Path) -> Iterator[Inside]:
    """The lab of a manifest, made by `ip`, `nft` and `sysctl` in namespaces for mounts and network that are its own."""
    script = output(KUBENETLAB, "plan", "-o", "sh", "--lab", LAB, "-f", str(manifest))
    with subprocess.Popen(
        ["unshare", "-mn", "sh", "-c", HOLDER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        there = ("nsenter", "-t", str(holder.pid), "-m", "-n")
        output(*there, "sh", "-s", given=script)
        yield lambda pod: (*there, *in_the_lab(pod))


@contextmanager
def servers(inside: Inside, program: Path, processors: Sequence[int]) -> Iterator[None]:
    """In each pod one who sends back, on the client's processor, and one who swallows, on another if there is one."""
    near, other = str(processors[0]), str(processors[-1])
    commands = [
        (*inside(pod), "taskset", "-c", processor, str(program), what, str(port))
        for pod in ("near", "far")
        for what, port, processor in (("echo", ECHO, near), ("sink", SINK, other))
    ]
    running = [subprocess.Popen(command) for command in commands]
    try:
        yield
    finally:
        for server in running:
            server.kill()
            server.wait()


def run(rounds: int = ROUNDS) -> None:
    """Prints the table: way by way, in turn in the one lab and in the other."""
    processors = sorted(os.sched_getaffinity(0))
    with folder() as files, ExitStack() as stack:
        program = compiled("roundtrip", files)
        if program is None:
            print("no datapath: gcc is not installed")
            return
        manifest = files / "paths.yaml"
        manifest.write_text(manifests.paths(ECHO, SINK))
        by_hand = stack.enter_context(made_by_hand(manifest))
        stack.enter_context(lab(manifest))
        for inside in (in_the_lab, by_hand):
            stack.enter_context(servers(inside, program, processors))
        ways = list(_ways())
        for _ in range(rounds):
            for way in ways:
                way.ours.append(figures(in_the_lab("client"), program, way.address, processors[0]))
                way.by_hand.append(figures(by_hand("client"), program, way.address, processors[0]))
    print(heading(rounds))
    head = (
        "way",
        *(
            cell
            for what in ("connect, µs", "round trip, µs", "TCP, Gbit/s")
            for cell in (what, "by hand", "ratio")
        ),
    )
    print(table(head, ([way.title, *_cells(way)] for way in ways)))


def _ways() -> Iterator[Way]:
    seen = Client(LAB).get(API)
    pods = {
        pod["name"]: pod["addresses"][0] for pod in seen["pods"] if pod["namespace"] == "default"
    }
    services = {
        service["name"]: service["cluster_ips"][0]
        for service in seen["services"]
        if service["namespace"] == "default"
    }
    for title, addresses in (("pod → pod", pods), ("pod → ClusterIP → pod", services)):
        for name, where in (("near", "same node"), ("far", "other node")):
            yield Way(f"{title}, {where}", addresses[name], [], [])


def figures(inside: Sequence[str], program: Path, address: str, processor: int) -> Sequence[float]:
    """Medians of connect and round trip in microseconds, and Gbit/s for a second."""
    client = (*inside, "taskset", "-c", str(processor), str(program))
    connect, turn = output(*client, "ask", address, str(ECHO), str(CONNECTS), str(TURNS)).split()
    return float(connect), float(turn), float(output(*client, "pour", address, str(SINK)))


def _cells(way: Way) -> Iterator[str]:
    """Of each figure ours, by hand, and the ratio: medians of latencies, of throughput the best second."""
    *latencies, (ours, by_hand) = zip(
        zip(*way.ours, strict=True), zip(*way.by_hand, strict=True), strict=True
    )
    for mine, theirs in latencies:
        yield from (
            f"{statistics.median(mine):.1f}",
            f"{statistics.median(theirs):.1f}",
            f"{ratio(mine, theirs):.2f}",
        )
    yield from (f"{max(ours):.2f}", f"{max(by_hand):.2f}", f"{max(ours) / max(by_hand):.2f}")
