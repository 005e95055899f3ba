"""Flows in the BPF programs: how they are told apart, fragments, and ICMP errors."""

from __future__ import annotations

from typing import Any

import pytest

from tests.kernel.frames import (
    ACK,
    FIN,
    Packet,
    fragments,
    has_valid_checksum,
    reassemble,
    tcp,
    udp,
    unreachable,
)
from tests.kernel.service_node import NODE_PORT, Addresses, Node, reply_to


def test_flows_to_one_endpoint_are_told_apart(addresses: Addresses) -> None:
    """A client uses one port for two addresses of a Service and for the endpoint itself.

    Each reply has the address of its request.
    """
    node = Node(addresses)
    pod, _, remote_pod = addresses.pods
    node.serve([(remote_pod, 8080)])
    destinations = [(addresses.cluster_ip, 80), (addresses.second_ip, 80), (remote_pod, 8080)]
    received = [node.receive(tcp((pod, 40000), destination)) for destination in destinations]
    assert [packet.four_tuple[2:] for packet in received] == [(remote_pod, 8080)] * 3
    assert {packet.source for packet in received} == {pod}
    assert len({packet.ports[0] for packet in received}) == 3
    assert [node.send(reply_to(packet)).four_tuple for packet in received] == [
        (*destination, pod, 40000) for destination in destinations
    ]


def test_the_port_of_a_closed_connection_can_be_reused(addresses: Addresses) -> None:
    """A direct connection to the endpoint is then left alone."""
    node = Node(addresses)
    pod, _, remote_pod = addresses.pods
    node.serve([(remote_pod, 8080)])
    node.receive(tcp((pod, 40000), (addresses.cluster_ip, 80)))
    node.receive(tcp((pod, 40000), (addresses.cluster_ip, 80), FIN | ACK))
    direct = tcp((pod, 40000), (remote_pod, 8080))
    assert node.receive(direct) == direct
    assert node.send(reply_to(direct)) == reply_to(direct)


@pytest.mark.parametrize("destination", ["load_balancer_ip", "node", "cluster_ip"])
def test_a_client_may_use_one_port_for_service_and_endpoint(
    addresses: Addresses, destination: str
) -> None:
    """The client connects to the endpoint directly and by the Service, in any order.

    The endpoint sees the client in the direct connection, whether or not the other is masqueraded.
    """
    node = Node(addresses)
    pod, _, remote_pod = addresses.pods
    node.serve([(remote_pod, 8080)])
    target = (getattr(addresses, destination), NODE_PORT if destination == "node" else 80)
    direct = tcp((pod, 41000), (remote_pod, 8080))
    assert node.send(node.receive(direct)) == direct
    node.send(node.receive(tcp((pod, 41000), target)))
    if destination != "cluster_ip":  # that flow has the client's own port
        assert node.send(node.receive(direct)) == direct
    node.receive(tcp((pod, 41000), target, FIN | ACK))
    assert node.send(node.receive(direct)) == direct
    assert node.send(reply_to(direct)) == reply_to(direct)
    by_second = node.send(node.receive(tcp((pod, 41000), (addresses.second_ip, 80))))
    assert by_second.source == pod


def test_udp_flows_survive_a_time_without_endpoints(addresses: Addresses) -> None:
    """A client keeps its UDP port while the only endpoint is removed and added again.

    Replies have the Service's address, as before.
    """
    node = Node(addresses)
    pod, _, remote_pod = addresses.pods
    for client, destination in (
        (pod, (addresses.cluster_ip, 80)),
        (addresses.outside, (addresses.node, NODE_PORT)),
        (pod, (addresses.load_balancer_ip, 80)),
    ):
        request = udp((client, 41000), destination)
        for _ in range(2):
            node.serve([(remote_pod, 8080)], protocol="UDP")
            sent = node.send(node.receive(request))
            reply = reply_to(sent)
            assert node.send(
                node.receive(reply) if sent.source == addresses.node else reply
            ).four_tuple == (
                *destination,
                client,
                41000,
            )
            node.serve([], protocol="UDP")
            node.coming(request)


def test_later_fragments_follow_the_first(addresses: Addresses) -> None:
    """All fragments are translated alike, in both directions; reassembled datagrams are valid."""
    node = Node(addresses)
    node.serve([(addresses.pods[2], 8080)], protocol="UDP")

    def run_on_fragments(program: Any, whole: Packet) -> Packet:
        first, later = (program(piece) for piece in fragments(whole, 408))
        result = reassemble(first, later)
        assert has_valid_checksum(result)
        return result

    request = udp((addresses.outside, 50000), (addresses.node, NODE_PORT), bytes(range(200)) * 4)
    received = run_on_fragments(node.receive, request)
    assert (received.source, received.four_tuple[2:]) == (
        addresses.outside,
        (addresses.pods[2], 8080),
    )
    sent = run_on_fragments(node.send, received)
    assert sent.source == addresses.node
    reply = udp(sent.four_tuple[2:], sent.four_tuple[:2], bytes(range(200)) * 5)
    assert run_on_fragments(node.send, run_on_fragments(node.receive, reply)).four_tuple == (
        addresses.node,
        NODE_PORT,
        addresses.outside,
        50000,
    )


def test_icmp_errors_are_translated_for_the_client(addresses: Addresses) -> None:
    """The client receives the error about the packet that it has sent itself, from any router."""
    node = Node(addresses)
    router = addresses.outside[:-1] + "1" if "." in addresses.outside else "2001:db8:51:100::1"
    node.serve([(addresses.pods[2], 8080)], protocol="UDP")
    request = udp((addresses.outside, 50000), (addresses.node, NODE_PORT))
    sent = node.send(node.receive(request))
    for who, seen in ((addresses.pods[2], addresses.node), (router, router)):
        reply = node.send(node.receive(unreachable(who, sent)))
        assert (reply.source, reply.destination) == (seen, addresses.outside)
        assert reply.quoted.four_tuple == request.four_tuple


def test_icmp_errors_of_the_client_reach_the_endpoint(addresses: Addresses) -> None:
    """They are about a reply for which the client has no socket any more."""
    node = Node(addresses)
    node.serve([(addresses.pods[2], 8080)], protocol="UDP")
    sent = node.send(node.receive(udp((addresses.outside, 50000), (addresses.node, NODE_PORT))))
    answered = reply_to(sent)
    reply = node.send(
        node.receive(unreachable(addresses.outside, node.send(node.receive(answered))))
    )
    assert (reply.source, reply.destination) == (addresses.node, addresses.pods[2])
    assert reply.quoted.four_tuple == answered.four_tuple
