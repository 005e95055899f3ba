"""Diagnostics of domain names in policies."""

from __future__ import annotations

import pytest

from kubenetlab.diagnostics import diagnose
from kubenetlab.diagnostics.model import NOT_ENFORCED, POLICY_PEER_UNMATCHED
from tests.clusters import pod, store
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


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("api.example.com", ""),
        ("'*.example.com'", ""),
        ("api.exmaple.com", "api.exmaple.com; did you mean api.example.com?"),
        ("'*.internal.invalid'", "*.internal.invalid"),
    ],
)
def test_names_that_no_host_has(name: str, message: str) -> None:
    """It is advice: connections to such a host cannot be tested."""
    hosts = (
        "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nexternal:\n"
        "- {name: api.example.com, address: 198.51.100.20}\n"
        "- {name: a.example.com, address: 198.51.100.21}\n---\n"
    )
    found = [
        each
        for each in diagnose(store(hosts + pod("one") + POLICY.format(name)))
        if each.code == POLICY_PEER_UNMATCHED
    ]
    expected = f"no external host of the lab has the name {message}"
    assert [each.message for each in found] == ([expected] if message else [])
