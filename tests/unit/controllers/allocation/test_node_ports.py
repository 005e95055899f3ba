"""Node ports: their allocation, and the rules for loadBalancerSourceRanges."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenetlab.api.core import Service
from kubenetlab.api.store import Cluster
from kubenetlab.api.validate.services import NODE_PORTS
from kubenetlab.controllers.allocation.node_ports import STATIC_BAND, allocate, node_ports_of
from kubenetlab.datapath import plan
from kubenetlab.errors import ManifestError
from kubenetlab.hoststate.rules.nftables import Chain, Collection, Element, Table
from kubenetlab.hoststate.rules.rulesets import NodeRules, members
from tests.clusters import (
    applied,
    decided,
    deployment,
    loaded,
    problems_of,
    running,
    service,
    store,
)

DNS = (
    "{apiVersion: v1, kind: Service, metadata: {name: dns}, spec: {type: "
    "NodePort, ports: [%s]}}\n---\n"
)
BOTH = "{name: a, port: 53, protocol: UDP%s}, {name: b, port: 53, protocol: TCP}"


def numbers(cluster: Cluster, name: str = "web") -> list[int]:
    service_ = cluster.get(Service, "default", name)
    assert service_ is not None
    return [port.node_port for port in service_.spec.ports]


def refusal(cluster: Cluster, text: str) -> str:
    with pytest.raises(ManifestError) as caught:
        applied(cluster, text)
    return str(caught.value)


def test_node_ports_are_drawn_above_the_static_band_and_kept() -> None:
    """Equal manifests give equal numbers; requested ones are assigned; other types release them."""
    cluster = store(service(type="NodePort"))
    (drawn,) = numbers(cluster)
    assert drawn in NODE_PORTS[STATIC_BAND:]
    assert numbers(store(service(type="NodePort"))) == [drawn]
    assert numbers(applied(cluster, service(type="NodePort", externalTrafficPolicy="Local"))) == [
        drawn
    ]
    assert numbers(applied(cluster, service(type="LoadBalancer"))) == [drawn]
    inside = applied(cluster, service())
    assert numbers(inside) == [0]
    assert numbers(applied(inside, DNS % f"{{port: 80, nodePort: {drawn}}}"), "dns") == [drawn]


def test_udp_and_tcp_of_a_port_share_a_node_port() -> None:
    """A request of either port applies to both."""
    first, second = numbers(store(DNS % (BOTH % "")), "dns")
    assert first == second
    assert numbers(store(DNS % (BOTH % ", nodePort: 30053")), "dns") == [30053, 30053]


def test_a_node_port_belongs_to_one_service() -> None:
    """The protocol does not matter; another port of the same Service cannot have it either."""
    cluster = store(DNS % "{port: 53, protocol: UDP, nodePort: 30053}")
    report = refusal(
        cluster,
        service("web", 80, 8080, type="NodePort").replace(
            "targetPort: 8080", "targetPort: 8080, nodePort: 30053"
        ),
    )
    assert (
        "spec.ports[0].nodePort: Invalid value: 30053: provided port is already allocated" in report
    )
    assert "it belongs to Service default/dns" in report
    within = (
        "{name: a, port: 53, nodePort: 30053}, {name: b, port: 54, protocol: UDP, nodePort: 30053}"
    )
    assert (
        "spec.ports[1].nodePort: Invalid value: 30053: provided port is already allocated"
        in refusal(store(), DNS % within)
    )


def test_a_load_balancer_service_may_have_no_node_ports() -> None:
    """It has only requested ones, and a health check node port with policy Local."""
    cluster = store(service(type="LoadBalancer", allocateLoadBalancerNodePorts=False))
    assert numbers(cluster) == [0]
    local = store(service(type="LoadBalancer", externalTrafficPolicy="Local"))
    web = local.get(Service, "default", "web")
    assert web is not None
    assert web.spec.health_check_node_port in NODE_PORTS
    assert web.spec.health_check_node_port not in numbers(local)
    report = refusal(
        local,
        service(type="LoadBalancer", externalTrafficPolicy="Local", healthCheckNodePort=30001),
    )
    assert (
        f"spec.healthCheckNodePort: field is immutable; it is {web.spec.health_check_node_port}"
        in report
    )


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (
            {"type": "NodePort", "allocateLoadBalancerNodePorts": False},
            "may only be used when type is LoadBalancer",
        ),
        (
            {"type": "NodePort", "loadBalancerSourceRanges": ["10.0.0.0/8"]},
            "may only be used when type is LoadBalancer",
        ),
        (
            {"type": "LoadBalancer", "loadBalancerSourceRanges": ["ten"]},
            "expected a range such as 203.0.113.0/24",
        ),
        ({"type": "LoadBalancer", "healthCheckNodePort": 30000}, "externalTrafficPolicy is Local"),
        (
            {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 80},
            "not in the valid range",
        ),
        (
            {"type": "NodePort", "loadBalancerClass": "example.com/other"},
            "may only be used when type is LoadBalancer",
        ),
    ],
)
def test_invalid_node_ports_are_rejected(spec: dict[str, object], why: str) -> None:
    """The messages are those of Kubernetes."""
    assert why in problems_of(service("web", 80, "http", **spec))[0].message


@given(st.sets(st.sampled_from(list(NODE_PORTS)), max_size=3))
def test_the_last_free_number_is_found(free: set[int]) -> None:
    """Its position does not matter; a full range is reported."""
    (wanting,) = (entry.object for entry in loaded(service(type="NodePort")).entries)
    assert isinstance(wanting, Service)
    allocated, findings = allocate(
        wanting, dict.fromkeys(set(NODE_PORTS) - free, "Service default/other")
    )
    if free:
        assert not findings
        assert set(node_ports_of(allocated.spec)) <= free
    else:
        assert [finding.message for finding in findings] == [
            "failed to allocate a nodePort: range is full"
        ]


@pytest.mark.parametrize(
    ("ranges", "admitted"),
    [
        (["198.51.100.0/24"], "198.51.100.0/24"),
        ([" 198.51.100.0/24", "172.18.0.0/16"], "198.51.100.0/24, 172.18.0.0/16, 203.0.113.1"),
    ],
    ids=["others", "nodes too"],
)
def test_source_ranges_admit_only_the_named_clients(ranges: list[str], admitted: str) -> None:
    """If a range contains nodes, the load balancer's address is admitted: nodes may send to it."""
    cluster = running(
        store(deployment() + service(type="LoadBalancer", loadBalancerSourceRanges=ranges))
    )
    state = plan(cluster, decided("onlink", "dynamic"))
    rules = list(
        members(
            obj
            for obj in state["node/worker"].values()
            if isinstance(obj, Table | Chain | Collection | Element | NodeRules)
        )
    )
    fences = [
        obj
        for obj in rules
        if isinstance(obj, Chain)
        and obj.name.startswith("firewall-")
        and obj.name != "firewall-check"
    ]
    assert [[rule.text for rule in fence.rules] for fence in fences] == [
        [f"ip saddr != {{ {admitted} }} drop"]
    ]
    fenced = [
        obj.item for obj in rules if isinstance(obj, Element) and obj.collection == "firewall-ips"
    ]
    assert fenced == [("203.0.113.1", "tcp", "80")]
