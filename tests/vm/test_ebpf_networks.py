"""The mode ebpf on tunnels that only some kernels have, whose packets have no Ethernet header."""

from __future__ import annotations

import pytest

from tests.labs import service_access
from tests.labs.lab import Lab
from tests.labs.lab_view import LabView
from tests.vm.encryption import wait_for_connectivity, wait_until_repaired

pytestmark = pytest.mark.vm


@pytest.mark.parametrize(
    ("cni", "family"),
    [
        ("{type: flannel, backend: wireguard}", "dual"),
        ("{type: flannel, backend: ipip}", "ipv4"),
        ("{type: calico, backend: ipip}", "dual"),
        ("flannel", "dual"),
    ],
)
def test_services_answer_across_tunnels(lab: Lab, cni: str, family: str) -> None:
    """Every node answers, by every kind of address, whether the endpoint is on it or not."""
    lab.up(service_access.manifest(cni, "switched", family))
    wait_for_connectivity(lab)
    for version in service_access.VERSIONS[family]:
        view = LabView(lab, version)
        service_access.check_policy_cluster(view)
        service_access.check_policy_local(view)
        service_access.check_policy_local_inside(view)
        service_access.check_cluster_ip(view)
        for source in (service_access.CLIENT, "c", "node:control-plane"):
            service_access.check_large_datagrams(view, source)
    wait_until_repaired(lab)
