"""Local traffic in the mode ipvs, on a kernel that has it: see tests/labs/test_local_traffic.py."""

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
    world,
)

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    for one in new_lab():
        one.up(manifest("ipvs"))
        yield one


@pytest.mark.parametrize("detect", ["ClusterCIDR", *DETECTORS])
def test_no_connection_to_a_node_port_is_lost(lab: Lab, detect: str) -> None:
    """A virtual server has the endpoints of its own node whoever asks; pods of the node are seen
    themselves at the cluster IP.
    """
    found = world(lab, f"ipvs,detectLocalMode={detect}", 4)
    client = found.address("client")
    assert node_port_of_worker2(found) == {("far", client): TRIES}
    assert seen_at_cluster_ip(found) == {("near", client), ("far", client)}


def test_a_pod_that_is_no_local_traffic_is_masqueraded(lab: Lab) -> None:
    """With the name of another bridge, endpoints see the node."""
    found = world(lab, f"ipvs,detectLocalMode={OTHER_BRIDGE}", 4)
    node = found.address("node:worker")
    assert seen_at_cluster_ip(found) == {("near", node), ("far", node)}
