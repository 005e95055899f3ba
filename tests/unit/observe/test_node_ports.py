"""Node ports as destinations of probes, and their expected outcomes."""

from __future__ import annotations

import pytest
from msgspec import structs

from kubenetlab.observe import node_ports
from kubenetlab.observe.expect import ServiceNodePort, expect, facts_of
from kubenetlab.observe.matrix import matrix_places
from kubenetlab.observe.node_ports import node_port_probes
from kubenetlab.observe.service_ports import service_ports
from kubenetlab.observe.targets.locations import places
from tests.inspected import inspected
from tests.unit.observe.policies.worlds import (
    PODS,
    World,
    lab_of,
    pod,
    policy,
    service,
    world,
)

LOCAL = "externalTrafficPolicy: Local"
SERVICES = (
    PODS
    + service("both", selector="group: both", kind="NodePort")
    + service("local", LOCAL, kind="NodePort")
    + service("spread", LOCAL, "group: both", "NodePort")
    + service("empty", LOCAL, "app: none", "NodePort")
    + pod("one", labels=", group: both")
    + pod("two", "worker2", labels=", group: both")
)
LAB = world("", SERVICES)


def cluster(nodes: int, proxy: str = "nftables") -> str:
    """Return a Cluster document with some workers."""
    workers = ", ".join(["{role: worker}"] * nodes)
    return (
        "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
        f"nodes: [{{role: control-plane}}, {workers}]\n"
        f"networking: {{kubeProxyMode: {proxy}}}\n---\n"
    )


@pytest.mark.parametrize(
    ("source", "destination", "expected"),
    [
        ("ext:client", "nodeport:worker/both", "answer"),
        ("ext:client", "nodeport:control-plane/both", "answer"),
        ("far", "nodeport:worker/both", "answer"),
        # With the policy Local, `web` on `worker` is the only endpoint.
        ("ext:client", "nodeport:worker/local", "answer"),
        ("ext:client", "nodeport:worker2/local", "nothing"),
        ("node:worker", "nodeport:worker2/local", "nothing"),
        ("node:worker2", "nodeport:worker2/local", "answer"),
        ("agent", "nodeport:worker/local", "answer"),
        ("agent", "nodeport:control-plane/local", "nothing"),
        ("far", "nodeport:worker2/local", "answer"),
        ("far", "nodeport:worker/local", "answer"),
        ("client", "nodeport:worker2/local", "any"),
        # An endpoint on the node of the client would answer it directly.
        ("client", "nodeport:worker2/spread", "any"),
        ("client", "nodeport:worker/spread", "answer"),
        ("ext:client", "nodeport:control-plane/spread", "nothing"),
        ("ext:client", "nodeport:worker/empty", "refused"),
        ("far", "nodeport:worker/empty", "refused"),
    ],
)
def test_the_traffic_policy_decides_about_endpoints_on_other_nodes(
    source: str, destination: str, expected: str
) -> None:
    assert LAB.expected(source, destination) == expected


@pytest.mark.parametrize(
    ("policies", "source", "destination", "expected"),
    [
        ("from outside", "ext:client", "nodeport:worker/local", "answer"),
        ("from outside", "ext:client", "nodeport:worker/open", "answer"),
        ("from outside", "ext:client", "nodeport:worker2/open", "nothing"),
        ("from nodes", "ext:client", "nodeport:worker/local", "nothing"),
        ("deny web", "ext:client", "nodeport:worker2/both", "answer"),
        (
            policy("{podSelector: {matchLabels: {app: one}}}"),
            "ext:client",
            "nodeport:worker2/both",
            "any",
        ),
        (
            policy("{podSelector: {matchLabels: {app: one}}}"),
            "ext:client",
            "nodeport:worker2/spread",
            "answer",
        ),
        ("no egress of client", "client", "nodeport:worker2/both", "nothing"),
        ("no egress of client", "client", "nodeport:worker2/empty", "any"),
    ],
)
def test_policies_see_the_source_that_the_endpoint_sees(
    policies: str, source: str, destination: str, expected: str
) -> None:
    """Only endpoints to which the node port may lead count."""
    assert world(policies, SERVICES).expected(source, destination) == expected


def test_pods_that_are_not_detected_may_be_like_hosts_outside() -> None:
    """On a node with an endpoint, the endpoints of this node are among all endpoints."""
    lab = world("", cluster(2, "{type: nftables, detectLocalMode: none}") + SERVICES)
    assert lab.expected("far", "nodeport:worker2/local") == "any"
    assert lab.expected("client", "nodeport:worker/local") == "answer"
    assert lab.expected("far", "lb:kept") == "any"
    assert lab.expected("client", "lb:kept") == "answer"
    assert lab.expected("ext:client", "lb:kept") == "answer"


def test_direct_server_return_keeps_the_address_of_clients() -> None:
    """Policies on the endpoint's node see the client although another node got the packet."""
    lab = world("from outside", cluster(2, "{type: ebpf, dsr: true}") + SERVICES)
    assert lab.expected("ext:client", "nodeport:worker2/open") == "any"
    assert lab.expected("ext:client", "nodeport:worker/open") == "answer"


def test_addresses_without_node_ports_are_not_probed() -> None:
    """`nodePortAddresses` may exclude the address by which others know a node."""
    option = "{type: nftables, nodePortAddresses: [172.18.0.3/32]}"
    lab = world("", cluster(2, option) + SERVICES)
    targets = {each.node for ports in probes(lab).values() for each in ports}
    assert targets == {"worker"}


def without_policies(text: str) -> World:
    """Return a lab as commands see it without policies."""
    lab = world("", text)
    lab.facts = facts_of(lab.seen)
    return lab


def probes(lab: World) -> dict[str, list[ServiceNodePort]]:
    """Return the node ports to which each source connects."""
    sources = {each.sandbox: each.title.removeprefix("default/") for each in places(lab.seen)}
    result = node_port_probes(matrix_places(lab.seen), lab.seen, lab.facts)
    return {sources[sandbox]: list(ports) for sandbox, ports in result.ports.items()}


def pairs(lab: World, name: str) -> dict[str, list[str]]:
    """Return source → nodes whose node port of a Service it contacts."""
    found = {
        source: [each.node for each in ports if each.name == name]
        for source, ports in probes(lab).items()
    }
    return {
        source: nodes
        for source, nodes in found.items()
        if nodes and not source.startswith("kube-system/")
    }


def test_one_node_with_an_endpoint_and_one_without_stand_for_many() -> None:
    """Of the pods that policies do not distinguish, one on the node and one elsewhere connect."""
    lab = world("deny web", cluster(5) + SERVICES)
    assert pairs(lab, "local") == {
        "web": ["worker"],
        "client": ["worker"],
        "far": ["worker"],
        "agent": ["control-plane", "worker"],
        "node:control-plane": ["control-plane", "worker"],
        "node:worker": ["control-plane", "worker"],
        "ext:client": ["control-plane", "worker"],
    }
    few = pairs(without_policies(SERVICES), "both")
    assert few["ext:client"] == ["control-plane", "worker", "worker2"]
    assert few["node:worker2"] == ["control-plane", "worker", "worker2"]
    assert few["web"] == ["control-plane", "worker", "worker2"]
    assert "client" not in few


def test_with_too_many_probes_only_hosts_outside_connect(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(node_ports, "MAX_PROBES", 20)
    lab = world("", SERVICES)
    assert probes(lab).keys() == {"ext:client"}
    result = node_port_probes(matrix_places(lab.seen), lab.seen, lab.facts)
    assert result.are_from_outside


def test_external_ips_are_destinations_unless_a_host_has_them() -> None:
    """The second Service with an address does not get its packets."""
    text = (
        PODS
        + service("a", "externalIPs: [192.0.2.1, 172.18.0.3]\n  " + LOCAL, kind="NodePort")
        + service("b", "externalIPs: [192.0.2.1, 192.0.2.2]", "app: none")
    )
    seen = inspected(lab_of(text))
    by_title = {each.title: each for each in service_ports(seen) if each.is_external_ip}
    assert by_title.keys() == {"192.0.2.1:80/TCP", "192.0.2.2:80/TCP"}
    first, second = by_title.values()
    assert (first.name, second.name) == ("a", "b")
    lab = World(lab_of(text))
    for source in ("ext:client", "far", "node:worker2"):
        place = lab.places[source]
        assert expect(place, first, facts_of(seen)) == "answer"
        assert expect(place, second, facts_of(seen)) == "refused"
    other = structs.replace(facts_of(seen), kube_proxy_mode="iptables")
    assert expect(lab.places["node:worker2"], second, other) == "any"
