"""Tests of tests/labs/test_external_access.py for rules of IPVS' own, on a kernel with IPVS."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.labs import test_external_access
from tests.labs.lab_view import LabView, SharedLab
from tests.labs.test_external_access import (  # noqa: F401
    test_a_node_port_with_the_policy_local_keeps_client_addresses,
    test_nodes_accept_packets_to_external_ips,
    test_source_ranges_limit_the_clients_of_a_load_balancer,
)

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module")
def shared_lab() -> Iterator[SharedLab]:
    shared = SharedLab(test_external_access.manifest)
    yield shared
    shared.down()


@pytest.fixture(scope="module")
def view(shared_lab: SharedLab) -> LabView:
    return LabView(shared_lab.up("routed", "dual", "ipvs"), 4)
