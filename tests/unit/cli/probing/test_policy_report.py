"""The report of explain-policy, for labs that a fake client describes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pytest

from kubenetlab.cli.probing.policy_report import PolicyReport
from kubenetlab.lab.client import Client
from kubenetlab.observe.destination_lookup import look_up
from kubenetlab.observe.targets.locations import places
from tests.inspected import PolicyClient, inspected
from tests.unit.observe.policies.worlds import DENY, FROM_CLIENT, PODS, lab_of, pod


def report(
    manifests: str, source: str, destination: str, differing: Sequence[str] = ()
) -> PolicyReport:
    """Print the explanation of a connection, and return the report."""
    cluster = lab_of(manifests)
    seen = inspected(cluster)
    place = next(each for each in places(seen) if each.title == source)
    result = PolicyReport(cast(Client, PolicyClient(cluster, "", differing)), seen, place)
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


@pytest.mark.parametrize("policies", [DENY, FROM_CLIENT])
def test_rules_that_the_kernel_lacks_are_reported(
    policies: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only if the node of the isolated pod differs from the desired state."""
    lacking = "worker: the rule is not in the kernel"
    other = "rules in the kernel of node:worker are not the desired ones"
    own = report(PODS + policies, "default/client", "default/web:8080", ["node/worker"])
    assert own.has_differences
    shown = capsys.readouterr().out
    assert (shown.count(lacking), shown.count(other)) == (1, 1)
    for differing in ((), ("node/worker2", "pod/default/web/1")):
        own = report(PODS + policies, "default/client", "default/web:8080", differing)
        assert not own.has_differences
        shown = capsys.readouterr().out
        assert lacking not in shown
        assert other not in shown
    report(PODS + policies, "default/web", "default/client", ["node/worker"])
    shown = capsys.readouterr().out
    assert (shown.count(lacking), shown.count(other)) == (0, 1)


CILIUM = """
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
networking: {cni: cilium}
external: [{name: api.example.com, address: 198.51.100.20}]
---
"""
LIMITED = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: client}}]
    toPorts:
    - ports: [{port: "8080", protocol: TCP}]
      rules: {http: [{method: GET, path: /public}]}
    - ports: [{port: "9090", protocol: TCP}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: client}
spec:
  endpointSelector: {matchLabels: {app: client}}
  egress:
  - toEntities: [cluster]
  - toFQDNs: [{matchName: api.example.com}]
---
"""


@pytest.mark.parametrize(
    ("source", "destination", "text", "path"),
    [
        ("client", "default/web:8080", "allowed; could be denied", ".toPorts[0].rules.http"),
        ("client", "svc:web", "allowed; could be denied", ".toPorts[0].rules.http"),
        ("client", "default/web:9090", "allowed", ""),
        ("far", "default/web:8080", "denied", ""),
        ("client", "api.example.com:443", "allowed; could be denied", "egress[1].toFQDNs"),
        ("client", "198.51.100.10:443", "denied", ""),
    ],
)
def test_a_rule_about_requests_or_names_could_deny_in_a_cluster(
    source: str, destination: str, text: str, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Connections that its rule does not allow have a certain verdict."""
    manifests = CILIUM + PODS + LIMITED
    own = report(manifests, f"default/{source}", destination)
    first, *lines = capsys.readouterr().out.splitlines()
    shown = [line for line in lines if " in a cluster: " in line]
    seen = inspected(lab_of(manifests))
    place = next(each for each in places(seen) if each.title == f"default/{source}")
    data = own.as_data(look_up(destination, seen, place))
    limits = data["could_differ"]
    if not path:
        assert first.endswith(f": {text}")
        assert (shown, limits) == ([], [])
        return
    assert first.endswith(f": {text} in a cluster")
    (line,) = shown
    (limit,) = limits
    assert limit["path"].endswith(path)
    assert limit["place"] == f"test.yaml:{limit['place'].rpartition(':')[2]}"
    assert f"{limit['object']}: {limit['path']} ({limit['place']}): {limit['message']}" in line


def test_a_rule_about_requests_that_is_left_out_could_allow_in_a_cluster(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The lab leaves out rules of Calico about HTTP requests."""
    manifests = CILIUM.replace("cilium", "calico") + PODS + CALICO
    report(manifests, "default/client", "default/web:8080")
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.endswith(": denied; could be allowed in a cluster")
    assert "could be allowed in a cluster: " in lines[-1]
    report(manifests, "default/client", "default/far:8080")
    assert capsys.readouterr().out.splitlines()[0].endswith(": allowed")


CALICO = """
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: web}
spec: {selector: app == 'web', ingress: [{action: Allow, http: {methods: [GET]}}]}
---
"""
