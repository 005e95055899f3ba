"""Local traffic in the mode ipvs, on a kernel with IPVS: see tests/labs/test_local_traffic.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.labs.conftest import new_lab
from tests.labs.lab import Lab
from tests.labs.test_local_traffic import (
    DETECTORS,
    OTHER_BRIDGE,
    TRIES,
    manifest,
    node_port_of_worker2,
    seen_at_cluster_ip,
    view_with,
)

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    for lab in new_lab():
        lab.up(manifest("ipvs"))
        yield lab


@pytest.mark.parametrize("detect", ["ClusterCIDR", *DETECTORS])
def test_no_connection_to_a_node_port_is_lost(lab: Lab, detect: str) -> None:
    """A virtual server has the endpoints of its own node for all clients.

    At the cluster IP, endpoints see pods of the node themselves. Another pod connects there: for
    two minutes, IPVS on worker2 takes replies to the same client port for those of the node port.
    """
    view = view_with(lab, f"ipvs,detectLocalMode={detect}", 4)
    client, second = view.address("client"), view.address("second-client")
    assert node_port_of_worker2(view) == {("far", client): TRIES}
    assert seen_at_cluster_ip(view, "second-client") == {("near", second), ("far", second)}


def test_traffic_that_is_not_detected_as_local_is_masqueraded(lab: Lab) -> None:
    """With the name of another bridge, endpoints see the node."""
    view = view_with(lab, f"ipvs,detectLocalMode={OTHER_BRIDGE}", 4)
    node = view.address("node:worker")
    assert seen_at_cluster_ip(view) == {("near", node), ("far", node)}
