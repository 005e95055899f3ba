"""Benchmark peers: time to create N pods by kubenetlab, floor.c and other tools (makers.py)."""

from __future__ import annotations

import importlib.util
import shutil
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path

from bench import manifests
from bench.makers import CNI_FOLDER, TOOLS
from bench.measure import (
    HERE,
    PYTHON,
    compiled,
    floor,
    folder,
    heading,
    lab,
    output,
    quiet,
    ratio,
    table,
    timed_lab,
)

ROUNDS = 5
SIZES = (50, 200)
SYSTEM_PYTHON = "/usr/bin/python3"
OURS, FLOOR = "kubenetlab: whole `up`, all ready", "floor in C"
ISOLATED = (
    "unshare",
    "-n",
    "-m",
    "-p",
    "--fork",
    "--kill-child",
    "--mount-proc",
    "sh",
    "-c",
    'mount -t tmpfs tmpfs /run && "$0" "$@"',
)
"""Prefix that runs a command in new namespaces, which end with it."""


def timed_tool(tool: str, pods: int) -> float:
    """Return the seconds in which a tool of makers.py creates `pods` pods, on a quiet kernel."""
    quiet()
    python = SYSTEM_PYTHON if tool == "Mininet" else PYTHON
    return float(output(*ISOLATED, python, str(HERE / "makers.py"), tool, str(pods)))


def is_missing(tool: str) -> bool:
    """Return True if a tool of makers.py is not installed."""
    match tool:
        case "Mininet":
            command = [SYSTEM_PYTHON, "-c", "import mininet.nodelib"]
            return (
                not shutil.which("brctl")
                or subprocess.run(command, capture_output=True, check=False).returncode != 0
            )
        case "CNI bridge + host-local":
            return not all(
                Path(CNI_FOLDER, plugin).exists() for plugin in ("loopback", "bridge", "host-local")
            )
        case "pyroute2":
            return importlib.util.find_spec("pyroute2") is None
    return False


def run(rounds: int = ROUNDS, sizes: Sequence[int] = SIZES) -> None:
    """Print the table; in each round every tool creates the pods once."""
    with folder() as files, lab():
        program = compiled("floor", files)
        absent = {tool for tool in TOOLS if is_missing(tool)} | (
            {FLOOR} if program is None else set()
        )
        measured: dict[str, list[list[float]]] = {
            name: [[] for _ in sizes] for name in (OURS, FLOOR, *TOOLS)
        }
        manifest = files / "pods.yaml"
        for index, pods in enumerate(sizes):
            manifest.write_text(manifests.many(pods - manifests.COREDNS))
            for _ in range(rounds):
                measured[OURS][index].append(timed_lab("up", "-f", str(manifest)))
                timed_lab("down")
                if program:
                    measured[FLOOR][index].append(floor(program, pods))
                for tool in [tool for tool in TOOLS if tool not in absent]:
                    measured[tool][index].append(timed_tool(tool, pods))
    print(heading(rounds))
    head = (
        "made by",
        *(cell for pods in sizes for cell in (f"{pods} pods, ms each", "of the floor")),
    )
    print(
        table(head, ((name, *_cells(name, measured, sizes, name in absent)) for name in measured))
    )


def _cells(
    name: str, measured: dict[str, list[list[float]]], sizes: Sequence[int], is_absent: bool
) -> list[str]:
    if is_absent:
        return ["not installed", ""] * len(sizes)
    cells = []
    for index, pods in enumerate(sizes):
        times, floor_times = measured[name][index], measured[FLOOR][index]
        cells += [
            f"{statistics.median(times) * 1000 / pods:.2f}",
            f"{ratio(times, floor_times):.1f} ×" if floor_times else "",
        ]
    return cells
