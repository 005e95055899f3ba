"""SCTP on a kernel with SCTP: Services and built-in programs, in every kube-proxy mode."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.labs.conftest import new_lab
from tests.labs.lab import Lab
from tests.labs.lab_view import PROXY_MODES, LabView

pytestmark = pytest.mark.vm

POD = """\
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  nodeName: {node}
  containers: [{{name: main, image: agnhost, args: [netexec, --sctp-port=8082]}}]
"""
MANIFEST = (
    "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
    + "".join(
        POD.format(name=name, node=node) for name, node in (("a", "worker"), ("b", "worker2"))
    )
    + """\
---
apiVersion: v1
kind: Service
metadata: {name: b}
spec:
  type: LoadBalancer
  selector: {app: b}
  ports: [{port: 80, protocol: SCTP, targetPort: 8082, nodePort: 30082}]
"""
)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    for lab in new_lab():
        lab.up(MANIFEST)
        yield lab


def test_the_kernel_supports_every_mode() -> None:
    """It has the modules that ipvs needs."""
    assert set(PROXY_MODES) >= {"nftables", "iptables", "ipvs"}


# The mode ebpf rejects SCTP: docs/proxy-modes.md
@pytest.mark.parametrize("proxy", [proxy for proxy in PROXY_MODES if proxy != "ebpf"])
def test_a_service_accepts_sctp(lab: Lab, proxy: str) -> None:
    """At the cluster IP, the pod sees the client.

    At a node port, it sees the contacted node. The load balancer's address works, too.
    """
    lab.run("up", "--proxy", proxy)
    view = LabView(lab, 4)
    node = view.address("node:worker")
    direct, at_cluster_ip, at_node_port = view.ask(
        "a",
        ("SCTP", view.address("b"), 8082),
        ("SCTP", view.cluster_ips["b"], 80),
        ("SCTP", node, 30082),
    )
    assert [
        (answer.server, answer.client[0]) for answer in (direct, at_cluster_ip, at_node_port)
    ] == [
        ("b", view.address("a")),
        ("b", view.address("a")),
        ("b", node),
    ]
    at_node, balanced = view.ask(
        "ext:client", ("SCTP", node, 30082), ("SCTP", view.load_balancer_ips["b"], 80)
    )
    assert ((at_node.server, at_node.client[0]), balanced.server) == (("b", node), "b")


def test_ping_supports_sctp(lab: Lab) -> None:
    """It uses a Service's protocol, and the matrix agrees."""
    assert "associate" in lab.run("ping", "a", "svc:b").out
    for words in (
        ("svc:b", "--sctp", "80"),
        ("b", "--sctp", "8082"),
        ("nodeport:worker/default/b", "--sctp", "80"),
    ):
        assert "associate: answered in" in lab.run("ping", "a", *words).out
    assert "associate: refused" in lab.run("ping", "a", "b", "--sctp", "8083", status=1).out
    assert lab.run("ping", "-o", "json").json["ok"]
