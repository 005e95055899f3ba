"""peers: how long N pods take that are made by kubenetlab, by the floor in C, and by other tools (makers.py)."""

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
ALONE = (
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
"""A command in namespaces of its own, which end with it."""


def made(tool: str, pods: int) -> float:
    """Seconds in which one of makers.py's tools makes so many pods, on a quiet kernel."""
    quiet()
    python = SYSTEM_PYTHON if tool == "Mininet" else PYTHON
    return float(output(*ALONE, python, str(HERE / "makers.py"), tool, str(pods)))


def missing(tool: str) -> bool:
    """Whether a tool of makers.py is not installed."""
    match tool:
        case "Mininet":
            ask = [SYSTEM_PYTHON, "-c", "import mininet.nodelib"]
            return (
                not shutil.which("brctl")
                or subprocess.run(ask, capture_output=True, check=False).returncode != 0
            )
        case "CNI bridge + host-local":
            return not all(
                Path(CNI_FOLDER, plugin).exists() for plugin in ("loopback", "bridge", "host-local")
            )
        case "pyroute2":
            return importlib.util.find_spec("pyroute2") is None
    return False


def run(rounds: int = ROUNDS, sizes: Sequence[int] = SIZES) -> None:
    """Prints the table: in each round everybody makes the pods once."""
    with folder() as files, lab():
        program = compiled("floor", files)
        absent = {tool for tool in TOOLS if missing(tool)} | ({FLOOR} if program is None else set())
        measured: dict[str, list[list[float]]] = {
            name: [[] for _ in sizes] for name in (OURS, FLOOR, *TOOLS)
        }
        manifest = files / "pods.yaml"
        for place, pods in enumerate(sizes):
            manifest.write_text(manifests.many(pods - manifests.COREDNS))
            for _ in range(rounds):
                measured[OURS][place].append(timed_lab("up", "-f", str(manifest)))
                timed_lab("down")
                if program:
                    measured[FLOOR][place].append(floor(program, pods))
                for tool in [tool for tool in TOOLS if tool not in absent]:
                    measured[tool][place].append(made(tool, pods))
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
    for place, pods in enumerate(sizes):
        took, least = measured[name][place], measured[FLOOR][place]
        cells += [
            f"{statistics.median(took) * 1000 / pods:.2f}",
            f"{ratio(took, least):.1f} ×" if least else "",
        ]
    return cells
