"""The choice of endpoints by the BPF programs, and session affinity."""

from __future__ import annotations

from typing import Any

from tests.kernel.frames import ACK, FIN, tcp, udp
from tests.kernel.service_node import NODE_PORT, Addresses, Node

SECOND = 10**9


def test_session_affinity_keeps_a_clients_endpoint(addresses: Addresses) -> None:
    """Affinity applies to all addresses of a Service.

    It ends after the timeout since the last connection, or with the endpoint.
    """
    node = Node(addresses)
    endpoints = [(pod, 8080) for pod in addresses.pods]
    objects = node.serve(endpoints, affinity_s=60)
    ports = iter(range(41000, 60000))

    def chosen_endpoint(destination: tuple[str, int]) -> str:
        return node.receive(tcp((addresses.outside, next(ports)), destination)).destination

    first = chosen_endpoint((addresses.cluster_ip, 80))
    assert {
        chosen_endpoint(destination)
        for destination in (
            (addresses.cluster_ip, 80),
            (addresses.load_balancer_ip, 80),
            (addresses.node, NODE_PORT),
        )
        for _ in range(10)
    } == {first}
    endpoints_at_cluster_ip = set()
    for _ in range(40):
        ((key, value),) = node.loaded.entries("faithful")
        since = int.from_bytes(value[-8:], "little") - 61 * SECOND
        node.loaded.set("faithful", key, value[:-8] + (since % 2**64).to_bytes(8, "little"))
        endpoints_at_cluster_ip.add(chosen_endpoint((addresses.cluster_ip, 80)))
    assert endpoints_at_cluster_ip == set(addresses.pods)
    last = chosen_endpoint((addresses.cluster_ip, 80))
    node.unload(*objects)
    node.serve([pair for pair in endpoints if pair[0] != last], affinity_s=60)
    assert (
        {chosen_endpoint((addresses.cluster_ip, 80)) for _ in range(20)}
        == {chosen_endpoint((addresses.cluster_ip, 80))}
        != {last}
    )


def test_endpoints_are_chosen_at_random(addresses: Addresses) -> None:
    """They are chosen equally often."""
    node = Node(addresses)
    node.serve([(pod, 8080) for pod in addresses.pods])
    chosen = [
        node.receive(tcp((addresses.outside, port), (addresses.cluster_ip, 80))).destination
        for port in range(10000, 10600)
    ]
    assert all(150 < chosen.count(pod) < 250 for pod in addresses.pods)


def test_flows_of_a_removed_endpoint(addresses: Addresses) -> None:
    """Datagrams and new connections go to another endpoint; an established connection remains."""
    node = Node(addresses)
    for protocol in ("TCP", "UDP"):
        old = node.serve([(addresses.pods[1], 8080)], protocol=protocol)[0]
        client = (addresses.pods[0], 40000)
        make: Any = tcp if protocol == "TCP" else udp
        assert (
            node.receive(make(client, (addresses.cluster_ip, 80))).destination == addresses.pods[1]
        )
        node.serve([(addresses.pods[2], 8080)], protocol=protocol)
        node.unload(old)
        if protocol == "TCP":
            assert (
                node.receive(tcp(client, (addresses.cluster_ip, 80), ACK)).destination
                == addresses.pods[1]
            )
        assert (
            node.receive(make(client, (addresses.cluster_ip, 80))).destination == addresses.pods[2]
        )


def test_a_reused_port_gets_a_new_endpoint(addresses: Addresses) -> None:
    """A client's port that is used again gets a new endpoint; a repeated SYN does not."""
    node = Node(addresses)
    node.serve([(pod, 8080) for pod in addresses.pods])
    request = tcp((addresses.outside, 50000), (addresses.cluster_ip, 80))
    first = node.receive(request)
    assert {node.receive(request) for _ in range(20)} == {first}
    chosen = set()
    for _ in range(40):
        node.receive(tcp((addresses.outside, 50000), (addresses.cluster_ip, 80), FIN | ACK))
        chosen.add(node.receive(request).destination)
    assert chosen == set(addresses.pods)
