"""Network policies beside the mode ipvs, whose packets to Services are not forwarded."""

from __future__ import annotations

import pytest

from tests.clusters import DUAL
from tests.labs.lab import Lab
from tests.labs.test_network_policies import (
    CLIENTS,
    EGRESS,
    POLICY,
    WEB_WITH_NODE_PORT,
    assert_verdicts_of_services,
)

pytestmark = pytest.mark.vm


@pytest.mark.parametrize("engine", ["nftables", "iptables"])
def test_policies_hold_for_services(lab: Lab, engine: str) -> None:
    """A policy sees the pod that IPVS has chosen, also on the node of the client."""
    manifest = DUAL + CLIENTS + WEB_WITH_NODE_PORT + POLICY + EGRESS
    lab.up(manifest, "--proxy", "ipvs", "--policy", engine)
    assert_verdicts_of_services(lab)
