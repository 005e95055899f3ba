"""Benchmark commands: whole commands against simple baselines.

The baselines are a Python interpreter that does nothing, and `ip -batch` creating as many
namespaces.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench import manifests
from bench.measure import (
    KUBENETLAB,
    LAB,
    PYTHON,
    folder,
    heading,
    lab,
    output,
    ratio,
    spread,
    table,
    timed,
    timed_lab,
)
from bench.peers import timed_tool

ROUNDS = 7
QUESTIONS = """\
- {from: "each:Deployment/default/web0", to: "svc:default/web0", port: 80, allowed: true}
- {from: "each:Deployment/default/web0", to: "node:worker2", allowed: true}
"""
"""Two probes from each pod."""

Baseline = tuple[str, Callable[[], float]]


def idle() -> Baseline:
    return "python starts and ends", lambda: timed(PYTHON, "-c", "pass")


def ip_batch(namespaces: int) -> Baseline:
    return f"`ip -batch`, {namespaces} namespaces", lambda: timed_tool("ip -batch", namespaces)


def run(rounds: int = ROUNDS) -> None:
    """Print the table; the first round warms up and does not count."""
    measured: dict[str, tuple[str, list[float], list[float]]] = {}

    def measure(name: str, baseline: Baseline, lab_time: float) -> None:
        _, lab_times, baseline_times = measured.setdefault(name, (baseline[0], [], []))
        lab_times.append(lab_time)
        baseline_times.append(baseline[1]())

    with folder() as files, lab():
        for round_number in range(rounds + 1):
            one_round(files, measure)
            if round_number == 0:
                measured.clear()
    rows = [
        (
            name,
            *spread(lab_time),
            baseline,
            spread(baseline_times)[0],
            f"{ratio(lab_time, baseline_times):.1f}",
        )
        for name, (baseline, lab_time, baseline_times) in measured.items()
    ]
    print(heading(rounds))
    print(table(("command", "median", "min – max", "baseline", "its median", "ratio"), rows))


def one_round(files: Path, measure: Callable[[str, Baseline, float], None]) -> None:
    """Measure each command once; 100 and 200 pods include the system's own pods."""
    two_hundred, hundred, questions = files / "200.yaml", files / "100.yaml", files / "expect.yaml"
    two_hundred.write_text(manifests.many(200 - manifests.system_pods(3), workers=3, services=1))
    hundred.write_text(manifests.many(100 - manifests.system_pods(3), workers=3, services=1))
    questions.write_text(QUESTIONS * 51)
    measure("`kubenetlab --help`", idle(), timed(KUBENETLAB, "--help"))
    name = "quickstart"
    measure(f"{name} (3 nodes, 15 pods): `up`, all ready", ip_batch(19), timed_lab("up"))
    measure(f"{name}: `get pods -A`", idle(), timed_lab("get", "pods", "-A"))
    measure(f"{name}: `exec client -- true`", idle(), timed_lab("exec", "client", "--", "true"))
    measure(f"{name}: `up` again, no change", idle(), timed_lab("up"))
    measure(f"{name}: `down`", idle(), timed_lab("down"))
    name = "200 pods on 4 nodes"
    measure(f"{name}: `up`, all ready", ip_batch(208), timed_lab("up", "-f", str(two_hundred)))
    measure(f"{name}: `up` again, no change", idle(), timed_lab("up", "-f", str(two_hundred)))
    measure(f"{name}: `down`", idle(), timed_lab("down"))
    output(KUBENETLAB, "up", "--lab", LAB, "-f", str(hundred))
    measure("100 pods: `ping`, all pairs", idle(), timed_lab("ping"))
    measure("100 pods: `check`, 9,996 probes", idle(), timed_lab("check", "-f", str(questions)))
    output(KUBENETLAB, "down", "--lab", LAB)
