"""SCTP on a kernel that has it: Services and stand-ins, in every mode of kube-proxy."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.labs.conftest import new_lab
from tests.labs.lab import Lab
from tests.labs.world import PROXIES, World

pytestmark = pytest.mark.vm

POD = """\
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec: {{nodeName: {node}, containers: [{{name: main, image: agnhost, args: [netexec, --sctp-port=8082]}}]}}
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
spec: {type: LoadBalancer, selector: {app: b}, ports: [{port: 80, protocol: SCTP, targetPort: 8082, nodePort: 30082}]}
"""
)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    for lab in new_lab():
        lab.up(MANIFEST)
        yield lab


def test_every_mode_is_here() -> None:
    """The kernel has what ipvs needs."""
    assert set(PROXIES) >= {"nftables", "iptables", "ipvs"}


@pytest.mark.parametrize(
    "proxy", [proxy for proxy in PROXIES if proxy != "ebpf"]
)  # it refuses SCTP: docs/proxy-modes.md
def test_a_service_by_sctp(lab: Lab, proxy: str) -> None:
    """By its cluster IP the pod sees the client, by a node port the node that was asked; the load
    balancer's address leads there, too.
    """
    lab.run("up", "--proxy", proxy)
    world = World(lab, 4)
    node = world.address("node:worker")
    direct, inside, here = world.ask(
        "a",
        ("SCTP", world.address("b"), 8082),
        ("SCTP", world.services["b"], 80),
        ("SCTP", node, 30082),
    )
    assert [(answer.who, answer.seen[0]) for answer in (direct, inside, here)] == [
        ("b", world.address("a")),
        ("b", world.address("a")),
        ("b", node),
    ]
    at_node, balanced = world.ask(
        "ext:client", ("SCTP", node, 30082), ("SCTP", world.outside["b"], 80)
    )
    assert ((at_node.who, at_node.seen[0]), balanced.who) == (("b", node), "b")


def test_the_command_asks_by_sctp(lab: Lab) -> None:
    """A Service's port by the protocol that it has; and the matrix agrees."""
    assert "associate" in lab.run("ping", "a", "svc:b").out
    for words in (
        ("svc:b", "--sctp", "80"),
        ("b", "--sctp", "8082"),
        ("nodeport:worker/default/b", "--sctp", "80"),
    ):
        assert "associate: answered in" in lab.run("ping", "a", *words).out
    assert "associate: refused" in lab.run("ping", "a", "b", "--sctp", "8083", status=1).out
    assert lab.run("ping", "-o", "json").json["ok"]
