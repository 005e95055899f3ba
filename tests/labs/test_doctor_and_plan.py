"""Commands that need no running lab: doctor and plan."""

from __future__ import annotations

import re

from tests.labs.lab import run


def test_doctor_reports_the_capabilities_of_this_machine() -> None:
    """It exits with 0 where labs can be created, as here."""
    result = run("doctor")
    assert result.out.count("✓") >= 7
    assert {finding["state"] for finding in run("doctor", "-o", "json").json} <= {"ok", "optional"}


def test_plan_shows_the_changes_of_up() -> None:
    """Without a lab, these are all objects, namespace by namespace; nothing is changed."""
    result = run("plan", "--lab", "planned-only")
    assert "node/worker" in result.out.splitlines()
    assert "+ nft chain ip kube-proxy services: 2 rules" in result.out
    assert re.search(r"\d+ operations in 22 namespaces", result.out)
    assert "planned-only" not in run("list").out
