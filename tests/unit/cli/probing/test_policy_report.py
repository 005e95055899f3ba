"""The report of explain-policy, for labs that a fake client describes."""

from __future__ import annotations

from typing import cast

import pytest

from kubenetlab.cli.probing.policy_report import PolicyReport
from kubenetlab.lab.client import Client
from kubenetlab.observe.destination_lookup import look_up
from kubenetlab.observe.targets.locations import places
from tests.inspected import PolicyClient, inspected
from tests.unit.observe.policies.worlds import PODS, lab_of, pod


def report(manifests: str, source: str, destination: str, listing: str = "") -> PolicyReport:
    """Print the explanation of a connection, and return the report."""
    cluster = lab_of(manifests)
    seen = inspected(cluster)
    place = next(each for each in places(seen) if each.title == source)
    result = PolicyReport(cast(Client, PolicyClient(cluster, listing)), seen, place)
    result.show(look_up(destination, seen, place))
    return result


@pytest.mark.parametrize("destination", ["svc:web", "default/web:8080", "default/far"])
def test_pods_of_a_lab_without_policies_are_no_nodes(
    destination: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """No policy isolates them; the destination sees the client itself."""
    report(PODS + pod("friend"), "default/client", destination)
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert lines[-2:] == [
        "egress of default/client: no policy isolates it",
        f"ingress of default/{'far' if 'far' in destination else 'web'}: no policy isolates it",
    ]
    assert not any("always reaches" in line or "sees" in line for line in lines)
