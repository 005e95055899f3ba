"""Each call of a lab to Linux fails once; the lab is completed, or removed with one report.

A usual run uses a random sample of the calls with a fixed seed; `--thorough` uses all of them.
"""

from __future__ import annotations

import pytest

from tests.labs.changed_lab import ChangedLab
from tests.labs.conftest import parametrize_sample
from tests.labs.fault_injection import FaultPlan, run_with_faults
from tests.labs.lab import Lab, wait_for

CALLS = {"up_call": (300, 16), "change_call": (120, 8)}
"""Argument → (upper bound of the number of calls, size of the sample).

The calls are those of creating the quickstart, and of changing a lab.
"""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for name, (most, few) in CALLS.items():
        parametrize_sample(metafunc, name, range(1, most + 1), few)


def test_the_sampled_range_covers_all_calls(lab: Lab, plan: FaultPlan) -> None:
    """The quickstart makes fewer calls than the upper bound."""
    plan.set(0)
    assert run_with_faults(plan, "up", "--lab", lab.name).status == 0
    assert 100 < plan.calls < CALLS["up_call"][0]


def test_up_completes_or_removes_the_lab_when_a_call_fails(
    lab: Lab, plan: FaultPlan, up_call: int
) -> None:
    """Calls are repeated where that helps.

    Otherwise the report names the call and the error, and nothing is left.
    """
    plan.set(up_call)
    result = run_with_faults(plan, "up", "--lab", lab.name)
    context = f"{plan.refused}\n{result.err}"
    if result.status == 0:
        # The failed call may belong to the first observation.
        wait_for(lambda: not lab.problems, f"the lab to be whole after {context}")
        return
    assert result.status == 1, context
    assert plan.refused.rpartition(": ")[2] in result.err, context
    assert len(result.err.splitlines()) <= 6, context
    assert "bug" not in result.err, context
    assert not lab.leftovers, context


def test_a_change_completes_although_a_call_fails(
    changed_lab: ChangedLab, change_call: int
) -> None:
    """More pods and a Service are applied and removed again.

    The lab repeats the call until it succeeds, and running pods stay as they are.
    """
    changed_lab.plan.set(change_call)
    changed_lab.change_and_revert()
