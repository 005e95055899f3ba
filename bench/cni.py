"""Benchmark cni: pods of each CNI mode beside the default mode, and paths beside those by hand."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from bench import manifests
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
from bench.measure import compiled, folder, heading, lab, spread, table, timed_lab
from bench.paths_by_hand import BY_HAND, address_by_hand

ROUNDS = 5
PODS = 1000
DEFAULT = "bridge"
LONGEST = "120s"


def run(rounds: int = ROUNDS, pods: int = PODS) -> None:
    """Print two tables: the time of `up` with `pods` pods, and paths between two nodes."""
    with folder() as files:
        _print_creation(rounds, pods, files)
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
