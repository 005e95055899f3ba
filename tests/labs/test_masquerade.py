"""ip-masq-agent's ConfigMap in a running lab, and the source addresses that servers see."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.labs.conftest import new_lab
from tests.labs.lab import Lab
from tests.labs.lab_view import LabView
from tests.labs.test_local_traffic import LOST_PORT, TRIES, node_port_of_worker2
from tests.labs.test_local_traffic import manifest as local_traffic

PODS, SERVICES, NODES = (
    ("10.244.0.0/16", "fd00:10:244::/56"),
    ("10.96.0.0/16", "fd00:10:96::/112"),
    ("172.18.0.0/16", "fd00:172:18::/64"),
)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    for lab in new_lab():
        lab.up(
            local_traffic("nftables").replace(
                "networking:",
                "external: [{name: server, address: 198.51.100.20, ports: [80]}]\nnetworking:",
            )
        )
        yield lab


def configured(lab: Lab, ranges: tuple[str, ...] | None, version: int) -> LabView:
    """Configure the ranges towards which sources are kept, and return a view of the lab.

    None: without a ConfigMap.
    """
    if ranges is None:
        lab.run("delete", "configmap", "ip-masq-agent", "-n", "kube-system", status=None)
        return LabView(lab, version)
    data = json.dumps(
        {"config": json.dumps({"nonMasqueradeCIDRs": ranges, "resyncInterval": "30s"})}
    )
    lab.apply(
        "apiVersion: v1\nkind: ConfigMap\n"
        f"metadata: {{name: ip-masq-agent, namespace: kube-system}}\ndata: {data}\n"
    )
    lab.run("diff")
    return LabView(lab, version)


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
def test_sources_are_kept_towards_the_configured_ranges(
    lab: Lab, ranges: tuple[str, ...] | None, by_pod: str, outside: str, version: int
) -> None:
    """The sources are those that a pod on another node and an external server see.

    Every node on the path masquerades, so a pod sees its own node. External hosts have no routes to
    pods.
    """
    view = configured(lab, ranges, version)
    answers = view.ask(
        "client", ("TCP", view.address("far"), 8080), ("TCP", view.address("ext:server"), 80)
    )
    clients = [answer.client[0] if not answer.error else answer.error for answer in answers]
    assert clients == [
        view.address(by_pod),
        view.address(outside) if outside != "silence" else outside,
    ]


@pytest.mark.parametrize("version", [4, 6])
def test_masquerading_between_nodes_prevents_lost_connections(lab: Lab, version: int) -> None:
    """Connections of a pod to another node's node port come from the pod's node.

    Only endpoints of the other node answer.
    """
    view = configured(lab, (*PODS, *SERVICES), version)
    assert node_port_of_worker2(view) == {("far", view.address("node:worker")): TRIES}
    view = configured(lab, None, version)
    assert set(node_port_of_worker2(view, LOST_PORT)) == {
        ("far", view.address("client")),
        ("", "silence"),
    }
