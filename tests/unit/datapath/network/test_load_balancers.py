"""Load balancers: the addresses that Services get, and the router's routes to them."""

from __future__ import annotations

import pytest

from kubenetlab.api.core import Event, Service
from kubenetlab.api.store import Cluster
from kubenetlab.datapath import plan
from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.nexthop import Nexthop, NexthopGroup
from kubenetlab.hoststate.route import Route
from kubenetlab.hoststate.rules.nftables import Chain
from tests.clusters import (
    DUAL,
    applied,
    decided,
    deployment,
    problems_of,
    running,
    service,
    settled,
    store,
)


def balanced(name: str, **spec: object) -> str:
    return service(name, 80, "http", type="LoadBalancer", **spec)


def outside(cluster: Cluster, name: str) -> tuple[str, ...]:
    found = cluster.get(Service, "default", name)
    assert found is not None
    return found.load_balancer_ips


def router(cluster: Cluster) -> dict[str, tuple[str, ...]]:
    """Return destination → gateways that share its flows, without the router's own networks."""
    objects = plan(cluster, decided("onlink", "dynamic"))["fabric/router"].values()
    gateways = {obj.number: obj.via for obj in objects if isinstance(obj, Nexthop)}
    groups = {
        obj.number: tuple(gateways[member] for member in obj.members)
        for obj in objects
        if isinstance(obj, NexthopGroup)
    }
    return {
        obj.destination: groups[obj.group]
        for obj in objects
        if isinstance(obj, Route) and obj.group
    }


def test_each_load_balancer_gets_the_first_free_address_and_keeps_it() -> None:
    """A Service that is deleted or changes its type returns its address."""
    cluster = store(balanced("a") + balanced("b"))
    assert (outside(cluster, "a"), outside(cluster, "b")) == (("203.0.113.1",), ("203.0.113.2",))
    cluster = applied(cluster, service("a"))
    assert outside(cluster, "a") == ()
    cluster = applied(cluster, balanced("c") + balanced("d", loadBalancerIP="203.0.113.77"))
    assert [outside(cluster, name) for name in "bcd"] == [
        ("203.0.113.2",),
        ("203.0.113.1",),
        ("203.0.113.77",),
    ]


def test_an_address_that_is_taken_is_not_given_twice() -> None:
    """A requested address takes precedence; a second request waits and gets one event.

    A Service of another load balancer class is left alone.
    """
    cluster = store(
        balanced("a")
        + balanced("b", loadBalancerIP="203.0.113.1")
        + balanced("c", loadBalancerClass="example.com/other")
    )
    assert [outside(cluster, name) for name in "abc"] == [("203.0.113.2",), ("203.0.113.1",), ()]
    cluster = settled(applied(cluster, balanced("d", loadBalancerIP="203.0.113.2")))
    assert outside(cluster, "d") == ()
    (told,) = [event for event in cluster.all(Event) if event.reason == "SyncLoadBalancerFailed"]
    assert (told.message, told.count) == (
        "Error syncing load balancer: failed to ensure load balancer: 203.0.113.2 is in use",
        1,
    )


@pytest.mark.parametrize("asked", ["192.0.2.1", "2001:db8:0:113::1", "nowhere"])
def test_an_address_outside_the_pool_is_not_given(asked: str) -> None:
    """The API server accepts the request, and the controller reports an event."""
    cluster = store(balanced("a", loadBalancerIP=asked))
    assert outside(cluster, "a") == ()
    (told,) = [event for event in cluster.all(Event) if event.reason == "SyncLoadBalancerFailed"]
    assert told.message.endswith(
        f"failed to ensure load balancer: {asked} is none of the load balancers' pool, "
        f"203.0.113.0/24"
    )


def test_a_dual_stack_service_has_one_of_each_family() -> None:
    """The router has a route for each."""
    cluster = running(store(DUAL + balanced("a", ipFamilyPolicy="RequireDualStack")))
    assert outside(cluster, "a") == ("203.0.113.1", "2001:db8:0:113::1")
    assert list(router(cluster)) == ["203.0.113.1/32", "2001:db8:0:113::1/128"]


@pytest.mark.parametrize("policy", ["Cluster", "Local"])
def test_the_router_leads_to_the_nodes_that_can_take_it(policy: str) -> None:
    """These are ready workers, with the policy Local those with a ready pod.

    Without a ready node there are none.
    """
    text = balanced("web", externalTrafficPolicy=policy) + deployment(
        replicas=1, nodeName="worker2"
    )
    assert router(store(text)) == {}
    cluster = running(store(text))
    assert router(cluster)["203.0.113.1/32"] == (
        ("172.18.0.4",) if policy == "Local" else ("172.18.0.3", "172.18.0.4")
    )
    assert router(applied(cluster, service("web"))) == {}


def test_an_excluded_node_gets_nothing_whatever_the_policy() -> None:
    """Its ready pod does not count; with no other pod every worker is tried."""
    excluded = (
        "apiVersion: v1\nkind: Node\nmetadata: {name: worker2, labels: "
        '{node.kubernetes.io/exclude-from-external-load-balancers: ""}}\n---\n'
    )
    text = balanced("web", externalTrafficPolicy="Local") + deployment(
        replicas=1, nodeName="worker2"
    )
    assert router(running(store(text)))["203.0.113.1/32"] == ("172.18.0.4",)
    assert router(running(store(text + excluded)))["203.0.113.1/32"] == ("172.18.0.3",)


PROXY = "metadata: {name: web, annotations: {kubenetlab.dev/load-balancer-ip-mode: Proxy}}"


def own_rules(cluster: Cluster) -> dict[str, list[str]]:
    """Return chain → rules of the router's table."""
    objects = plan(cluster, decided("onlink", "dynamic"))["fabric/router"].values()
    return {
        obj.name: [rule.text for rule in obj.rules] for obj in objects if isinstance(obj, Chain)
    }


def test_an_address_with_ip_mode_proxy_is_the_balancers_own() -> None:
    """The balancer forwards to node ports in turn, masquerades, and enforces the ranges."""
    text = balanced(
        "web", loadBalancerSourceRanges='[" 198.51.100.0/24", "2001:db8::/32"]'
    ) + deployment(replicas=1, nodeName="worker2")
    cluster = running(store(text.replace("metadata: {name: web}", PROXY, 1)))
    found = cluster.get(Service, "default", "web")
    assert found is not None
    assert (found.load_balancer_ips, found.virtual_ips) == (("203.0.113.1",), ())
    assert router(cluster) == {}
    objects = plan(cluster, decided("onlink", "dynamic"))["fabric/router"].values()
    assert "203.0.113.1/32" in [obj.address for obj in objects if isinstance(obj, Address)]
    to, port = "ip daddr 203.0.113.1 tcp dport 80", found.spec.ports[0].node_port
    assert own_rules(cluster) == {
        "firewall": [f"{to} ip saddr != {{ 198.51.100.0/24 }} drop"],
        "ports": [
            f"{to} dnat to numgen inc mod 2 map {{ 0 : 172.18.0.3 . {port}, 1 : 172.18.0.4 . "
            f"{port} }}"
        ],
        "connections": ["ct status dnat masquerade"],
    }
    back = applied(cluster, text)
    assert (list(router(back)), own_rules(back)) == (["203.0.113.1/32"], {})


def test_a_balanced_port_leads_to_nodes_that_pass_the_health_check() -> None:
    """With the policy Local these have a ready pod; a port without a node port leads nowhere."""
    text = balanced("web", externalTrafficPolicy="Local") + deployment(
        replicas=1, nodeName="worker2"
    )
    (rule,) = own_rules(running(store(text.replace("metadata: {name: web}", PROXY, 1))))["ports"]
    assert "mod 1 map { 0 : 172.18.0.4 . " in rule
    text = balanced("web", allocateLoadBalancerNodePorts="false").replace(
        "metadata: {name: web}", PROXY, 1
    )
    assert own_rules(running(store(text)))["ports"] == []


def test_an_invalid_ip_mode_is_refused() -> None:
    """Other values are refused; on a pod the field has no effect."""
    (wrong,) = problems_of(
        balanced("web").replace("metadata: {name: web}", PROXY.replace("Proxy", "proxy"), 1)
    )
    assert (wrong.is_warning, wrong.message) == (False, 'expected VIP or Proxy, found "proxy"')
    (misplaced,) = problems_of(deployment().replace("metadata: {name: web}", PROXY, 1))
    assert (misplaced.is_warning, misplaced.message) == (
        True,
        "only Services have this annotation; here it has no effect",
    )
