"""Random histories: a lab does not depend on its history."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests.labs.conftest import parametrize_sample
from tests.labs.kernel_comparison import kernel_differences
from tests.labs.lab import Lab, title_of, wait_for

STEPS = 6
CLUSTER = """\
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
nodes: [{role: control-plane}, {role: worker}, {role: worker}]
---
apiVersion: v1
kind: Node
metadata: {name: worker}
spec: {unschedulable: true}
---
apiVersion: v1
kind: Node
metadata: {name: worker2}
spec: {unschedulable: true}
"""
"""Nodes on which only the control plane is schedulable.

CoreDNS runs there, and all other pods name their nodes, so that no decision is left to the
scheduler.
"""
PROGRAM = "containers: [{name: main, image: agnhost, args: [netexec]}]"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize_sample(metafunc, "seed", range(50), 4)


class History:
    """Desired objects of a lab, and random changes of it."""

    def __init__(self, lab: Lab, seed: int) -> None:
        self.lab = lab
        self.random = random.Random(seed)
        self.deployments = {"one": 2, "two": 1}
        self.services = {"one": 80}
        self.pods = {"client"}
        self.steps: list[str] = []
        self.killed: set[str] = set()
        """Pods and nodes whose pause process was killed."""

    @property
    def manifest(self) -> str:
        """Manifest of all desired objects."""
        places = {"one": "worker", "two": "worker2", "client": "control-plane", "other": "worker"}
        documents = [CLUSTER]
        documents += [
            f"apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\n"
            f"spec: {{nodeName: {places[name]}, {PROGRAM}}}\n"
            for name in sorted(self.pods)
        ]
        documents += [
            f"apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\n"
            f"spec:\n  replicas: {replicas}\n  selector: {{matchLabels: {{app: {name}}}}}\n"
            f"  template:\n    metadata: {{labels: {{app: {name}}}}}\n"
            f"    spec: {{nodeName: {places[name]}, {PROGRAM}}}\n"
            for name, replicas in sorted(self.deployments.items())
        ]
        documents += [
            f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n"
            f"spec: {{selector: {{app: {name}}}, ports: [{{port: {port}, targetPort: 8080}}]}}\n"
            for name, port in sorted(self.services.items())
        ]
        return "---\n".join(documents)

    def step(self) -> None:
        possible: list[Callable[[], str]] = [
            self.apply,
            self.apply,
            self.scale,
            self.delete,
            self.kill,
            self.kill,
        ]
        self.steps.append(self.random.choice(possible)())

    def apply(self) -> str:
        """Add or change an object."""
        kind = self.random.choice(("deployment", "service", "pod"))
        match kind:
            case "deployment":
                self.deployments[self.random.choice(("one", "two"))] = self.random.randint(0, 4)
            case "service":
                self.services[self.random.choice(("one", "two"))] = self.random.choice(
                    (80, 8000, 9000)
                )
            case "pod":
                self.pods.add("other")
        self.lab.apply(self.manifest, *self._random_wait_option)
        return f"apply a {kind}"

    def scale(self) -> str:
        name = self.random.choice(sorted(self.deployments) or ["one"])
        if name not in self.deployments:
            return self.apply()
        self.deployments[name] = self.random.randint(0, 4)
        self.lab.run("scale", "deployment", name, "--replicas", str(self.deployments[name]))
        return f"scale {name} to {self.deployments[name]}"

    def delete(self) -> str:
        kind, names = self.random.choice(
            (("deployment", self.deployments), ("service", self.services), ("pod", self.pods))
        )
        if not names:
            return self.apply()
        name = self.random.choice(sorted(names))
        names.remove(name) if isinstance(names, set) else names.pop(name)
        self.lab.run("delete", kind, name, *self._random_wait_option)
        return f"delete {kind} {name}"

    def kill(self) -> str:
        """Kill one of the lab's processes, or the pause process of a pod or node."""
        titles = [
            f"kubenetlab {self.lab.name} {role}"
            for role in ("agent", "node-agent", "worker-0", "worker-1")
        ]
        inspected = self.lab.inspected
        places = {
            f"{self.lab.name}/{place['sandbox']}": place["name"]
            for place in (*inspected["pods"], *inspected["nodes"])
        }
        title = self.random.choice([*titles, *self.random.sample(sorted(places), 2)])
        for pid in self.lab.pids(title):
            if title in places and title_of(pid) != title:
                continue  # title is a prefix, for example of the title of worker2
            self.killed.add(places.get(title, ""))
            self.killed.update(
                pod["name"]
                for pod in inspected["pods"]
                if pod["host_network"] and pod["node"] == places.get(title)
            )
            os.kill(pid, signal.SIGKILL)
        return f"kill {title}"

    @property
    def _random_wait_option(self) -> tuple[str, ...]:
        return ("--no-wait",) if self.random.random() < 0.5 else ()

    @property
    def identities(self) -> dict[str, Any]:
        """Processes, addresses and links of pods and nodes."""
        inspected = self.lab.inspected
        pods = {
            pod["name"]: (pod["sandbox"], pod["pid"], pod["addresses"], pod["host_ifname"])
            for pod in inspected["pods"]
        }
        return {**pods, **{node["name"]: node["pid"] for node in inspected["nodes"]}}


def test_a_lab_equals_a_new_one_after_any_history(labs: Callable[[], Lab], seed: int) -> None:
    """The history consists of changes and kills.

    Pods that kept running keep their process, addresses and links.
    """
    lab = labs()
    history = History(lab, seed)
    lab.up(history.manifest)
    before = history.identities
    for _ in range(STEPS):
        history.step()
    lab.apply(history.manifest)
    wait_for(lambda: not lab.problems, f"the lab to be as it should be after {history.steps}")
    after = history.identities
    changed = {
        name: (identities, after[name])
        for name, identities in before.items()
        if name in after and after[name] != identities
    }
    assert {name for name, (old, new) in changed.items() if _is_same(old, new)} <= history.killed, (
        history.steps
    )
    new_lab = labs()
    new_lab.up(history.manifest)
    assert kernel_differences(lab, new_lab) == [], history.steps


def _is_same(old: Any, new: Any) -> bool:
    """Return True for a node, or for the same pod; a replaced pod has another sandbox."""
    return isinstance(old, int) or old[0] == new[0]
