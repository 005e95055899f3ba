"""Commands that need no running lab: doctor and plan."""

from __future__ import annotations

import re

from tests.labs.lab import run


def test_doctor_says_what_this_machine_can_do() -> None:
    """And exits with 0 where labs can be made, as here."""
    said = run("doctor")
    assert said.out.count("✓") >= 7
    assert {finding["state"] for finding in run("doctor", "-o", "json").json} <= {"ok", "optional"}


def test_plan_says_what_up_would_do() -> None:
    """For a lab that is not there: every object, namespace by namespace; and nothing is done."""
    said = run("plan", "--lab", "planned-only")
    assert "node/worker" in said.out.splitlines()
    assert "+ nft chain ip kube-proxy services: 2 rules" in said.out
    assert re.search(r"\d+ operations in 22 namespaces", said.out)
    assert "planned-only" not in run("list").out
