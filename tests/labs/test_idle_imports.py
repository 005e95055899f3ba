"""pyroute2 is imported in idle time, when the lab is up, and only by processes that need it."""

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
"""A pod that is ready after so many seconds."""
RECORDER = """
import os, sys, time
class Recorder:
    def find_spec(name, path=None, target=None):
        if name == "pyroute2":
            with open(os.environ["IMPORTS"], "a") as log, open("/proc/self/comm") as title:
                log.write(f"{time.monotonic()} {title.read()}")
sys.meta_path.insert(0, Recorder)
"""
"""Module that Python imports at its start: it records imports, and leaves them to others."""


class Import(NamedTuple):
    """An import of pyroute2."""

    at: float
    """Monotonic time in seconds."""
    process: str


class Imports:
    """The imports of pyroute2 by the processes of a lab, and by the commands about it."""

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
def test_the_node_agent_imports_it_when_the_lab_has_settled(
    lab: Lab, imports: Imports, delay_s: int
) -> None:
    """Not while `up` waits for a pod, however idle the lab is meanwhile; no other process does."""
    started = time.monotonic()
    lab.up(MANIFEST + (SLOW % delay_s if delay_s else ""))
    (found,) = wait_for(imports.read, "an import")
    assert found.process.startswith("knl-node-agent")
    assert found.at - started >= delay_s + IDLE_S
    wait_for(lambda: lab.inspected, "an answer afterwards")
    assert imports.read() == [found]


def test_a_new_node_agent_is_prepared_as_well(lab: Lab, imports: Imports) -> None:
    """It opens its loaders with the first rules that it loads."""
    lab.up(MANIFEST)
    wait_for(imports.read, "an import")
    lab.kill("node-agent-0")
    lab.apply(MANIFEST.replace("port: 81,", "port: 82,"))
    _, second = wait_for(
        lambda: found if len(found := imports.read()) > 1 else [], "an import by the new one"
    )
    assert second.process.startswith("knl-node-agent")
