"""Ports that policies name, for the pods that they concern."""

from __future__ import annotations

import pytest

from kubenetlab.observe.policies.policy_ports import (
    PolicyPorts,
    PortRange,
    other_port,
    partition,
)
from tests.clusters import running, store
from tests.policies import PODS

HEAD = "metadata: {name: p, namespace: default}\nspec: "


def test_ranges_are_divided_at_all_bounds() -> None:
    """Each part is in the same ranges throughout; protocols do not mix."""
    ranges = [PortRange("TCP", 10, 20), PortRange("TCP", 15, 15), PortRange("UDP", 12, 12)]
    assert list(map(str, partition(ranges))) == ["10-14/TCP", "12/UDP", "15/TCP", "16-20/TCP"]
    assert partition([]) == []


def test_the_other_port_is_in_no_range() -> None:
    """It is the highest one; ranges may leave none."""
    ranges = [PortRange("TCP", 100, 65535), PortRange("TCP", 98, 99), PortRange("UDP", 97, 97)]
    assert other_port("TCP", ranges) == 97
    assert other_port("UDP", ranges) == 65535
    assert other_port("TCP", [PortRange("TCP", 1, 65535)]) is None


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n" + HEAD + "{podSelector: "
            "{matchLabels: {app: web}}, ingress: [{ports: [{port: 70, endPort: 79}, "
            "{port: dns, protocol: UDP}]}]}",
            {"70-79/TCP"},
        ),
        (
            "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n"
            "metadata: {name: p}\nspec: {tier: Admin, priority: 1, subject: {namespaces: "
            "{matchLabels: {kubernetes.io/metadata.name: default}}}, ingress: [{action: Deny, "
            "from: [{namespaces: {}}], protocols: [{udp: {destinationPort: {range: {start: 70, "
            "end: 79}}}}, {destinationNamedPort: dns}]}]}",
            {"70-79/UDP"},
        ),
        (
            "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\n" + HEAD + "{selector: "
            "app == 'web', ingress: [{action: Allow, protocol: TCP, destination: {ports: "
            "['70:79', dns]}}]}",
            {"70-79/TCP"},
        ),
        (
            "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\n" + HEAD + "{endpointSelector: "
            "{matchLabels: {app: web}}, ingress: [{toPorts: [{ports: [{port: '70', endPort: 79, "
            "protocol: SCTP}, {port: dns}]}]}]}",
            {"70-79/SCTP"},
        ),
    ],
    ids=["NetworkPolicy", "ClusterNetworkPolicy", "Calico", "Cilium"],
)
def test_policies_of_all_kinds_name_ports_of_their_pods(policy: str, expected: set[str]) -> None:
    """Also names, and only in the direction of the rules."""
    ports = PolicyPorts(running(store(f"{PODS}---\n{policy}\n")))
    rules = ports.of("default/web", "Ingress")
    assert {str(each) for each in rules.ranges} == expected
    assert rules.names == {"dns"}
    assert rules.has_policies
    assert ports.of("default/web", "Egress").ranges == frozenset()
    assert not ports.of("dev/tool", "Ingress").has_policies
    assert not ports.of("", "Ingress").has_policies


def test_labels_are_no_ports() -> None:
    """Their keys may be those of fields, and their values may be greater than any port."""
    peer = "{podSelector: {matchLabels: {port: '99999', number: '8', start: '9', ports: web}}}"
    policy = (
        f"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n{HEAD}"
        f"{{podSelector: {{}}, ingress: [{{from: [{peer}], ports: [{{port: 80}}]}}]}}"
    )
    rules = PolicyPorts(running(store(f"{PODS}---\n{policy}\n"))).of("default/web", "Ingress")
    assert {str(each) for each in rules.ranges} == {"80/TCP"}
    assert not rules.names
