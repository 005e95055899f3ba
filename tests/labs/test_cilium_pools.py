"""cilium with cluster-pool: packets between ranges of pools, and nodes without a range."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from tests.labs.frames import captured_frames, tunnelled
from tests.labs.lab import Lab
from tests.labs.test_cilium import APPS, TUNNEL_PORT, manifest
from tests.libbpf import NEEDS_LIBBPF

pytestmark = NEEDS_LIBBPF

RANGES = {
    "control-plane": ("10.244.64.0/26", "fd00:10:244:80::/80"),
    "worker": ("10.244.80.0/26", "fd00:10:244:80:1::/80"),
    "worker2": ("10.244.80.64/26", "fd00:10:244:80:2::/80"),
}


def mode(routing: str, pools: str = "10.244.64.0/26, 10.244.80.0/24", ipv6: bool = False) -> str:
    other = (
        ", clusterPoolIPv6PodCIDRList: ['fd00:10:244:80::/64'], clusterPoolIPv6MaskSize: 80"
        if ipv6
        else ""
    )
    return (
        f"{{type: cilium, routingMode: {routing}, ipam: cluster-pool, "
        f"clusterPoolIPv4PodCIDRList: [{pools}], clusterPoolIPv4MaskSize: 26{other}}}"
    )


def check_connections(lab: Lab, pods: str) -> None:
    """Assert that pods and nodes reach pods, and that pods keep their addresses."""
    for name in pods:
        for version, address in enumerate(lab.pod(name)["addresses"]):
            target = ("TCP", address, 8080)
            for client in pods:
                (answer,) = lab.ask(lab.pod(client), target)
                assert answer.server == name, answer
                if client != name:
                    assert answer.client[0] == lab.pod(client)["addresses"][version]
            for node in lab.inspected["nodes"]:
                (answer,) = lab.ask(node, target)
                assert answer.server == name, (node["name"], answer)


@pytest.mark.parametrize("routing", ["tunnel", "native"])
def test_packets_reach_ranges_of_the_pools(lab: Lab, routing: str) -> None:
    lab.up(manifest("dual", mode(routing, ipv6=True)))
    assert lab.problems == []
    assert {node["name"]: tuple(node["pod_cidrs"]) for node in lab.inspected["nodes"]} == RANGES
    for name, node in (("a", "worker"), ("b", "worker"), ("c", "worker2")):
        for address, cidr in zip(lab.pod(name)["addresses"], RANGES[node], strict=True):
            assert ip_address(address) in ip_network(cidr)
    check_connections(lab, "abc")
    a, c = (lab.pod(name)["addresses"][0] for name in "ac")
    with captured_frames(lab, "worker") as frames:
        (answer,) = lab.ask(lab.pod("a"), ("TCP", c, 8080))
        assert answer.server == "c"
    sources = {frame.inner.source for frame in tunnelled(frames, TUNNEL_PORT)}
    assert sources == ({a, c} if routing == "tunnel" else set())
    for app in set(APPS.values()):
        (address, *_) = lab.service(app)["cluster_ips"]
        for place in (lab.pod("a"), *lab.inspected["nodes"]):
            assert lab.ask(place, ("TCP", address, 80))[0].server
    (answer,) = lab.ask(lab.pod("a"), ("TCP", "198.51.100.10", 8080))
    assert answer.client[0] == lab.place("nodes", "worker")["addresses"][0]
    assert lab.run("diff").status == 0


@pytest.mark.parametrize("routing", ["tunnel", "native"])
def test_pods_on_a_node_without_a_range_wait_until_there_is_one(lab: Lab, routing: str) -> None:
    """`up` ends with status 1; other pods and the node itself have a network."""
    done = lab.up(manifest("ipv4", mode(routing, "10.244.64.0/25")), status=1)
    warning = "10.244.64.0/25 has room for 2 ranges of /26, and 3 nodes need one"
    assert warning in done.out + done.err
    described = lab.run("describe", "pod", "c").out
    assert "ContainerCreating" in described or "Pending" in described
    assert "required IPv4 PodCIDR not available: no range of /26 is left" in described
    check_connections(lab, "ab")
    lab.up(manifest("ipv4", mode(routing, "10.244.64.0/25, 10.244.80.0/26")))
    assert lab.pod("c")["addresses"] == ["10.244.80.2"]
    check_connections(lab, "abc")
    assert lab.problems == []
    assert lab.run("diff").status == 0


@pytest.mark.parametrize("routing", ["tunnel", "native"])
def test_a_node_gets_the_range_of_a_removed_one(lab: Lab, routing: str) -> None:
    """A pod that waits on the node starts, and other nodes reach it."""
    text = manifest("ipv4", mode(routing, "10.244.64.0/25"))
    head, *pods = text.split("---\n")
    c = next(document for document in pods if "name: c," in document)
    nodes = "nodes: [{role: control-plane}, {role: worker, name: %s}%s]\n"
    both = head + nodes % ("worker", ", {role: worker, name: worker2}") + "---\n" + c
    lab.up(both, status=1)
    assert lab.place("nodes", "worker2")["pod_cidrs"] == []
    lab.up(head + nodes % ("worker2", "") + "---\n" + c)
    assert lab.place("nodes", "worker2")["pod_cidrs"] == ["10.244.64.64/26"]
    check_connections(lab, "c")
    assert lab.problems == []
    assert lab.run("diff").status == 0
