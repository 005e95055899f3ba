"""Every call to Linux that a lab makes, refused once: the lab is there in the end, or nothing of it and one report.

In the usual run some calls, drawn by chance from a seed; with `--thorough` all of them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clusters import replaced
from tests.labs.conftest import new_lab
from tests.labs.faulty import Plan, run_faulty
from tests.labs.lab import Lab
from tests.labs.test_life import MANIFEST

CALLS = {"up_call": (300, 16), "change_call": (120, 8)}
"""More calls than there are in making the quickstart, and in changing it; and how many of them are refused in the usual run."""

MORE = (
    replaced(MANIFEST, ("replicas: 4", "replicas: 6"))
    + """\
---
apiVersion: v1
kind: Service
metadata: {name: more}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 8080, targetPort: http}]}
"""
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for name, (most, few) in CALLS.items():
        if name in metafunc.fixturenames:
            every = range(1, most + 1)
            metafunc.parametrize(name, every if metafunc.config.getoption("thorough") else sorted(random.Random(4).sample(every, few)))


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan(tmp_path / "plan")


def test_the_calls_are_counted(lab: Lab, plan: Plan) -> None:
    """No more than are tried."""
    plan.set(0)
    assert run_faulty(plan, "up", "--lab", lab.name).status == 0
    assert 200 < plan.calls < CALLS["up_call"][0]


def test_an_up_that_is_refused_a_call(lab: Lab, plan: Plan, up_call: int) -> None:
    """What can be tried again is; else the report says what was refused, and why, and nothing is left."""
    plan.set(up_call)
    said = run_faulty(plan, "up", "--lab", lab.name)
    told = f"{plan.refused}\n{said.err}"
    if said.status == 0:
        assert not lab.faults, told
        return
    assert said.status == 1, told
    assert plan.refused.rpartition(": ")[2] in said.err, told
    assert len(said.err.splitlines()) <= 6, told
    assert "bug" not in said.err, told
    assert not lab.remains, told


@pytest.fixture(scope="module")
def changing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lab, Plan]]:
    """A lab that runs, and what its processes are refused."""
    plan = Plan(tmp_path_factory.mktemp("faults") / "plan")
    plan.set(0)
    for lab in new_lab():
        assert run_faulty(plan, "up", "--lab", lab.name, "-f", "-", given=MANIFEST).status == 0
        yield lab, plan
        assert plan.calls < CALLS["change_call"][0]


def test_a_change_that_is_refused_a_call(changing: tuple[Lab, Plan], change_call: int) -> None:
    """More pods and a Service, and all of that away again: it is tried again until it is done, and what ran stays as it was."""
    lab, plan = changing
    before = kept(lab)
    plan.set(change_call)
    lab.apply(MORE)
    assert not lab.faults, plan.refused
    assert before.items() <= kept(lab).items(), plan.refused
    lab.run("delete", "service", "more")
    lab.apply(MANIFEST)
    assert not lab.faults, plan.refused
    assert kept(lab).keys() == before.keys(), plan.refused


def kept(lab: Lab) -> dict[str, Any]:
    """What must not change of what runs."""
    seen = lab.seen
    pods = {pod["name"]: (pod["pid"], pod["addresses"], pod["host_ifname"]) for pod in seen["pods"]}
    return {**pods, **{node["name"]: node["pid"] for node in seen["nodes"]}}
