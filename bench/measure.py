"""What every part measures with: commands that begin on a quiet kernel, C programs, labs that are gone in the end, and tables."""

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
"""The kernel frees namespaces one after another, after their last process: when a fresh one is gone, so are all before it."""


class FailedError(Exception):
    """A command ended otherwise than it should."""


def quiet() -> None:
    """Returns when the kernel has freed what earlier commands left."""
    output("unshare", "-n", "sh", "-c", QUIET)


def output(*command: str, given: str = "") -> str:
    """What a command prints. Raises FailedError when it does not succeed."""
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FailedError(
            f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}{done.stderr}"
        )
    return done.stdout


def timed(*command: str) -> float:
    """Seconds of a whole command, from shell prompt to shell prompt, begun on a quiet kernel."""
    quiet()
    begun = time.perf_counter()
    output(*command)
    return time.perf_counter() - begun


def timed_lab(command: str, *words: str) -> float:
    """The same of a kubenetlab command about the bench's lab."""
    return timed(KUBENETLAB, command, "--lab", LAB, *words)


@contextmanager
def lab(*manifests: Path) -> Iterator[None]:
    """The bench's lab, taken down in the end; with manifests it is up from the beginning, without it is left to whoever measures."""
    try:
        if manifests:
            output(
                KUBENETLAB,
                "up",
                "--lab",
                LAB,
                *(word for path in manifests for word in ("-f", str(path))),
            )
        yield
    finally:
        subprocess.run([KUBENETLAB, "down", "--lab", LAB], capture_output=True, check=False)


@contextmanager
def folder() -> Iterator[Path]:
    """A directory for the time of a measurement."""
    made = Path(tempfile.mkdtemp(prefix="kubenetlab-bench-"))
    try:
        yield made
    finally:
        shutil.rmtree(made)


def compiled(name: str, into: Path) -> Path | None:
    """The C program of this folder, made; None where there is no compiler."""
    if not shutil.which("gcc"):
        return None
    output("gcc", "-O2", "-o", str(into / name), str(HERE / f"{name}.c"))
    return into / name


def floor(program: Path, pods: int) -> float:
    """Seconds in which floor.c makes so many pods, on a quiet kernel."""
    quiet()
    return float(json.loads(output("unshare", "-n", str(program), str(pods)))["create_us"]) / 1e6


# --- what is said of it ---


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the ratios of those measured in turn: what slows the machine down for a while slows both."""
    return statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True))


def spread(values: Sequence[float], unit: str = "s", digits: int = 2) -> tuple[str, str]:
    """The median, and the least and the most, as two cells."""
    return (
        f"{statistics.median(values):.{digits}f} {unit}",
        f"{min(values):.{digits}f} – {max(values):.{digits}f} {unit}",
    )


def heading(rounds: int) -> str:
    """When and on what: the line above a table."""
    with open("/proc/cpuinfo") as info:
        processor = next(
            (line.partition(": ")[2].strip() for line in info if line.startswith("model name")),
            platform.machine(),
        )
    machine = f"{os.cpu_count()} × {processor}, Linux {platform.release()}, Python {platform.python_version()}"
    return f"{date.today():%-d %B %Y}, {machine}, {rounds} rounds:\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(
        f"| {' | '.join(line)} |\n" if line[0] != "---" else f"|{'|'.join(line)}|\n"
        for line in lines
    )
