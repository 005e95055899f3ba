"""Tools of all benchmarks: timed commands, C programs, labs that are taken down, and tables."""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path

HERE = Path(__file__).parent
PYTHON = sys.executable
KUBENETLAB = os.environ.get("KUBENETLAB", os.path.join(os.path.dirname(PYTHON), "kubenetlab"))
LAB = f"bench-{os.getpid()}"

QUIET = """
unshare -n sleep 60 & inner=$!
until [ "$(readlink /proc/$inner/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do :; done
ip link add name near type veth peer name far netns $inner
kill $inner
wait $inner
while ip link show near >/dev/null 2>&1; do sleep 0.01; done
"""
"""Script that waits until the kernel has freed all earlier namespaces.

The kernel frees namespaces one after the other: when a new one is freed, all earlier ones are.
"""


class FailedError(Exception):
    """Raised when a command fails."""


def quiet() -> None:
    """Wait until the kernel has freed the namespaces of earlier commands."""
    output("unshare", "-n", "sh", "-c", QUIET)


def output(*command: str, stdin: str = "") -> str:
    """Return what a command prints; raise FailedError if it fails."""
    process = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if process.returncode:
        raise FailedError(
            f"{' '.join(command)} failed with exit status {process.returncode}\n"
            f"{process.stdout}{process.stderr}"
        )
    return process.stdout


def timed(*command: str) -> float:
    """Return the duration of a whole command in seconds; it starts on a quiet kernel."""
    quiet()
    started = time.perf_counter()
    output(*command)
    return time.perf_counter() - started


def timed_lab(command: str, *arguments: str) -> float:
    """Return the duration of a kubenetlab command for the benchmark's lab in seconds."""
    return timed(KUBENETLAB, command, "--lab", LAB, *arguments)


@contextmanager
def lab(*manifests: Path, options: Sequence[str] = ()) -> Iterator[None]:
    """Take the benchmark's lab down at the end.

    With manifests the lab is brought up at the beginning, with options of `up`; without, the
    caller does that.
    """
    try:
        if manifests:
            output(
                KUBENETLAB,
                "up",
                "--lab",
                LAB,
                *(argument for path in manifests for argument in ("-f", str(path))),
                *options,
            )
        yield
    finally:
        subprocess.run([KUBENETLAB, "down", "--lab", LAB], capture_output=True, check=False)


@contextmanager
def folder() -> Iterator[Path]:
    """Provide a temporary directory."""
    path = Path(tempfile.mkdtemp(prefix="kubenetlab-bench-"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


def compiled(name: str, directory: Path) -> Path | None:
    """Compile a C program of this folder; return None if gcc is not installed."""
    if not shutil.which("gcc"):
        return None
    output("gcc", "-O2", "-o", str(directory / name), str(HERE / f"{name}.c"))
    return directory / name


def floor(program: Path, pods: int) -> float:
    """Return the seconds in which floor.c creates `pods` pods, on a quiet kernel."""
    return float(json.loads(floor_of(program, pods))["create_us"]) / 1e6


def floor_of(program: Path, count: int) -> str:
    """Return what a C program prints in a network namespace of its own, on a quiet kernel."""
    quiet()
    return output("unshare", "-n", str(program), str(count))


# --- figures and tables ---


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median ratio of values measured in turn.

    A temporary slowdown of the machine affects both values of a pair.
    """
    return statistics.median(value / baseline for value, baseline in zip(ours, theirs, strict=True))


def spread(values: Sequence[float], unit: str = "s", digits: int = 2) -> tuple[str, str]:
    """Return two cells: the median, and minimum and maximum."""
    return (
        f"{statistics.median(values):.{digits}f} {unit}",
        f"{min(values):.{digits}f} – {max(values):.{digits}f} {unit}",
    )


def heading(rounds: int) -> str:
    """Return the line above a table: date, machine and number of rounds."""
    with open("/proc/cpuinfo") as info:
        processor = next(
            (line.partition(": ")[2].strip() for line in info if line.startswith("model name")),
            platform.machine(),
        )
    software = f"Linux {platform.release()}, Python {platform.python_version()}"
    machine = f"{os.cpu_count()} × {processor}, {software}"
    return f"{date.today():%-d %B %Y}, {machine}, {rounds} rounds:\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(
        f"| {' | '.join(line)} |\n" if line[0] != "---" else f"|{'|'.join(line)}|\n"
        for line in lines
    )
