"""Source addresses of a node's packets to pods of other nodes."""

from __future__ import annotations

import pytest

from tests.clusters import store
from tests.inspected import inspected

CLUSTER = """\
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
nodes: [{{role: control-plane}}, {{role: worker}}, {{role: worker}}]
networking: {{cni: {cni}, ipFamily: {family}}}
---
"""


@pytest.mark.parametrize(
    ("cni", "family", "sources"),
    [
        ("bridge", "ipv4", ["172.18.0.3"]),
        ("bridge", "dual", ["172.18.0.3", "fd00:172:18::3"]),
        ("ptp", "ipv4", ["172.18.0.3"]),
        ("flannel", "ipv4", ["10.244.1.0"]),
        ("{type: flannel, backend: host-gw}", "ipv4", ["172.18.0.3"]),
        ("calico", "ipv4", ["172.18.0.3"]),
        ("{type: calico, backend: vxlan}", "ipv4", ["10.244.216.128"]),
        ("cilium", "ipv4", ["10.244.1.1", "172.18.0.3"]),
        ("weave", "ipv4", ["10.37.85.85"]),
    ],
)
def test_the_route_to_pods_decides(cni: str, family: str, sources: list[str]) -> None:
    """Bridges of a node's own pods, and first addresses of ranges, are no sources."""
    cluster = store(CLUSTER.format(cni=cni, family=family))
    (node,) = [each for each in inspected(cluster)["nodes"] if each["name"] == "worker"]
    assert node["pod_sources"] == sources
