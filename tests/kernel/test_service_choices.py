"""Which endpoint the programs of the mode ebpf choose, and for how long."""

from __future__ import annotations

from typing import Any

from tests.kernel.frames import ACK, FIN, tcp, udp
from tests.kernel.service_node import NODE_PORT, Addresses, Node

SECOND = 10**9


def test_a_faithful_client_gets_its_endpoint(ends: Addresses) -> None:
    """At all addresses of a Service, until its time is over since its last connection, and as long as the endpoint is there."""
    node = Node(ends)
    endpoints = [(pod, 8080) for pod in ends.pods]
    told = node.serve(endpoints, affinity_s=60)
    ports = iter(range(41000, 60000))

    def drawn(way: tuple[str, int]) -> str:
        return node.came(tcp((ends.outside, next(ports)), way)).destination

    first = drawn((ends.cluster_ip, 80))
    assert {
        drawn(way)
        for way in ((ends.cluster_ip, 80), (ends.balanced, 80), (ends.node, NODE_PORT))
        for _ in range(10)
    } == {first}
    others = set()
    for _ in range(40):
        ((key, value),) = node.loaded.entries("faithful")
        since = int.from_bytes(value[-8:], "little") - 61 * SECOND
        node.loaded.set("faithful", key, value[:-8] + (since % 2**64).to_bytes(8, "little"))
        others.add(drawn((ends.cluster_ip, 80)))
    assert others == set(ends.pods)
    last = drawn((ends.cluster_ip, 80))
    node.forget(*told)
    node.serve([pair for pair in endpoints if pair[0] != last], affinity_s=60)
    assert (
        {drawn((ends.cluster_ip, 80)) for _ in range(20)}
        == {drawn((ends.cluster_ip, 80))}
        != {last}
    )


def test_all_endpoints_are_drawn(ends: Addresses) -> None:
    """As often one as another."""
    node = Node(ends)
    node.serve([(pod, 8080) for pod in ends.pods])
    found = [
        node.came(tcp((ends.outside, port), (ends.cluster_ip, 80))).destination
        for port in range(10000, 10600)
    ]
    assert all(150 < found.count(pod) < 250 for pod in ends.pods)


def test_when_an_endpoint_goes(ends: Addresses) -> None:
    """Datagrams and new connections go to another; a connection that is made stays, for the kernel knows no better."""
    node = Node(ends)
    for protocol in ("TCP", "UDP"):
        old = node.serve([(ends.pods[1], 8080)], protocol=protocol)[0]
        client = (ends.pods[0], 40000)
        make: Any = tcp if protocol == "TCP" else udp
        assert node.came(make(client, (ends.cluster_ip, 80))).destination == ends.pods[1]
        node.serve([(ends.pods[2], 8080)], protocol=protocol)
        node.forget(old)
        if protocol == "TCP":
            assert node.came(tcp(client, (ends.cluster_ip, 80), ACK)).destination == ends.pods[1]
        assert node.came(make(client, (ends.cluster_ip, 80))).destination == ends.pods[2]


def test_a_connection_that_has_ended_makes_room(ends: Addresses) -> None:
    """A port that is used again draws again; a SYN that is sent again does not."""
    node = Node(ends)
    node.serve([(pod, 8080) for pod in ends.pods])
    asked = tcp((ends.outside, 50000), (ends.cluster_ip, 80))
    first = node.came(asked)
    assert {node.came(asked) for _ in range(20)} == {first}
    found = set()
    for _ in range(40):
        node.came(tcp((ends.outside, 50000), (ends.cluster_ip, 80), FIN | ACK))
        found.add(node.came(asked).destination)
    assert found == set(ends.pods)
