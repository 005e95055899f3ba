"""Diagnostics of policies of a tier with the same priority."""

from __future__ import annotations

import pytest

from kubenetlab.diagnostics.model import ORDER_UNDEFINED
from tests.unit.diagnostics.test_diagnostics import diagnostics_of, main

ALL = "{namespaces: {}}"
OTHER = "{pods: {podSelector: {matchLabels: {app: other}}}}"


def policy(
    name: str,
    action: str,
    *,
    priority: int = 5,
    tier: str = "Admin",
    subject: str = ALL,
    direction: str = "ingress",
) -> str:
    peers = "from" if direction == "ingress" else "to"
    return f"""
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {{name: {name}}}
spec:
  tier: {tier}
  priority: {priority}
  subject: {subject}
  {direction}: [{{action: {action}, {peers}: [{ALL}]}}]
---
"""


PREDECESSOR = f"""
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {{name: c}}
spec: {{priority: 5, subject: {ALL}, ingress: [{{action: Allow, from: [{ALL}]}}]}}
---
"""


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        (policy("a", "Deny") + policy("b", "Accept"), ["b"]),
        (policy("a", "Deny") + PREDECESSOR, ["c"]),
        (policy("a", "Deny") + policy("b", "Deny"), []),
        (policy("a", "Deny") + policy("b", "Accept", priority=6), []),
        (policy("a", "Deny") + policy("b", "Accept", tier="Baseline"), []),
        (policy("a", "Deny") + policy("b", "Accept", subject=OTHER), []),
        (policy("a", "Deny") + policy("b", "Accept", direction="egress"), []),
        (policy("a", "Deny") + policy("b", "Pass") + policy("c", "Pass"), ["b", "c"]),
    ],
)
def test_the_order_of_equal_priorities_is_undefined(policies: str, expected: list[str]) -> None:
    """Only if the policies share pods and a direction, and the order can change a verdict."""
    diagnostics = [
        diagnostic
        for diagnostic in diagnostics_of(main("") + policies)
        if diagnostic.code == ORDER_UNDEFINED
    ]
    assert [diagnostic.name for diagnostic in diagnostics] == expected


def test_the_diagnostic_names_the_policy_that_is_evaluated_first() -> None:
    diagnostic = next(
        each
        for each in diagnostics_of(main("") + policy("b", "Deny") + policy("a", "Accept"))
        if each.code == ORDER_UNDEFINED
    )
    assert diagnostic.subject == "ClusterNetworkPolicy b: spec.priority"
    assert diagnostic.message.startswith("5 is the priority of ClusterNetworkPolicy a, too")
    assert diagnostic.message.endswith("in the lab it is a")
    assert "default/one" in diagnostic.scope.into
    assert diagnostic.scope.out_of == ()
