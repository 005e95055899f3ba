"""Processes of a lab import pyroute2 only if an object of the lab needs it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.labs.conftest import new_lab
from tests.labs.lab import Lab, wait_for

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


@pytest.mark.parametrize("proxy", ["nftables", "iptables"])
def test_no_process_imports_pyroute2_in_a_common_mode(
    lab: Lab, imports: Imports, proxy: str
) -> None:
    """Not even to delete the UDP flows of a Service whose endpoint has changed."""
    lab.up(MANIFEST, "--proxy", proxy)
    lab.run("ping", "node:worker", "svc:web:81/UDP")
    assert "UDP" in flows(lab)
    lab.run("delete", "pod", "web")
    wait_for(lambda: "UDP" not in flows(lab), "the end of the flow")
    assert imports.read() == []


def flows(lab: Lab) -> list[str]:
    """Return the protocols of the Service's tracked connections on all nodes."""
    entries = lab.run("inspect", "svc:web", "-o", "json").json["conntrack"]
    return [entry["protocol"] for entry in entries]


def test_no_process_imports_pyroute2_to_attach_bpf_programs(lab: Lab, imports: Imports) -> None:
    lab.up(MANIFEST, "--proxy", "ebpf")
    assert imports.read() == []


def test_the_agent_imports_pyroute2_for_tunnels(lab: Lab, imports: Imports) -> None:
    """Links of rare kinds are encoded by pyroute2."""
    lab.up(MANIFEST, "--cni", "flannel")
    assert {entry.process for entry in imports.read()} >= {"knl-agent"}
