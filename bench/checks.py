"""Benchmark checks: `check` with 10,000 probes of TCP and UDP: all allowed, and half denied.

The baseline is connects.c: as many TCP connects over loopback, without namespaces and servers. The
processor time of the command says more than its duration while others use the machine.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
from pathlib import Path

from bench import manifests
from bench.measure import compiled, floor_of, folder, heading, lab, ratio, spread, table, timed_lab

ROUNDS = 3
CLIENTS, SERVERS, PORTS = 25, 20, 20
PROBES = CLIENTS * SERVERS * PORTS
TABLES = ("all allowed", "half denied")


class Measured:
    """Measurements of one table, one of each round."""

    def __init__(self) -> None:
        self.took_s: list[float] = []
        self.processor_s: list[float] = []
        self.floor_s: list[float] = []


def expectations(is_denied: bool) -> str:
    """Return the table; with `is_denied`, nothing reaches the servers with an even number."""
    rows = []
    for server in range(SERVERS):
        expect = "deny" if is_denied and server % 2 == 0 else "allow"
        for port, protocol in manifests.ports(PORTS):
            rows.append(
                f"- {{from: 'each:Deployment/default/client', to: server-{server}, "
                f"port: {port}, protocol: {protocol}, expect: {expect}}}\n"
            )
    return "".join(rows)


def run(rounds: int = ROUNDS) -> None:
    """Print the table; in each round, the command and its baseline run in turn."""
    measured = {name: Measured() for name in TABLES}
    with folder() as files:
        program = compiled("connects", files)
        if program is None:
            print("no floor: gcc is not installed", file=sys.stderr)
        lab_file, expect = files / "lab.yaml", files / "expect.yaml"
        for name in TABLES:
            is_denied = name == TABLES[1]
            lab_file.write_text(manifests.mesh(CLIENTS, SERVERS, PORTS, is_denied=is_denied))
            expect.write_text(expectations(is_denied))
            with lab(lab_file):
                for _ in range(rounds):
                    measure(measured[name], expect, program)
    print(heading(rounds))
    head = ("10,000 probes", "`check`", "min – max", "processor time", "connects.c", "ratio")
    print(table(head, (cells(name, measured[name]) for name in TABLES)))


def measure(measured: Measured, expect: Path, program: Path | None) -> None:
    """Measure one check and the baseline."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    measured.took_s.append(timed_lab("check", "-f", str(expect)))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    measured.processor_s.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    if program is not None:
        measured.floor_s.append(json.loads(floor_of(program, PROBES))["connect_us"] / 1e6)


def cells(name: str, measured: Measured) -> list[str]:
    """Return the cells of one line."""
    line = [name, *spread(measured.took_s), spread(measured.processor_s)[0]]
    if not measured.floor_s:
        return [*line, "", ""]
    return [
        *line,
        f"{statistics.median(measured.floor_s):.2f} s",
        f"{ratio(measured.took_s, measured.floor_s):.1f}",
    ]
