"""The plan: links, addresses and routes, and their recomputation after a change."""

from __future__ import annotations

from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.links.veth import Port, Veth
from kubenetlab.hoststate.neighbor import Neighbor
from kubenetlab.hoststate.peers import Peers
from kubenetlab.hoststate.route import Route
from kubenetlab.hoststate.rules.nftables import Chain
from tests.clusters import (
    ONE_NODE,
    decided,
    deployment,
    observed,
    pod,
    running,
    service,
    settled,
    store,
    web_pods,
)
from tests.unit.datapath.plans import netns_of, objects_of, planned


def test_an_onlink_pod_is_in_its_nodes_subnet() -> None:
    """Its default route is via the bridge; the node's end is a hairpin port with the pod's name."""
    cluster = store(pod("a"))
    state, netns = planned(cluster), netns_of(cluster, "a")
    assert objects_of(state, netns, Address) == [Address(netns, "eth0", "10.244.1.2/24")]
    assert objects_of(state, netns, Route) == [Route(netns, "0.0.0.0/0", "eth0", via="10.244.1.1")]
    assert not objects_of(state, netns, Neighbor)
    (veth,) = objects_of(state, netns, Veth)
    assert (veth.mac, veth.peer_netns, veth.peer, veth.alias) == (
        "0a:58:0a:f4:01:02",
        "node/worker",
        "veth0",
        "cni bridge: pod default/a",
    )
    port = next(port for port in objects_of(state, "node/worker", Port) if port.name == "veth0")
    assert (port.master, port.mac) == ("cbr0", "0a:59:0a:f4:01:02")
    assert (port.alias, port.is_hairpin) == ("cni bridge: pod default/a", True)


def test_a_routed_pod_has_only_a_route_to_its_gateway() -> None:
    """It has a /32 address, a link route to the gateway, and a default route via it."""
    cluster = store(pod("a"))
    netns = netns_of(cluster, "a")
    state = planned(cluster, decided("routed", "permanent"))
    assert objects_of(state, netns, Address) == [Address(netns, "eth0", "10.244.1.2/32")]
    assert objects_of(state, netns, Route) == [
        Route(netns, "10.244.1.1/32", "eth0"),
        Route(netns, "0.0.0.0/0", "eth0", via="10.244.1.1"),
    ]
    assert objects_of(state, netns, Neighbor) == [
        Neighbor(netns, "eth0", "10.244.1.1", "0a:58:0a:f4:01:01")
    ]


def test_permanent_neighbors_list_every_neighbor_on_the_link() -> None:
    """A pod has the gateway and the other pods; a node has its pods, the router and other nodes."""
    cluster = store(ONE_NODE.replace("nodes:", "external: []\nnodes:") + deployment(replicas=3))
    state = planned(cluster, decided("onlink", "permanent"))
    netns = netns_of(cluster, web_pods(cluster)[0].name)
    others = {f"10.244.0.{number}" for number in range(1, 7)}
    (own,) = objects_of(state, netns, Address)
    (peers,) = objects_of(state, netns, Peers)
    assert [neighbor.address for neighbor in objects_of(state, netns, Neighbor)] == ["10.244.0.1"]
    assert {address for address, _ in peers.entries} == others - {
        own.address.partition("/")[0],
        "10.244.0.1",
    }
    assert {neighbor.address for neighbor in objects_of(state, "node/control-plane", Neighbor)} == {
        f"10.244.0.{number}" for number in range(2, 7)
    } | {"172.18.0.1"}


def test_a_node_has_one_address_and_a_route_to_every_other_node() -> None:
    """The bridge's address is no source, and the route to the pods has the node's own address."""
    state = planned(store())
    assert Address(
        "node/worker", "cbr0", "10.244.1.1/24", is_source=False, has_route=False
    ) in objects_of(state, "node/worker", Address)
    assert objects_of(state, "node/worker", Route) == [
        Route("node/worker", "0.0.0.0/0", "eth0", via="172.18.0.1"),
        Route("node/worker", "10.244.1.0/24", "cbr0", source="172.18.0.3"),
        Route("node/worker", "10.244.0.0/24", "eth0", via="172.18.0.2"),
        Route("node/worker", "10.244.2.0/24", "eth0", via="172.18.0.4"),
    ]


def test_the_router_has_no_route_to_pods() -> None:
    """From outside a pod's address is not reachable."""
    state = planned(store())
    assert not objects_of(state, "fabric/router", Route)
    assert [address.address for address in objects_of(state, "fabric/router", Address)] == [
        "172.18.0.1/16",
        "198.51.100.1/24",
    ]


def test_every_object_has_an_origin() -> None:
    """Origins name the component and the Kubernetes object that want a kernel object."""
    cluster = store(pod("a") + service())
    state = planned(cluster)
    assert all(state.origin(obj) is not None for obj in state.objects())
    (veth,) = objects_of(state, netns_of(cluster, "a"), Veth)
    assert str(state.origin(veth)) == "cni bridge, for Pod default/a"
    assert {
        str(state.origin(rule))
        for rule in objects_of(state, "node/worker", Chain)
        if rule.table == "kube-proxy"
    } == {"kube-proxy nftables, for Node worker"}


def test_a_changed_endpoint_recomputes_only_what_depends_on_it() -> None:
    """For a pod that becomes unready, these are its programs and the rules of each node."""
    cluster = running(store(deployment(replicas=30) + service()))
    memo = PlanCache()
    before = planned(cluster, memo=memo)
    calls = memo.calls
    changed = settled(cluster.with_changes([observed(web_pods(cluster)[7], ready=False)]))
    after = planned(changed, memo=memo)
    views_of_nodes_pods_and_services, is_a_pod_starting, counts_of_the_proxy = 3, 1, 1
    (
        its_programs,
        rules_of_its_service,
        is_it_the_same_everywhere,
        set_of_rules,
        rules_of_nodes,
        contents_of_nodes,
    ) = 1, 1, 1, 1, 3, 3
    pods_of_its_node, contents_of_its_node = 3, 1
    expected = (
        views_of_nodes_pods_and_services
        + is_a_pod_starting
        + counts_of_the_proxy
        + its_programs
        + rules_of_its_service
        + is_it_the_same_everywhere
        + set_of_rules
        + rules_of_nodes
        + contents_of_nodes
        + pods_of_its_node
        + contents_of_its_node
    )
    assert memo.calls - calls == expected
    assert {netns for netns in after.namespaces if after[netns] is not before[netns]} == {
        "node/control-plane",
        "node/worker",
        "node/worker2",
    }
    planned(changed, memo=memo)
    assert memo.calls - calls == expected
