"""Histories drawn by chance: what a lab has been through cannot be seen in it."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests.labs.conftest import some_of
from tests.labs.lab import Lab, title_of, wait_for
from tests.labs.likeness import difference

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
"""Nothing is left to the scheduler: the servers of names are on the control-plane, all others name
their nodes.
"""
PROGRAM = "containers: [{name: main, image: agnhost, args: [netexec]}]"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    some_of(metafunc, "seed", range(50), 4)


class World:
    """What is to be in a lab, and what is done to it."""

    def __init__(self, lab: Lab, seed: int) -> None:
        self.lab = lab
        self.chance = random.Random(seed)
        self.deployments = {"one": 2, "two": 1}
        self.services = {"one": 80}
        self.pods = {"client"}
        self.story: list[str] = []
        self.killed: set[str] = set()
        """The pods and nodes whose pause process was killed since the lab was last at rest."""

    @property
    def manifest(self) -> str:
        """All of it."""
        places = {"one": "worker", "two": "worker2", "client": "control-plane", "other": "worker"}
        documents = [CLUSTER]
        documents += [
            f"apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{nodeName: {places[name]}, {PROGRAM}}}\n"
            for name in sorted(self.pods)
        ]
        documents += [
            f"apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec:\n  replicas: {replicas}\n"
            f"  selector: {{matchLabels: {{app: {name}}}}}\n  template:\n    metadata: {{labels: {{app: {name}}}}}\n"
            f"    spec: {{nodeName: {places[name]}, {PROGRAM}}}\n"
            for name, replicas in sorted(self.deployments.items())
        ]
        documents += [
            f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{selector: {{app: {name}}}, ports: [{{port: {port}, targetPort: 8080}}]}}\n"
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
        self.story.append(self.chance.choice(possible)())

    def apply(self) -> str:
        """Something more, or something else."""
        what = self.chance.choice(("deployment", "service", "pod"))
        match what:
            case "deployment":
                self.deployments[self.chance.choice(("one", "two"))] = self.chance.randint(0, 4)
            case "service":
                self.services[self.chance.choice(("one", "two"))] = self.chance.choice(
                    (80, 8000, 9000)
                )
            case "pod":
                self.pods.add("other")
        self.lab.apply(self.manifest, *self._patience)
        return f"apply a {what}"

    def scale(self) -> str:
        name = self.chance.choice(sorted(self.deployments) or ["one"])
        if name not in self.deployments:
            return self.apply()
        self.deployments[name] = self.chance.randint(0, 4)
        self.lab.run("scale", "deployment", name, "--replicas", str(self.deployments[name]))
        return f"scale {name} to {self.deployments[name]}"

    def delete(self) -> str:
        kind, there = self.chance.choice(
            (("deployment", self.deployments), ("service", self.services), ("pod", self.pods))
        )
        if not there:
            return self.apply()
        name = self.chance.choice(sorted(there))
        there.remove(name) if isinstance(there, set) else there.pop(name)
        self.lab.run("delete", kind, name, *self._patience)
        return f"delete {kind} {name}"

    def kill(self) -> str:
        """One of the lab's processes, or a pause process: a pod's, a node's."""
        titles = [
            f"kubenetlab {self.lab.name} {role}"
            for role in ("agent", "node-agent", "worker-0", "worker-1")
        ]
        seen = self.lab.seen
        places = {
            f"{self.lab.name}/{place['sandbox']}": place["name"]
            for place in (*seen["pods"], *seen["nodes"])
        }
        title = self.chance.choice([*titles, *self.chance.sample(sorted(places), 2)])
        for pid in self.lab.pids(title):
            if title in places and title_of(pid) != title:
                continue  # of worker2, whose name begins so
            self.killed.add(places.get(title, ""))
            self.killed.update(
                pod["name"]
                for pod in seen["pods"]
                if pod["host_network"] and pod["node"] == places.get(title)
            )
            os.kill(pid, signal.SIGKILL)
        return f"kill {title}"

    @property
    def _patience(self) -> tuple[str, ...]:
        return ("--no-wait",) if self.chance.random() < 0.5 else ()

    @property
    def numbers(self) -> dict[str, Any]:
        """The processes, addresses and links of what runs."""
        seen = self.lab.seen
        pods = {
            pod["name"]: (pod["sandbox"], pod["pid"], pod["addresses"], pod["host_ifname"])
            for pod in seen["pods"]
        }
        return {**pods, **{node["name"]: node["pid"] for node in seen["nodes"]}}


def test_a_lab_is_like_a_new_one_whatever_has_happened_to_it(
    labs: Callable[[], Lab], seed: int
) -> None:
    """After changes and killings in any order; what went on running meanwhile has kept its process,
    its addresses and its links.
    """
    lab = labs()
    world = World(lab, seed)
    lab.up(world.manifest)
    before = world.numbers
    for _ in range(STEPS):
        world.step()
    lab.apply(world.manifest)
    wait_for(lambda: not lab.faults, f"the lab to be as it should be after {world.story}")
    after = world.numbers
    changed = {
        name: (numbers, after[name])
        for name, numbers in before.items()
        if name in after and after[name] != numbers
    }
    assert {name for name, (old, new) in changed.items() if _is_same(old, new)} <= world.killed, (
        world.story
    )
    fresh = labs()
    fresh.up(world.manifest)
    assert difference(lab, fresh) == [], world.story


def _is_same(old: Any, new: Any) -> bool:
    """A node, or the very same pod: one that was deleted and made again has another sandbox."""
    return isinstance(old, int) or old[0] == new[0]
