"""A soak test: the resource use of a lab that changes for minutes must not grow.

scripts/soak runs it. Pods are created, deleted, fail and are replaced, the configuration changes, a
container prints, and the agent is killed now and then. Memory, descriptors, events and files of the
lab are sampled. The largest values of the last third are compared with those of the middle third.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

from msgspec import Struct

from kubenetlab.controllers.cluster.garbage import MIN_EVENTS
from tests.clusters import deployment, pod, service
from tests.labs.lab import Lab, descendants, title_of

TOLERANCE = 1.10
"""Permitted growth in the last third: allocators keep part of the memory returned to them."""
SAMPLE_S = 2.0
PRINTING = """\
apiVersion: v1
kind: Pod
metadata: {name: prints, annotations: {kubenetlab.dev/real-commands: "true"}}
spec:
  containers:
  - {name: main, image: x, command: [sh, -c, "while :; do seq 100000; sleep 1; done"]}
---
"""
FAILING = """\
apiVersion: v1
kind: Pod
metadata: {name: fails, annotations: {kubenetlab.dev/real-commands: "true"}}
spec: {containers: [{name: main, image: x, command: [sh, -c, "echo failed; exit 1"]}]}
---
"""


class Sample(Struct, frozen=True):
    """Resource use of a lab at one moment."""

    at_s: float
    memory_mb: float
    """Memory of the lab's own processes; shared pages are divided among their users."""
    descriptors: int
    files_mb: float
    """Size of the files in the run directory."""
    events: int


def sample(lab: Lab, begun: float, init: int) -> Sample:
    own = [pid for pid in descendants(init) if title_of(pid).startswith("kubenetlab ")]
    files = sum(path.stat().st_size for path in lab.directory.iterdir() if path.is_file())
    events = lab.run("get", "events", "-A", "-o", "json").json["items"]
    return Sample(
        time.monotonic() - begun,
        sum(map(_memory_mb, own)),
        sum(map(_descriptors, own)),
        files / 2**20,
        len(events),
    )


def churn(lab: Lab) -> Iterator[None]:
    """Yield after each of an endless sequence of changes."""
    for number in cycle(range(1000)):
        match number % 6:
            case 0:
                lab.run("scale", "deployment", "web", "--replicas", str(5 + number % 7))
            case 1:
                lab.run("delete", "pod", lab.pod("web")["name"], "--no-wait", status=None)
            case 2:
                lab.apply(service("web", 80 + number % 5), status=None)
            case 3:
                lab.run("rollout", "restart", "deployment", "web", status=None)
            case 4:
                os.kill(lab.pod("web")["pid"] and _pause_pid(lab, lab.pod("web")), signal.SIGKILL)
            case 5 if number % 60 == 5:
                lab.kill("agent")
        yield


def _pause_pid(lab: Lab, pod: Any) -> int:
    (pid,) = lab.pids(f"{lab.name}/{pod['sandbox']}")
    return pid


def _memory_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def _descriptors(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def verdicts(samples: list[Sample]) -> list[str]:
    """Return what grew: the largest of the last third against the largest of the middle third."""
    third = len(samples) // 3
    middle, last = samples[third : 2 * third], samples[2 * third :]
    growth = []
    for name in ("memory_mb", "descriptors", "files_mb", "events"):
        before, after = (
            max(getattr(sample, name) for sample in samples_of_third)
            for samples_of_third in (middle, last)
        )
        bound = MIN_EVENTS if name == "events" else 0
        if after > max(bound, before * TOLERANCE):
            growth.append(
                f"{name}: at most {before:.1f} in the middle third, {after:.1f} in the last"
            )
    return growth


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--lab", default="soak")
    options = parser.parse_args()
    lab, samples, changes = Lab(options.lab), [], 0
    begun = printed = time.monotonic()
    try:
        lab.run(
            "up",
            "-f",
            "-",
            "--timeout",
            "5s",
            stdin=deployment("web", 5) + service() + pod("client") + PRINTING + FAILING,
            status=None,
        )
        init = lab.inspected["init_pid"]
        print("   s  changes  memory MB  descriptors  files MB  events", flush=True)
        due = 0.0
        for _ in churn(lab):
            changes += 1
            if time.monotonic() >= due:
                samples.append(current := sample(lab, begun, init))
                due = time.monotonic() + SAMPLE_S
                if time.monotonic() - printed >= 30 or len(samples) == 1:
                    printed = time.monotonic()
                    print(
                        f"{current.at_s:4.0f}  {changes:7}  {current.memory_mb:9.1f}  "
                        f"{current.descriptors:11}  {current.files_mb:8.1f}  {current.events:6}",
                        flush=True,
                    )
            if time.monotonic() - begun > options.minutes * 60:
                break
    finally:
        lab.run("down", status=None)
    grew = verdicts(samples)
    print(
        "\n".join(grew)
        or f"{changes} changes, {len(samples)} samples: nothing grew in the last third"
    )
    sys.exit(1 if grew else 0)


if __name__ == "__main__":
    main()
