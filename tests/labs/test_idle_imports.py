"""Processes of a lab import pyroute2 when the lab is up and idle, and only if they need it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from kubenetlab.lab.agent.preparation import IDLE_S
from tests.labs.conftest import new_lab
from tests.labs.lab import Lab, wait_for

DELAY_S = 2
MANIFEST = """\
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec: {containers: [{name: main, image: agnhost, args: [netexec]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 81, targetPort: 8081, protocol: UDP}]}
"""
SLOW = """\
---
apiVersion: v1
kind: Pod
metadata: {name: slow, annotations: {kubenetlab.dev/real-commands: 'true'}}
spec:
  initContainers: [{name: wait, image: busybox, command: [sleep, "%d"]}]
  containers: [{name: main, image: busybox, command: [sleep, "1000"]}]
"""
"""A pod that is ready after the given number of seconds."""
RECORDER = """
import os, sys, time
class Recorder:
    def find_spec(name, path=None, target=None):
        if name == "pyroute2":
            with open(os.environ["IMPORTS"], "a") as log, open("/proc/self/comm") as title:
                log.write(f"{time.monotonic()} {title.read()}")
sys.meta_path.insert(0, Recorder)
"""
"""Module that Python imports at its start: it records imports, and other finders do them."""


class Import(NamedTuple):
    """An import of pyroute2."""

    at: float
    """Monotonic time in seconds."""
    process: str


def wait_for_idle_time() -> None:
    """Wait longer than it takes until a lab counts as idle."""
    begun = time.monotonic()
    wait_for(lambda: time.monotonic() > begun + 2 * IDLE_S, "the time to pass")


class Imports:
    """Imports of pyroute2 by the processes of a lab, and by commands about the lab."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "imports"
        (folder / "sitecustomize.py").write_text(RECORDER)
        self.environment = ("env", f"PYTHONPATH={folder}", f"IMPORTS={self._log}")

    def read(self) -> list[Import]:
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return [Import(float(at), process) for at, process in map(str.split, lines)]


@pytest.fixture
def imports(tmp_path: Path) -> Imports:
    return Imports(tmp_path)


@pytest.fixture
def lab(imports: Imports) -> Iterator[Lab]:
    for lab in new_lab():
        yield Lab(lab.name, imports.environment)


@pytest.mark.parametrize("delay_s", [0, DELAY_S], ids=["ready at once", "ready later"])
def test_the_node_agent_imports_pyroute2_when_the_lab_has_settled(
    lab: Lab, imports: Imports, delay_s: int
) -> None:
    """It does not while `up` waits for a pod, even if the lab is idle; no other process does."""
    started_at = time.monotonic()
    lab.up(MANIFEST + (SLOW % delay_s if delay_s else ""))
    (first_import,) = wait_for(imports.read, "an import")
    assert first_import.process.startswith("knl-node-agent")
    assert first_import.at - started_at >= delay_s + IDLE_S
    wait_for(lambda: lab.inspected, "an answer afterwards")
    assert imports.read() == [first_import]


@pytest.mark.parametrize("is_settled", [False, True], ids=["at once", "later"])
def test_a_new_node_agent_is_prepared_as_well(lab: Lab, imports: Imports, is_settled: bool) -> None:
    """It opens its loaders with the first rules, before or after the lab has settled again."""
    lab.up(MANIFEST)
    wait_for(imports.read, "an import")
    lab.kill("node-agent-0")
    if is_settled:
        wait_for_idle_time()
    lab.apply(MANIFEST.replace("port: 81,", "port: 82,"))
    _, new_import = wait_for(
        lambda: all_imports if len(all_imports := imports.read()) > 1 else [],
        "an import by the new one",
    )
    assert new_import.process.startswith("knl-node-agent")
