"""Probes of the ports that policies name, and of the ports of hosts outside."""

from __future__ import annotations

import pytest

from kubenetlab.observe import policy_probes
from kubenetlab.observe.expect import facts_of
from kubenetlab.observe.pod_ports import PodPort, expect_port, host_port, host_ports
from kubenetlab.observe.targets.locations import places
from tests.unit.observe.policies.worlds import PODS, World, policy, world

TO_WEB = policy(
    "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {matchLabels: "
    "{app: client}}}], ports: [{port: 7000}, {port: 7100, endPort: 7199}, "
    "{port: 7000, protocol: UDP}, {port: 7000, protocol: SCTP}]}]}"
)
FROM_CLIENT = policy(
    "{podSelector: {matchLabels: {app: client}}, policyTypes: [Egress], egress: ["
    "{to: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 7000}]}, "
    "{to: [{ipBlock: {cidr: 198.51.100.0/24}}], ports: [{port: 443}]}]}"
)
FOR_ANY = """
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
networking: {cni: cilium}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: any}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress: [{toPorts: [{ports: [{port: "7000"}]}]}]
---
"""


def probed(lab: World) -> dict[tuple[str, str], str]:
    """Return the expected outcome of each probe of a port that policies name."""
    facts = lab.facts
    sources = {place.sandbox: place for place in places(lab.seen)}
    probes = policy_probes.policy_probes(list(sources.values()), lab.seen, lab.policies)
    return {
        (sources[sandbox].title, port.title): expect_port(sources[sandbox], port, facts)
        for sandbox, ports in probes.ports.items()
        for port in ports
    }


def test_ports_of_a_selected_pod_are_probed_from_everywhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Single ports, both ends of a range and the port beside; allowed ones are refused."""
    monkeypatch.setattr(policy_probes, "_has_sctp", lambda: True)
    probes = probed(world(TO_WEB, PODS))
    of_client = {port: result for (source, port), result in probes.items() if "client" in source}
    assert of_client == {
        "default/web:7000/TCP": "refused",
        "default/web:7000/UDP": "refused",
        "default/web:7000/SCTP": "refused",
        "default/web:7100/TCP": "refused",
        "default/web:7199/TCP": "refused",
        "default/web:7200/TCP": "nothing",
    }
    assert probes["default/far", "default/web:7000/TCP"] == "nothing"
    assert probes["node:worker2", "default/web:7000/TCP"] == "nothing"
    assert not [pair for pair in probes if pair[0] in ("default/web", "ext:client")]
    monkeypatch.setattr(policy_probes, "_has_sctp", lambda: False)
    assert probed(world(TO_WEB, PODS)) == probes


def test_ports_of_every_protocol_are_left_out_without_sctp(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A rule of Cilium without a protocol means SCTP, too; no user asked for it."""
    monkeypatch.setattr(policy_probes, "_has_sctp", lambda: False)
    lab = world(FOR_ANY, PODS)
    assert not [port for _, port in probed(lab) if "SCTP" in port]
    sources = places(lab.seen)
    assert policy_probes.policy_probes(sources, lab.seen, lab.policies).left_out > 0
    lab = world(FOR_ANY.replace('"7000"', '"7000", protocol: SCTP'), PODS)
    assert [port for _, port in probed(lab) if "7000/SCTP" in port]
    assert policy_probes.policy_probes(sources, lab.seen, lab.policies).left_out == 0


def test_ports_of_egress_rules_are_probed_to_what_the_rules_mean() -> None:
    """Pods and hosts outside, but not others, whose ports they do not distinguish."""
    assert probed(world(FROM_CLIENT, PODS)) == {
        ("default/client", "default/web:7000/TCP"): "refused",
        ("default/client", "ext:client:443/TCP"): "refused",
    }


def test_many_probes_are_one_for_pods_that_policies_treat_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All results that occur between two nodes still occur."""
    lab = world(TO_WEB, PODS)
    everything = probed(lab)
    rows = places(lab.seen)
    assert not policy_probes.policy_probes(rows, lab.seen, lab.policies).is_sampled
    monkeypatch.setattr(policy_probes, "MAX_PROBES", 1)
    assert policy_probes.policy_probes(rows, lab.seen, lab.policies).is_sampled
    fewer = probed(lab)
    assert fewer.items() <= everything.items()
    assert {(port, result) for (_, port), result in fewer.items()} == {
        (port, result) for (_, port), result in everything.items()
    }


def test_ports_of_hosts_outside_answer() -> None:
    """Without a policy, also ports on which nothing listens are reached."""
    lab = world("", PODS)
    host = lab.seen["external"][0]
    assert list(host_ports({**lab.seen, "external": [{**host, "ports": [443]}]})) == [
        host_port(host, host["addresses"][0], 443)
    ]
    facts = facts_of(lab.seen)
    source = next(place for place in places(lab.seen) if place.title == "default/client")
    for is_served, expected in ((True, "answer"), (False, "refused")):
        port = host_port(host, host["addresses"][0], 443, is_served=is_served)
        assert expect_port(source, port, facts) == expected
    pod_port = PodPort("default", "x", "10.244.9.9", 80, "TCP", (), is_served=False)
    assert expect_port(source, pod_port, facts) == "any"  # an unknown program may listen there


def closed(lab: World, source: str) -> dict[str, bool]:
    """Return the closed ports of a source, with those that changes are likely to open for it."""
    found = policy_probes.closed_ports([lab.places[source]], lab.seen, lab.policies)
    return {each.port.title: each.is_telling for each in found}


def test_ports_that_no_policy_names_are_closed() -> None:
    """The ports after named ones, the same numbers in UDP or TCP, and 22; not those of others."""
    lab = world(TO_WEB, PODS)
    assert closed(lab, "client") == {
        "default/web:22/TCP": True,
        "default/web:7001/TCP": True,
        "default/web:7001/UDP": True,
        "default/web:7100/UDP": True,
        "default/web:7199/UDP": True,
        "default/web:7200/TCP": True,
    }
    assert {port for port, is_telling in closed(lab, "far").items() if is_telling} == {
        "default/web:22/TCP"
    }
    assert closed(world("", PODS), "client") == {}


def test_a_pod_that_policies_isolate_has_a_closed_port_of_udp() -> None:
    """Its number is that of a port of TCP. Hosts outside are closed for a pod without egress."""
    assert closed(world("deny web"), "client") == {
        "default/web:22/TCP": True,
        "default/web:8080/UDP": True,
    }
    ports = closed(world("no egress of client"), "client")
    assert {port for port in ports if "ext:" in port} == {
        "ext:client:22/TCP",
        "ext:client:53/UDP",
    }
