"""Network policies beside the mode ipvs, whose packets to Services are not forwarded."""

from __future__ import annotations

import pytest

from tests.clusters import DUAL
from tests.labs.lab import Lab
from tests.labs.test_network_policies import (
    CLIENTS,
    EGRESS,
    POLICY,
    WEB_WITH_NODE_PORT,
    assert_verdicts_of_services,
)

pytestmark = pytest.mark.vm


@pytest.mark.parametrize("engine", ["nftables", "iptables"])
def test_policies_hold_for_services(lab: Lab, engine: str) -> None:
    """A policy sees the pod that IPVS has chosen, also on the node of the client."""
    manifest = DUAL + CLIENTS + WEB_WITH_NODE_PORT + POLICY + EGRESS
    lab.up(manifest, "--proxy", "ipvs", "--policy", engine)
    assert_verdicts_of_services(lab)


PODS = "".join(
    f"""---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  nodeName: {node}
  containers: [{{name: main, image: nginx, ports: [{{containerPort: 80}}]}}]
"""
    for name, node in (("client", "worker"), ("web", "worker2"))
)
SERVICE = """---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
"""
TIER = """---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: clients}
spec:
  tier: Admin
  priority: 1
  subject: {pods: {podSelector: {matchLabels: {app: client}}}}
  egress:
  - {action: Accept, to: [{pods: {podSelector: {matchLabels: {app: web}}}}]}
  - {action: Deny, to: [{networks: [0.0.0.0/0]}]}
"""
SERVICES = "  - {action: Accept, to: [{networks: [10.96.0.0/16]}]}\n"


@pytest.mark.parametrize(
    ("engine", "accepts_services", "status"),
    [("nftables", False, 0), ("iptables", False, 1), ("iptables", True, 0)],
)
def test_tiers_of_iptables_decide_about_the_cluster_ip_too(
    lab: Lab, engine: str, accepts_services: bool, status: int
) -> None:
    """Packets pass INPUT before IPVS chooses an endpoint: the limit in docs/network-policies.md."""
    first, deny, end = TIER.partition("  - {action: Deny")
    tier = first + (SERVICES if accepts_services else "") + deny + end
    config = "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
    lab.up(config + PODS + SERVICE + tier, "--proxy", "ipvs", "--policy", engine)
    lab.run("ping", "client", "web", "--tcp", "80")
    lab.run("ping", "client", "svc:web", status=status)
