"""The CNI mode cilium on Debian's kernel: its programs pass that kernel's verifier, and work."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import LAB_PREFIX
from tests.labs.lab import Lab
from tests.labs.pod_networks import manifest

pytestmark = pytest.mark.vm


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Yield a lab that is not up yet; remove it after the test."""
    lab = Lab(f"{LAB_PREFIX}cilium")
    yield lab
    if lab.directory.exists():
        lab.down()


@pytest.mark.parametrize("routing", ["tunnel", "native"])
def test_cilium_forwards_and_translates(lab: Lab, routing: str) -> None:
    """Pods, nodes and Services answer in both families, and no program or entry is missing."""
    lab.up(manifest("dual", f"{{type: cilium, routingMode: {routing}}}"))
    assert lab.problems == []
    cluster_ips = [("TCP", address, 80) for address in lab.service("web")["cluster_ips"]]
    pods = [lab.pod(name) for name in "abc"]
    targets = [("TCP", address, 8080) for pod in pods for address in pod["addresses"]]
    for place in (*pods, *lab.inspected["nodes"]):
        answers = lab.ask(place, *targets, *cluster_ips)
        assert all(answer.server for answer in answers), answers
    assert lab.run("diff").status == 0
