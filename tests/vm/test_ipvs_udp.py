"""UDP clients of a Service without endpoints, in kube-proxy's mode ipvs on a kernel with IPVS."""

from __future__ import annotations

import pytest

from tests.labs.lab import Lab
from tests.labs.test_udp_flows import request_before_endpoints_exist

pytestmark = pytest.mark.vm


@pytest.mark.parametrize("policy", ["Cluster", "Local"])
def test_a_client_reaches_the_first_endpoint_of_a_service(lab: Lab, policy: str) -> None:
    request_before_endpoints_exist(lab, "ipvs", policy)
