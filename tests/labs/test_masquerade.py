"""ip-masq-agent's ConfigMap in a running lab: which source addresses servers see, inside the
cluster and outside.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.labs.conftest import new_lab
from tests.labs.lab import Lab
from tests.labs.test_local_traffic import LOST_PORT, TRIES, node_port_of_worker2
from tests.labs.test_local_traffic import manifest as local_traffic
from tests.labs.world import World

PODS, SERVICES, NODES = (
    ("10.244.0.0/16", "fd00:10:244::/56"),
    ("10.96.0.0/16", "fd00:10:96::/112"),
    ("172.18.0.0/16", "fd00:172:18::/64"),
)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    for one in new_lab():
        one.up(
            local_traffic("nftables").replace(
                "networking:",
                "external: [{name: server, address: 198.51.100.20, ports: [80]}]\nnetworking:",
            )
        )
        yield one


def configured(lab: Lab, ranges: tuple[str, ...] | None, version: int) -> World:
    """The lab with a ConfigMap that keeps sources towards these ranges; None: without one."""
    if ranges is None:
        lab.run("delete", "configmap", "ip-masq-agent", "-n", "kube-system", status=None)
        return World(lab, version)
    data = json.dumps(
        {"config": json.dumps({"nonMasqueradeCIDRs": ranges, "resyncInterval": "30s"})}
    )
    lab.apply(
        f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: ip-masq-agent, namespace: kube-system}}\ndata: {data}\n"
    )
    lab.run("diff")
    return World(lab, version)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    ("ranges", "by_pod", "outside"),
    [
        (None, "client", "node:worker"),
        ((*PODS, *SERVICES), "client", "node:worker"),
        (NODES, "node:worker2", "node:worker"),
        (("0.0.0.0/0", "::/0"), "client", "silence"),
        ((), "node:worker2", "node:worker"),
    ],
    ids=["no ConfigMap", "pods", "nodes", "everything", "nothing"],
)
def test_sources_are_kept_towards_the_ranges(
    lab: Lab, ranges: tuple[str, ...] | None, by_pod: str, outside: str, version: int
) -> None:
    """Which source a pod on another node sees, and which a server outside.

    Every node on the way masquerades, so that a pod sees the last one: its own. The internet knows
    no way back to pods.
    """
    found = configured(lab, ranges, version)
    answers = found.ask(
        "client", ("TCP", found.address("far"), 8080), ("TCP", found.address("ext:server"), 80)
    )
    seen = [answer.seen[0] if not answer.error else answer.error for answer in answers]
    assert seen == [
        found.address(by_pod),
        found.address(outside) if outside != "silence" else outside,
    ]


@pytest.mark.parametrize("version", [4, 6])
def test_masquerade_between_nodes_keeps_local_node_ports(lab: Lab, version: int) -> None:
    """What a pod sends to another node's node port comes from its node: only endpoints there
    answer, and none is lost.
    """
    found = configured(lab, (*PODS, *SERVICES), version)
    assert node_port_of_worker2(found) == {("far", found.address("node:worker")): TRIES}
    found = configured(lab, None, version)
    assert set(node_port_of_worker2(found, LOST_PORT)) == {
        ("far", found.address("client")),
        ("", "silence"),
    }
