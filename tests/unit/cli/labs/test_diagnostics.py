"""Notes about pods that are missing from the matrix, and about objects that are not enforced."""

from __future__ import annotations

from typing import Any, cast

import pytest
from msgspec import structs, to_builtins

from kubenetlab.cli.labs.diagnostics import note_absent_pods, print_diagnostics
from kubenetlab.diagnostics import NOT_ENFORCED, Diagnostic
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


def test_objects_that_are_not_enforced_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """It does not say that they matter if they have no effect in a cluster either."""
    first = Diagnostic(NOT_ENFORCED, "NetworkPolicy", "default", "a", (), "", ("no engine",))
    second = structs.replace(first, name="b", is_effective=False)
    expected = {
        (first,): "NetworkPolicy default/a: in a cluster it changes which connections succeed",
        (first, second): "NetworkPolicy default/a, default/b: in a cluster they change which "
        "connections succeed",
        (second,): "NetworkPolicy default/b",
    }
    for diagnostics, line in expected.items():
        print_diagnostics([to_builtins(each) for each in diagnostics])
        assert capsys.readouterr().err == f"not enforced: {line}\n  no engine\n"
