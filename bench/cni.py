"""Benchmark cni: pods of each CNI mode beside the default mode, and paths beside those by hand."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from bench import manifests, plugins
from bench.datapath import (
    ECHO,
    SINK,
    NetworkPath,
    addresses_of_pods,
    figures,
    in_the_lab,
    print_paths,
    script_lab,
    servers,
)
from bench.measure import (
    KUBENETLAB,
    LAB,
    PYTHON,
    FailedError,
    compiled,
    folder,
    heading,
    lab,
    output,
    quiet,
    ratio,
    spread,
    table,
    timed_lab,
)
from bench.paths_by_hand import BY_HAND, address_by_hand

ROUNDS = 5
PODS = 1000
NODES = 10
PLUGIN_PODS = 400
"""Fewer, because the kernel's table of learned neighbours has 1,024 entries."""
DEFAULT = "bridge"
LONGEST = "120s"
LONGEST_S = 30


def run(rounds: int = ROUNDS, pods: int = PODS) -> None:
    """Print tables: `up` with `pods` pods, an added node, real plugins, and paths between nodes."""
    with folder() as files:
        _print_creation(rounds, pods, files)
        _print_added_node(rounds, files)
        _print_plugins(rounds, files)
        program = compiled("roundtrip", files)
        if program is None:
            print("no paths: gcc is not installed")
            return
        manifest = files / "paths.yaml"
        manifest.write_text(manifests.paths(ECHO, SINK))
        paths = [path for mode in BY_HAND for path in _measured(mode, manifest, program, rounds)]
    print_paths(rounds, paths)


def _print_creation(rounds: int, pods: int, files: Path) -> None:
    """Print the time of `up` in each mode; in each round every mode creates the pods once."""
    manifest = files / "pods.yaml"
    manifest.write_text(manifests.many(pods))
    times: dict[str, list[float]] = {mode: [] for mode in BY_HAND}
    with lab():
        for _ in range(rounds):
            for mode, durations in times.items():
                options = ("--cni", mode, "--timeout", LONGEST)
                durations.append(timed_lab("up", "-f", str(manifest), *options))
                timed_lab("down")
    baseline = statistics.median(times[DEFAULT])
    print(heading(rounds))
    print(
        table(
            ("CNI mode", f"`up`, {pods} pods", "range", f"of {DEFAULT}"),
            (
                (mode, *spread(durations), f"{statistics.median(durations) / baseline:.2f} ×")
                for mode, durations in times.items()
            ),
        )
    )


def _print_added_node(rounds: int, files: Path) -> None:
    """Print the time until a pod on a new node is reached from all nodes of a lab of ten."""
    manifest = files / "nodes.yaml"
    rows: list[tuple[str, ...]] = []
    for mode in BY_HAND:
        durations = []
        for _ in range(rounds):
            manifest.write_text(manifests.pod_on_each_node(NODES))
            with lab(manifest, options=("--cni", mode)):
                manifest.write_text(manifests.pod_on_each_node(NODES + 1))
                durations.append(_added_node(manifest, mode))
        rows.append((mode, *spread(durations)))
    print(heading(rounds))
    print(table(("CNI mode", "new node reached from all", "range"), rows))


def _added_node(manifest: Path, mode: str) -> float:
    """Return the seconds of `up` with one more node, and until all pods have reached its pod."""
    quiet()
    started = time.perf_counter()
    output(KUBENETLAB, "up", "--lab", LAB, "-f", str(manifest), "--cni", mode)
    address = addresses_of_pods()[manifests.pod_of_node(NODES)]
    for number in range(NODES):
        inside = in_the_lab(manifests.pod_of_node(number))
        ping = (*inside, "ping", "-q", "-c1", "-W1", address)
        while subprocess.run(ping, capture_output=True, check=False).returncode:
            if time.perf_counter() - started > LONGEST_S:
                raise FailedError(f"{' '.join(ping)}: no answer within {LONGEST_S} s")
    return time.perf_counter() - started


def _print_plugins(rounds: int, files: Path) -> None:
    """Print the time of `up` with real plugins, beside these plugins alone."""
    if plugins.directory() is None:
        print("no conflist: the CNI plugins are not installed (containernetworking-plugins)")
        return
    nodes = manifests.workers_of(PLUGIN_PODS)
    manifest = files / "plugins.yaml"
    manifest.write_text(manifests.many(PLUGIN_PODS))
    alone = ("unshare", "-n", PYTHON, "-m", "bench.plugins", str(PLUGIN_PODS), str(nodes))
    ours, theirs = [], []
    with lab():
        for _ in range(rounds):
            theirs.append(float(output(*alone)))
            options = ("--cni", "conflist", "--timeout", LONGEST)
            ours.append(timed_lab("up", "-f", str(manifest), *options))
            timed_lab("down")
    print(heading(rounds))
    print(
        table(
            ("conflist", f"{PLUGIN_PODS} pods", "range", "of the plugins alone"),
            (
                ("the plugins alone", *spread(theirs), ""),
                ("`up`", *spread(ours), f"{ratio(ours, theirs):.2f} ×"),
            ),
        )
    )


def _measured(mode: str, manifest: Path, program: Path, rounds: int) -> Iterator[NetworkPath]:
    """Yield the measured paths of one mode: on one node, and to the other node.

    No kube-proxy runs, so that only the state of the mode is compared.
    """
    processors: Sequence[int] = sorted(os.sched_getaffinity(0))
    with ExitStack() as stack:
        by_hand = stack.enter_context(script_lab(BY_HAND[mode](), str))
        stack.enter_context(lab(manifest, options=("--cni", mode, "--proxy", "none")))
        for inside in (in_the_lab, by_hand):
            stack.enter_context(servers(inside, program, processors))
        addresses = addresses_of_pods()
        paths = {
            name: NetworkPath(f"{mode}, {place}", addresses[name], [], [])
            for name, place in (("near", "same node"), ("far", "other node"))
        }
        for _ in range(rounds):
            for name, path in paths.items():
                for inside, address, results in (
                    (in_the_lab, path.address, path.ours),
                    (by_hand, address_by_hand(name), path.by_hand),
                ):
                    client = inside("client")
                    results.append(figures(client, program, address, processors[0]))
        yield from paths.values()
