"""Output with `-o json` matches its schema, in an intact lab and in one with faults."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from kubenetlab.cli.terminal.output_schemas import OUTPUTS, schema_of
from tests.clusters import ONE_NODE, deployment, pod, service
from tests.labs.lab import Lab, run

MISCONFIGURED = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny}
spec: {podSelector: {}}
---
apiVersion: v1
kind: Service
metadata: {name: nowhere}
spec: {selector: {app: nobody}, ports: [{port: 80}]}
---
"""
COMMANDS: dict[str, tuple[str, ...]] = {
    "list": ("list",),
    "ping": ("ping", "client", "svc:web"),
    "ping-count": ("ping", "client", "svc:web", "--count", "10"),
    "ping-matrix": ("ping",),
    "check": ("check",),
    "explain-policy": ("explain-policy", "client", "svc:web"),
    "check-diff": ("check", "--diff", "manifests/01-quickstart", "manifests/06-dns"),
    "diff": ("diff",),
    "inspect": ("inspect",),
    "inspect-service": ("inspect", "svc:web"),
    "inspect-pod": ("inspect", "client"),
    "inspect-place": ("inspect", "node:control-plane"),
    "doctor": ("doctor",),
    "modes": ("modes",),
    "compare": ("compare", "--cni", "bridge"),
}
WITHOUT_LAB = ("list", "doctor", "modes", "compare", "check-diff")


def json_output(lab: Lab, name: str) -> Any:
    words = (*COMMANDS[name], "-o", "json")
    result = run(*words, status=None) if name in WITHOUT_LAB else lab.run(*words, status=None)
    assert result.status in (0, 1), result.err
    return json.loads(result.out)


def assert_valid(name: str, output: Any) -> None:
    errors = [
        f"{error.json_path}: {error.message}"
        for error in Draft202012Validator(schema_of(name, allows_more=False)).iter_errors(output)
    ]
    assert not errors, f"{name}: {errors[:5]}"


def test_json_output_matches_its_schema(lab: Lab) -> None:
    """Each command runs in an intact lab, and then in one that is broken and misconfigured."""
    lab.up(ONE_NODE + pod("client") + deployment("web", 2) + service("web"), "--policy", "none")
    for name in COMMANDS:
        assert_valid(name, json_output(lab, name))
    plan = json.loads(lab.run("plan", "-f", "-", "-o", "json", stdin=pod("more")).out)
    assert plan
    assert_valid("plan", plan)
    lab.apply(MISCONFIGURED)
    lab.run("break", "kube-proxy", "--node", "control-plane", "--how", "stale")
    lab.run("scale", "deploy/web", "1")
    for name in (
        "ping",
        "ping-count",
        "ping-matrix",
        "check",
        "diff",
        "inspect",
        "inspect-service",
        "list",
    ):
        assert_valid(name, json_output(lab, name))
    assert json_output(lab, "check")["diagnostics"]


def test_all_schemas_are_tested_and_can_be_printed() -> None:
    """The commands above cover all of them, except two with a test of their own.

    They are `flows` (test_flow_events.py) and `policy-log` (test_policy_probes.py).
    `schema output/NAME` prints them; an unknown name leads to a suggestion.
    """
    assert set(OUTPUTS) == {*COMMANDS, "plan", "flows", "policy-log"}
    for name in OUTPUTS:
        Draft202012Validator.check_schema(run("schema", f"output/{name}").json)
    assert "did you mean check?" in run("schema", "output/chek", status=2).err


@pytest.mark.parametrize("status", [0, 1])
def test_ok_agrees_with_the_exit_status(lab: Lab, status: int) -> None:
    """`ok` is true exactly when the exit status is 0."""
    lab.up(
        ONE_NODE
        + pod("client")
        + deployment("web", 1)
        + service("web")
        + (MISCONFIGURED if status else ""),
        "--policy",
        "none",
    )
    for name in ("ping", "ping-matrix", "check"):
        assert lab.run(*COMMANDS[name], "-o", "json", status=status).json["ok"] == (status == 0)
