"""The CNI mode none: nodes are not ready and pods wait, until another mode is installed."""

from __future__ import annotations

from typing import Any

import pytest

from kubenetlab.datapath.modes import known
from tests.labs.lab import Lab
from tests.labs.pod_networks import manifest

OTHERS = [name for name in known("cni") if name != "none"]


def conditions(lab: Lab) -> list[tuple[str, str]]:
    """Return status and message of the condition Ready of each node."""
    return [
        (condition["status"], condition["message"])
        for node in lab.get("nodes")["items"]
        for condition in node["status"]["conditions"]
        if condition["type"] == "Ready"
    ]


@pytest.mark.parametrize("cni", OTHERS)
def test_a_network_is_installed_in_a_running_lab(lab: Lab, cni: str) -> None:
    """Then nodes are Ready, pods get addresses and run, and everything reaches everything."""
    result = lab.run("up", "-f", "-", "--timeout", "5", stdin=manifest("ipv4", "none"), status=1)
    assert "install a network" in result.err
    assert len(conditions(lab)) == 3
    assert all(
        status == "False" and "cni plugin not initialized" in message
        for status, message in conditions(lab)
    )
    described = lab.run("describe", "node", "worker").out
    assert "PodCIDR:" in described
    assert "Pod gateway" not in described
    assert "Pod addresses" not in described
    pods: list[Any] = [lab.pod(name) for name in "abc"]
    assert [(pod["phase"], pod["addresses"]) for pod in pods] == [("Pending", [])] * 3
    installed = lab.run("up", "--cni", cni, status=None)
    if "see kubenetlab doctor" in installed.err:
        pytest.skip(installed.err.strip())
    assert installed.status == 0, installed.err
    assert [status for status, _ in conditions(lab)] == ["True"] * 3
    assert lab.problems == []
    pods = [lab.pod(name) for name in "abc"]
    for pod in pods:
        targets = [("TCP", other["addresses"][0], 8080) for other in pods]
        assert all(answer.server for answer in lab.ask(pod, *targets))
    refused = lab.run("up", "--cni", "none", status=2)
    assert "cannot be removed while the lab is up" in refused.err
