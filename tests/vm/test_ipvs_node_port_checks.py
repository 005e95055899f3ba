"""`check` probes node ports in the mode ipvs: see tests/labs/test_node_port_checks.py."""

from __future__ import annotations

import pytest

from tests.labs.lab import Lab
from tests.labs.test_node_port_checks import test_node_ports_are_as_the_evaluator_expects as probe

pytestmark = pytest.mark.vm


@pytest.mark.parametrize("engine", ["nftables", "iptables"])
def test_node_ports_are_as_the_evaluator_expects(lab: Lab, engine: str) -> None:
    probe(lab, ("--cni", "bridge", "--proxy", "ipvs", "--policy", engine))
