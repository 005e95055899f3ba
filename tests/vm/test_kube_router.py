"""kube-router with its service proxy, on a kernel with IPVS."""

from __future__ import annotations

from collections import Counter

import pytest

from kubenetlab.kernel.features.detection import has_program
from tests.labs.lab import Lab
from tests.labs.pod_networks import manifest

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(not has_program("bird"), reason="needs BIRD 2 (apt-get install bird2)"),
]


def test_services_work_without_kube_proxy(lab: Lab) -> None:
    """IPVS is in the one component with BGP; endpoints on other nodes are reached by its routes."""
    lab.up(manifest("dual", "{type: kube-router, serviceProxy: true}"))
    assert not [pod for pod in lab.inspected["pods"] if pod["name"].startswith("kube-proxy")]
    client = lab.pod("a")
    for address in lab.service("web")["cluster_ips"]:
        answers = lab.ask(client, *[("TCP", address, 80)] * 9)
        assert Counter(answer.server for answer in answers) == {"a": 3, "b": 3, "c": 3}
    assert lab.problems == []
