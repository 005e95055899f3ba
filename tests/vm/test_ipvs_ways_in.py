"""The ways in of tests/labs/test_ways_in.py that IPVS has rules of its own for, on a kernel that
has it.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.labs import test_ways_in
from tests.labs.test_ways_in import (  # noqa: F401
    test_a_load_balancers_source_ranges_shut_the_others_out,
    test_a_node_port_by_the_policy_local,
    test_external_ips_are_taken_in_by_nodes,
)
from tests.labs.world import Labs, World

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module")
def of_kind() -> Iterator[Labs]:
    labs = Labs(test_ways_in.manifest)
    yield labs
    labs.end()


@pytest.fixture(scope="module")
def world(of_kind: Labs) -> World:
    return World(of_kind.of("routed", "dual", "ipvs"), 4)
