"""What commands print with `-o json` is as its schema says, in a whole lab and in one with faults
and diagnostics.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from kubenetlab.cli.terminal.output_schemas import OUTPUTS, schema_of
from tests.clusters import ONE_NODE, deployment, pod, service
from tests.labs.lab import Lab, run

DOUBTFUL = """\
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
    "diff": ("diff",),
    "inspect": ("inspect",),
    "inspect-service": ("inspect", "svc:web"),
    "inspect-pod": ("inspect", "client"),
    "inspect-place": ("inspect", "node:control-plane"),
    "doctor": ("doctor",),
    "modes": ("modes",),
}
WITHOUT_LAB = ("list", "doctor", "modes")


def printed(lab: Lab, name: str) -> Any:
    words = (*COMMANDS[name], "-o", "json")
    said = run(*words, status=None) if name in WITHOUT_LAB else lab.run(*words, status=None)
    assert said.status in (0, 1), said.err
    return json.loads(said.out)


def fits(name: str, output: Any) -> None:
    faults = [
        f"{error.json_path}: {error.message}"
        for error in Draft202012Validator(schema_of(name, allows_more=False)).iter_errors(output)
    ]
    assert not faults, f"{name}: {faults[:5]}"


def test_outputs_are_as_their_schemas_say(lab: Lab) -> None:
    """Each command of a lab in which all is well, then of one that is broken and doubtful."""
    lab.up(ONE_NODE + pod("client") + deployment("web", 2) + service("web"))
    for name in COMMANDS:
        fits(name, printed(lab, name))
    plan = json.loads(lab.run("plan", "-f", "-", "-o", "json", given=pod("more")).out)
    assert plan
    fits("plan", plan)
    lab.apply(DOUBTFUL)
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
        fits(name, printed(lab, name))
    assert printed(lab, "check")["diagnostics"]


def test_all_schemas_are_covered_and_printed() -> None:
    """By the commands above, and by `schema output/NAME`; an unknown one names those that there
    are.
    """
    assert set(OUTPUTS) == {*COMMANDS, "plan"}
    for name in OUTPUTS:
        Draft202012Validator.check_schema(run("schema", f"output/{name}").json)
    assert "did you mean check?" in run("schema", "output/chek", status=2).err


@pytest.mark.parametrize("status", [0, 1])
def test_ok_is_the_exit_status(lab: Lab, status: int) -> None:
    """`ok` says the same as the exit status does."""
    lab.up(
        ONE_NODE
        + pod("client")
        + deployment("web", 1)
        + service("web")
        + (DOUBTFUL if status else "")
    )
    for name in ("ping", "ping-matrix", "check"):
        assert lab.run(*COMMANDS[name], "-o", "json", status=status).json["ok"] == (status == 0)
