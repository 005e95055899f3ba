"""Connections that a change of policies of Calico, Cilium and administrators opens and closes."""

from __future__ import annotations

import pytest

from kubenetlab.observe.changes.changes import compare
from tests.unit.observe.test_changes import cluster

OF_SERVICE = """\
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
networking: {{cni: calico}}
---
apiVersion: v1
kind: Service
metadata: {{name: db, namespace: shop}}
spec: {{selector: {{app: db}}, ports: [{{port: 80, targetPort: 9000}}]}}
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {{name: p, namespace: shop}}
spec: {{selector: app == 'web', types: [Egress], egress: [{rules}]}}
---
"""


def test_ports_of_a_service_in_calicos_rules_are_those_of_its_endpoints() -> None:
    """No container needs to declare them."""
    rule = "{action: Allow, destination: {services: {name: db}}}"
    old, new = (cluster(OF_SERVICE.format(rules=rules)) for rules in ("", rule))
    assert [
        (change.change, *change.destinations, *change.ports) for change in compare(old, new)
    ] == [("opened", "sts:shop/db", "9000/TCP")]


CILIUM = """\
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
networking: {{cni: cilium}}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: p, namespace: shop}}
spec: {{endpointSelector: {{matchLabels: {{app: web}}}}, egress: [{rules}]}}
---
"""
ADMIN = """\
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
nodes: [{{role: control-plane}}]
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {{name: p}}
spec:
  tier: Admin
  priority: 1
  subject: {{namespaces: {{matchLabels: {{team: shop}}}}}}
  egress: [{rules}]
---
"""
ISOLATING = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: p, namespace: shop}}
spec: {{podSelector: {{}}, policyTypes: [Egress], egress: [{rules}]}}
---
"""


@pytest.mark.parametrize(
    ("template", "old", "new", "changes"),
    [
        (CILIUM, "{toEntities: [host]}", "{}", [("closed", "own node")]),
        (
            CILIUM,
            "{toEntities: [host]}",
            "{toEntities: [remote-node]}",
            [("opened", "nodes"), ("closed", "own node")],
        ),
        (ADMIN, "", "{action: Deny, to: [{nodes: {}}]}", [("closed", "own node")]),
        (ISOLATING, "{to: [{ipBlock: {cidr: 172.16.0.0/12}}]}", "", [("closed", "nodes")]),
    ],
)
def test_the_own_node_of_pods_is_told_apart_from_others(
    template: str, old: str, new: str, changes: list[tuple[str, str]]
) -> None:
    """NetworkPolicies do not apply to it, but other policies do."""
    first, second = (cluster(template.format(rules=rules)) for rules in (old, new))
    found = [
        (change.change, title)
        for change in compare(first, second)
        for title in change.destinations
        if "node" in title
    ]
    assert found == changes
