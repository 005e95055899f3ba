"""Remarks about pods without a part in the matrix."""

from __future__ import annotations

from typing import Any, cast

import pytest

from kubenetlab.cli.labs.diagnostics import note_absent_pods
from kubenetlab.observe.inspection import Inspection


def test_pods_that_are_not_attached_to_the_network_are_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A pod whose CNI plugin fails has a sandbox, but no address."""
    pods: list[dict[str, Any]] = [
        {"name": name, "namespace": "default", "pid": pid, "phase": phase, "addresses": addresses}
        for name, pid, phase, addresses in (
            ("waits", None, "Pending", []),
            ("not-attached", 17, "Pending", []),
            ("starts", 18, "Pending", ["10.244.1.2"]),
            ("runs", 19, "Running", ["10.244.1.3"]),
            ("ended", None, "Succeeded", []),
        )
    ]
    note_absent_pods(cast(Inspection, {"pods": pods}))
    assert capsys.readouterr().err == (
        "not checked: 2 pods do not run: default/waits, default/not-attached\n"
    )
