"""UDP clients that ask a Service before anybody is there, through kube-proxy's mode ipvs, which
needs this kernel's modules.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.labs.conftest import new_lab
from tests.labs.lab import Lab
from tests.labs.test_udp_flows import asks_before_there_is_anybody

pytestmark = pytest.mark.vm


@pytest.fixture
def lab() -> Iterator[Lab]:
    yield from new_lab()


@pytest.mark.parametrize("policy", ["Cluster", "Local"])
def test_a_client_that_asked_a_service_without_endpoints(lab: Lab, policy: str) -> None:
    asks_before_there_is_anybody(lab, "ipvs", policy)
