"""Services of the mode ebpf beside every CNI mode: which endpoint answers, and whom it sees."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.labs import service_access
from tests.labs.conftest import new_lab
from tests.labs.lab_view import LabView
from tests.labs.test_pod_networks import MODES, require
from tests.libbpf import NEEDS_LIBBPF

pytestmark = NEEDS_LIBBPF

HIDING = ("weave",)
"""CNI modes that masquerade packets from outside to pods, whatever Services ask for."""
VARIANTS = {
    **{name: (cni, "switched") for name, cni in MODES.items() if name == cni},
    **{name: (MODES[name], "switched") for name in ("flannel-routed", "calico-vxlan")},
    **{
        f"{name} in two subnets": (MODES[name], "routed")
        for name in ("flannel-direct", "calico-cross-subnet")
    },
}
"""Name → CNI mode, and topology of the fabric: each mode alone, and modes with other tunnels."""


@pytest.fixture(scope="module", params=VARIANTS, ids=str)
def labs(request: pytest.FixtureRequest) -> Iterator[tuple[str, dict[int, LabView]]]:
    """Yield the name of the CNI mode, and a view of its lab for each IP version."""
    cni, topology = VARIANTS[request.param]
    require(cni)
    for lab in new_lab():
        lab.up(service_access.manifest(cni, topology))
        yield cni, {version: LabView(lab, version) for version in (4, 6)}


@pytest.fixture(params=[4, 6])
def view(
    request: pytest.FixtureRequest, labs: tuple[str, dict[int, LabView]]
) -> tuple[str, LabView]:
    cni, views = labs
    return cni, views[request.param]


def test_every_node_masquerades_with_the_policy_cluster(view: tuple[str, LabView]) -> None:
    """The endpoint sees the node by an address of the link to it, as with kube-proxy's rules."""
    service_access.check_policy_cluster(view[1])


def test_the_policy_local_keeps_clients(view: tuple[str, LabView]) -> None:
    """Only the endpoint's own node answers clients outside."""
    cni, lab = view
    service_access.check_policy_local(lab, keeps_clients=cni not in HIDING)


def test_pods_and_nodes_reach_services_with_the_policy_local(view: tuple[str, LabView]) -> None:
    """They do so at the endpoint's node and at their own node."""
    service_access.check_policy_local_inside(view[1])


def test_cluster_ips_show_pods(view: tuple[str, LabView]) -> None:
    """Pods are never masqueraded there."""
    service_access.check_cluster_ip(view[1])


@pytest.mark.parametrize("source", [service_access.CLIENT, "c", "node:control-plane"])
def test_large_datagrams_pass_in_fragments(view: tuple[str, LabView], source: str) -> None:
    """The links between the nodes may have a smaller MTU than those of client and endpoint."""
    service_access.check_large_datagrams(view[1], source)


def test_the_agent_finds_no_difference(view: tuple[str, LabView]) -> None:
    """Programs and map entries of the links between nodes are those of the plan."""
    assert view[1].lab.run("diff").status == 0
