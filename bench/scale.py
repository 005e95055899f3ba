"""Benchmark scale: labs of 100, 1,000 and (--large) 5,000 pods, until all pods are ready.

The baseline is floor.c. A second table has the resources that the labs take.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import manifests, processes
from bench.measure import compiled, floor, folder, heading, lab, ratio, spread, table, timed_lab

ROUNDS = 5
SIZES = (100, 1000)
LARGE = 5000
COMPARED = 1000
"""Size that is also measured without probes, and with the smallest rules."""
FAST = ("--proxy=nftables,layout=fast",)
IDLE_S = 20.0
LONGEST = "10m"


class Size:
    """Measurements of labs of one size: seconds for each round, and resources of one lab."""

    def __init__(
        self, pods: int, *, has_probes: bool = True, options: tuple[str, ...] = ()
    ) -> None:
        self.pods = pods
        self.has_probes = has_probes
        self.options = options
        """Options of `up`."""
        self.up: list[float] = []
        self.floor: list[float] = []
        self.again: list[float] = []
        self.down: list[float] = []
        self.agent_back: list[float] = []
        self.memory = processes.Memory(0, 0)
        self.load = 0.0

    @property
    def all_pods(self) -> int:
        return self.pods + manifests.system_pods(manifests.workers_of(self.pods))

    @property
    def title(self) -> str:
        nodes = manifests.workers_of(self.pods) + 1
        variant = ("" if self.has_probes else ", no probes") + "".join(
            f", `{option}`" for option in self.options
        )
        services = manifests.services_of(self.pods)
        return f"{self.all_pods:,} pods, {nodes} nodes, {services} Services{variant}"

    @property
    def manifest(self) -> str:
        return manifests.many(self.pods, has_probes=self.has_probes)


def run(rounds: int = ROUNDS, sizes: Sequence[int] = SIZES) -> None:
    """Print the table of times and the table of resources."""
    measured = [Size(pods) for pods in sizes]
    measured += (
        [Size(COMPARED, has_probes=False), Size(COMPARED, has_probes=False, options=FAST)]
        if COMPARED in sizes
        else []
    )
    with folder() as files, lab():
        program = compiled("floor", files)
        if program is None:
            print("no floor: gcc is not installed", file=sys.stderr)
        for size in measured:
            manifest = files / "pods.yaml"
            manifest.write_text(size.manifest)
            for round_number in range(rounds):
                measure(size, manifest, program, is_last=round_number == rounds - 1)
    print(heading(rounds))
    print(
        table(
            (
                "lab",
                "`up`, all ready",
                "min – max",
                "floor in C",
                "ratio",
                "`up` again, no change",
                "`down`",
            ),
            map(_times, measured),
        )
    )
    head = (
        "lab",
        "memory of the agent",
        "of all its processes",
        "per pod",
        "processor time when idle",
        "killed agent: next answer after",
    )
    print(table(head, map(_weights, measured)))


def measure(size: Size, manifest: Path, program: Path | None, is_last: bool) -> None:
    """Measure one lab from `up` to `down`, and floor.c; the last round measures resources, too."""
    size.up.append(timed_lab("up", "-f", str(manifest), "--timeout", LONGEST, *size.options))
    size.again.append(timed_lab("up", "-f", str(manifest), "--timeout", LONGEST, *size.options))
    if is_last:
        size.load = processes.load(IDLE_S)
        size.memory = processes.memory()
    size.agent_back.append(processes.return_of_the_agent())
    size.down.append(timed_lab("down"))
    if program:
        size.floor.append(floor(program, size.pods + manifests.COREDNS))


def _times(size: Size) -> Sequence[str]:
    floor_cells = (
        (spread(size.floor)[0], f"{ratio(size.up, size.floor):.2f}")
        if size.floor
        else ("gcc is not installed", "")
    )
    return (size.title, *spread(size.up), *floor_cells, spread(size.again)[0], spread(size.down)[0])


def _weights(size: Size) -> Sequence[str]:
    return (
        size.title,
        f"{size.memory.agent:.0f} MB",
        f"{size.memory.all:.0f} MB",
        f"{size.memory.all * 1024 / size.all_pods:.0f} kB",
        f"{size.load:.1f} %",
        f"{statistics.median(size.agent_back) * 1000:.0f} ms",
    )
