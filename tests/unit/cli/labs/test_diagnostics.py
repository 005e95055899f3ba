"""Notes about pods that are missing from the matrix, and about objects that are not enforced."""

from __future__ import annotations

from typing import Any, cast

import pytest
from msgspec import structs, to_builtins

from kubenetlab.cli.labs.diagnostics import (
    decode,
    is_accepted,
    note_absent_pods,
    print_diagnostics,
)
from kubenetlab.diagnostics import NOT_ENFORCED, Diagnostic
from kubenetlab.lab.apiserver.diagnostics import diagnostics
from kubenetlab.observe.inspection import Inspection
from tests.clusters import problems_of, store


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
    for entries, line in expected.items():
        print_diagnostics([to_builtins(each) for each in entries])
        assert capsys.readouterr().err == f"not enforced: {line}\n  no engine\n"


@pytest.mark.parametrize("kind", ["NetworkPolicy", "GlobalNetworkPolicy"])
def test_all_messages_name_a_policy_with_the_kind_of_listings(kind: str) -> None:
    """Calico's NetworkPolicy is a CalicoNetworkPolicy beside that of Kubernetes."""
    text = f"""
apiVersion: projectcalico.org/v3
kind: {kind}
metadata: {{name: web{", namespace: shop" if kind == "NetworkPolicy" else ""}}}
spec: {{selector: {{}}}}
"""
    title = "CalicoNetworkPolicy shop/web" if kind == "NetworkPolicy" else f"{kind} web"
    assert {problem.object for problem in problems_of(text)} == {title}
    valid = text.replace("{selector: {}}", "{selector: all()}")
    (found,) = [each for each in diagnostics(store(valid)) if each["code"] == NOT_ENFORCED]
    assert decode([found])[0].title == title
    assert found["source"] == {"file": "test.yaml", "line": 2}


@pytest.mark.parametrize(
    ("word", "is_allowed"),
    [
        ("CalicoNetworkPolicy", True),
        ("NetworkPolicy", True),
        ("networkpolicies.projectcalico.org", True),
        ("caliconetworkpolicies", True),
        ("GlobalNetworkPolicy", False),
    ],
)
def test_a_policy_of_calico_is_accepted_by_its_kind(word: str, is_allowed: bool) -> None:
    """`--allow-unmodelled` has the kind of the manifest, or that of listings."""
    diagnostic = Diagnostic(NOT_ENFORCED, "CalicoNetworkPolicy", "shop", "web", (), "")
    assert is_accepted(diagnostic, [word], undeclared=False) is is_allowed
