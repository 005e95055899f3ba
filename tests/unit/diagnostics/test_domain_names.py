"""Diagnostics of domain names in policies."""

from __future__ import annotations

import pytest

from kubenetlab.diagnostics.model import NOT_ENFORCED
from tests.unit.diagnostics.test_diagnostics import diagnostics_of, main

POLICY = """
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {{name: names}}
spec:
  tier: Admin
  priority: 5
  subject: {{namespaces: {{}}}}
  egress: [{{action: Accept, to: [{{nodes: {{}}}}, {{domainNames: [a.example.com, {}]}}]}}]
---
"""


@pytest.mark.parametrize(
    ("name", "is_enforced"),
    [
        ("b.example.com", True),
        ("'*.example.com'", True),
        ("db.default.svc.cluster.local", False),
        ("'*.svc.cluster.local.'", False),
    ],
)
def test_names_inside_the_cluster_are_not_enforced(name: str, *, is_enforced: bool) -> None:
    diagnostics = [
        each for each in diagnostics_of(main("") + POLICY.format(name)) if each.code == NOT_ENFORCED
    ]
    assert len(diagnostics) == (0 if is_enforced else 1)
    for each in diagnostics:
        assert each.subject == "ClusterNetworkPolicy names: spec.egress[0].to[1].domainNames[1]"
        assert "default/one" in each.scope.out_of
