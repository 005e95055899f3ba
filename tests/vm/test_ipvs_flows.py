"""The tests of tests/labs/test_flows.py in kube-proxy's mode ipvs, on a kernel with IPVS."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.labs import test_flows
from tests.labs.lab_view import LabView, SharedLab
from tests.labs.test_flows import (  # noqa: F401
    test_a_load_balancer_address_is_reachable_from_everywhere,
    test_a_node_reaches_itself_with_its_own_address,
    test_a_service_without_pods_refuses_connections,
    test_an_unknown_port_of_a_service_is_refused,
    test_internal_traffic_policy_local_drops_packets_without_a_local_endpoint,
    test_nodes_reach_services,
    test_pods_reach_pods_through_their_services,
    test_session_affinity_sends_a_client_to_one_pod,
    test_the_matrix_agrees_with_these_tests,
)

pytestmark = pytest.mark.vm

PARAMETERS = ("onlink", "dynamic", "dual")
"""Parameters of the one lab.

It is tested with IPv6, because emulation is slow and tests/vm/test_ipvs.py uses IPv4.
"""


@pytest.fixture(scope="module")
def shared_lab() -> Iterator[SharedLab]:
    shared = SharedLab(test_flows.manifest)
    yield shared
    shared.down()


@pytest.fixture(scope="module")
def view(shared_lab: SharedLab) -> LabView:
    return LabView(shared_lab.up(*PARAMETERS, "ipvs"), 6)
