"""Every call to Linux that a lab makes, refused once: the lab is there in the end, or nothing of it
and one report.

In the usual run some calls, drawn by chance from a seed; with `--thorough` all of them.
"""

from __future__ import annotations

import pytest

from tests.labs.changing import Changing
from tests.labs.conftest import some_of
from tests.labs.faulty import Plan, run_faulty
from tests.labs.lab import Lab, wait_for

CALLS = {"up_call": (300, 16), "change_call": (120, 8)}
"""More calls than there are in making the quickstart, and in changing a lab; and how many of them
are refused in the usual run.
"""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for name, (most, few) in CALLS.items():
        some_of(metafunc, name, range(1, most + 1), few)


def test_the_calls_are_counted(lab: Lab, plan: Plan) -> None:
    """No more than are tried."""
    plan.set(0)
    assert run_faulty(plan, "up", "--lab", lab.name).status == 0
    assert 100 < plan.calls < CALLS["up_call"][0]


def test_an_up_that_is_refused_a_call(lab: Lab, plan: Plan, up_call: int) -> None:
    """What can be tried again is; else the report says what was refused, and why, and nothing is
    left.
    """
    plan.set(up_call)
    said = run_faulty(plan, "up", "--lab", lab.name)
    told = f"{plan.refused}\n{said.err}"
    if said.status == 0:
        wait_for(
            lambda: not lab.faults, f"the lab to be whole after {told}"
        )  # the call may be one of the first look itself
        return
    assert said.status == 1, told
    assert plan.refused.rpartition(": ")[2] in said.err, told
    assert len(said.err.splitlines()) <= 6, told
    assert "bug" not in said.err, told
    assert not lab.remains, told


def test_a_change_that_is_refused_a_call(changing: Changing, change_call: int) -> None:
    """More pods and a Service, and all of that away again: it is tried again until it is done, and
    what ran stays as it was.
    """
    changing.plan.set(change_call)
    changing.change()
