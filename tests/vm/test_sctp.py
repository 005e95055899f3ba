"""SCTP on a kernel with SCTP: Services and built-in programs, in every kube-proxy mode."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

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


POLICY = """\
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: b}
spec:
  podSelector: {matchLabels: {app: b}}
  ingress: [{from: [{podSelector: {matchLabels: {app: a}}}], ports: [{port: 8082, protocol: SCTP}]}]
"""


@pytest.mark.parametrize("engine", ["nftables", "iptables"])
def test_a_check_tests_policies_with_sctp(engine: str, tmp_path: Path) -> None:
    """In tables, in the promise, and in generated tables; a denial is silence."""
    table = tmp_path / "expect.yaml"
    table.write_text(
        "- {from: a, to: b, port: 8082, protocol: SCTP, expect: allow}\n"
        "- {from: a, to: 'svc:b', protocol: SCTP, expect: allow}\n"
        "- {from: a, to: b, port: 8083, protocol: SCTP, expect: drop}\n"
        "- {from: 'ext:client', to: 'nodeport:worker/default/b', protocol: SCTP, expect: drop}\n"
        "- {from: b, to: a, port: 8082, protocol: SCTP, expect: allow}\n"
    )
    for lab in new_lab():
        lab.up(MANIFEST + POLICY, "--policy", engine)
        result = lab.run("check", str(table), "-o", "json").json
        assert [row["state"] for row in result["checks"]] == ["holds"] * 5
        assert lab.run("check", "-o", "json").json["ok"]
        generated = tmp_path / "generated.yaml"
        lab.run("check", "--generate", str(generated))
        assert "protocol: SCTP" in generated.read_text()
        lab.run("check", str(generated))
