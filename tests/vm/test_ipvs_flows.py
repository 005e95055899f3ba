"""The flows of tests/labs/test_flows.py through kube-proxy's mode ipvs, which needs this kernel's
modules.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.labs import test_flows
from tests.labs.test_flows import (  # noqa: F401
    test_a_load_balancers_address_is_reached_from_everywhere,
    test_a_local_policy_is_silent_where_there_is_no_pod,
    test_a_node_sees_itself_at_the_address_that_others_see,
    test_a_port_that_a_service_does_not_have,
    test_a_service_without_pods_refuses,
    test_nodes_reach_services,
    test_pods_reach_pods_by_their_service,
    test_session_affinity_keeps_a_client_with_one_pod,
    test_the_matrix_says_the_same,
)
from tests.labs.world import Labs, World

pytestmark = pytest.mark.vm

KIND = ("onlink", "dynamic", "dual")
"""One lab, which is looked at by IPv6: emulation is slow, and tests/vm/test_ipvs.py looks at it by
IPv4.
"""


@pytest.fixture(scope="module")
def of_kind() -> Iterator[Labs]:
    labs = Labs(test_flows.manifest)
    yield labs
    labs.end()


@pytest.fixture(scope="module")
def world(of_kind: Labs) -> World:
    return World(of_kind.of(*KIND, "ipvs"), 6)
