"""The paths of packets through the BPF programs: addresses seen by endpoints and by clients."""

from __future__ import annotations

import os

from msgspec import structs

from kubenetlab.hoststate.rules.bpf import AllowedSource
from tests.kernel.frames import tcp, udp
from tests.kernel.service_node import (
    DROP,
    FAMILIES,
    NODE_PORT,
    PASS,
    REDIRECT,
    Addresses,
    Node,
    reply_to,
)


def test_a_pod_connects_to_a_cluster_ip(addresses: Addresses) -> None:
    """The endpoint sees the pod, and the pod sees the cluster IP, by TCP and UDP."""
    node = Node(addresses)
    pod, _, remote_pod = addresses.pods
    for protocol, make in (("TCP", tcp), ("UDP", udp)):
        node.serve([(remote_pod, 8080)], protocol=protocol)
        request = make((pod, 40000), (addresses.cluster_ip, 80))
        for _ in range(3):
            received = node.receive(request)
            assert received.four_tuple == (pod, 40000, remote_pod, 8080)
            assert node.send(received) == received
            assert node.send(reply_to(received)).four_tuple == (
                addresses.cluster_ip,
                80,
                pod,
                40000,
            )
            assert node.receive(reply_to(received)) == reply_to(received), (
                "packets to a pod are left alone"
            )


def test_masquerade_all_hides_pods(addresses: Addresses) -> None:
    """With masqueradeAll endpoints do not see pods either."""
    node = Node(addresses)
    node.serve([(addresses.pods[2], 8080)], masquerades_all=True)
    assert (
        node.send(node.receive(tcp((addresses.pods[0], 40000), (addresses.cluster_ip, 80)))).source
        == addresses.node
    )


def test_policy_cluster_masquerades_external_clients(addresses: Addresses) -> None:
    """Clients of a node port or load balancer IP are masqueraded towards the endpoint only."""
    node = Node(addresses)
    node.serve([(addresses.pods[2], 8080)])
    for client in (addresses.outside, addresses.pods[0]):
        for number, destination in (
            (50000, (addresses.node, NODE_PORT)),
            (50001, (addresses.load_balancer_ip, 80)),
        ):
            received = node.receive(tcp((client, number), destination))
            source, between, *rest = received.four_tuple
            assert (source, *rest) == (client, addresses.pods[2], 8080)
            sent = node.send(received)
            source, port, *rest = sent.four_tuple
            assert (source, *rest) == (addresses.node, addresses.pods[2], 8080)
            assert all(1024 <= number < 30000 for number in (between, port))
            reply = node.receive(reply_to(sent))
            assert reply.four_tuple == (addresses.pods[2], 8080, client, between)
            assert node.send(reply).four_tuple == (*destination, client, number)


def test_node_ports_answer_at_configured_addresses_only(addresses: Addresses) -> None:
    """Node ports answer at the configured addresses of the node only, from the same address."""
    node = Node(addresses)
    node.serve([(addresses.pods[2], 8080)])
    for port, door in enumerate(addresses.ranges.node_port_addresses, 40000):
        sent = node.send(node.receive(tcp((addresses.pods[0], port), (door, NODE_PORT))))
        assert sent.destination == addresses.pods[2]
        assert node.send(node.receive(reply_to(sent))).four_tuple == (
            door,
            NODE_PORT,
            addresses.pods[0],
            port,
        )
    node = Node(
        addresses._replace(
            ranges=structs.replace(
                addresses.ranges, node_port_addresses=addresses.ranges.node_port_addresses[1:]
            )
        )
    )
    node.serve([(addresses.pods[2], 8080)])
    shut = tcp((addresses.pods[0], 41000), (addresses.node, NODE_PORT))
    assert node.receive(shut) == shut


def test_policy_local_shows_external_clients(addresses: Addresses) -> None:
    """Clients reach local endpoints and are seen by them; without one packets are dropped.

    Pods may reach any endpoint.
    """
    node = Node(addresses)
    objects = node.serve(
        [(addresses.pods[2], 8080), (addresses.pods[1], 8080)],
        [(addresses.pods[1], 8080)],
        is_local=True,
    )
    for port in range(50000, 50020):
        received = node.receive(tcp((addresses.outside, port), (addresses.node, NODE_PORT)))
        assert received.four_tuple == (addresses.outside, port, addresses.pods[1], 8080)
        assert node.send(received) == received
    chosen = {
        node.receive(tcp((addresses.pods[0], port), (addresses.node, NODE_PORT))).destination
        for port in range(50000, 50040)
    }
    assert chosen == set(addresses.pods[1:])
    node.unload(*objects)
    node.serve([(addresses.pods[2], 8080)], [], is_local=True)
    assert node.coming(tcp((addresses.outside, 50100), (addresses.node, NODE_PORT)))[0] == DROP
    request = node.receive(tcp((addresses.pods[0], 50100), (addresses.node, NODE_PORT)))
    assert node.send(request).four_tuple == (addresses.pods[0], 50100, addresses.pods[2], 8080)


def test_load_balancer_source_ranges_restrict_clients(addresses: Addresses) -> None:
    """Packets of other clients are dropped there; the node port is open to all."""
    node = Node(addresses)
    node.serve([(addresses.pods[0], 8080)], has_source_ranges=True)
    request = tcp((addresses.outside, 50000), (addresses.load_balancer_ip, 80))
    assert node.coming(request)[0] == DROP
    assert (
        node.receive(tcp((addresses.outside, 50000), (addresses.node, NODE_PORT))).destination
        == addresses.pods[0]
    )
    node.load(
        AllowedSource(
            "",
            "default/web/TCP",
            f"{addresses.outside.rpartition('.')[0]}.0/24"
            if "." in addresses.outside
            else "2001:db8:51::/48",
        )
    )
    assert node.receive(request).destination == addresses.pods[0]
    assert node.coming(tcp((addresses.pods[0], 50000), (addresses.load_balancer_ip, 80)))[0] == DROP


def test_a_pod_that_reaches_itself_is_masqueraded(addresses: Addresses) -> None:
    """Otherwise it would reply to itself."""
    node = Node(addresses)
    pod = addresses.pods[0]
    node.serve([(pod, 8080)])
    received = node.receive(tcp((pod, 40000), (addresses.cluster_ip, 80)))
    sent = node.send(received)
    assert (sent.source, sent.four_tuple[2:]) == (addresses.node, (pod, 8080))
    assert node.send(node.receive(reply_to(sent))).four_tuple == (
        addresses.cluster_ip,
        80,
        pod,
        40000,
    )


def test_a_host_network_endpoint_sees_the_client(addresses: Addresses) -> None:
    """Its packets do not leave the node, so there is nothing to masquerade."""
    node = Node(addresses)
    node.serve([(addresses.node, 7070)])
    received = node.receive(tcp((addresses.outside, 50000), (addresses.node, NODE_PORT)))
    assert received.four_tuple == (addresses.outside, 50000, addresses.node, 7070)
    assert node.send(reply_to(received)).four_tuple == (
        addresses.node,
        NODE_PORT,
        addresses.outside,
        50000,
    )


def test_connections_of_the_node_are_redirected_to_lo(addresses: Addresses) -> None:
    """Requests and replies of the node are translated completely by one program."""
    node = Node(addresses)
    node.serve([(addresses.node, 7070)])
    verdict, sent = node.going(tcp((addresses.node, 40000), (addresses.cluster_ip, 80)))
    source, port, *rest = sent.four_tuple
    assert (verdict, source, *rest) == (REDIRECT, addresses.node, addresses.node, 7070)
    assert 1024 <= port < 30000
    verdict, reply = node.going(reply_to(sent))
    assert (verdict, reply.four_tuple) == (
        REDIRECT,
        (addresses.cluster_ip, 80, addresses.node, 40000),
    )


def test_other_packets_are_left_alone(addresses: Addresses) -> None:
    """Not a bit of the packet changes."""
    node = Node(addresses)
    node.serve([(addresses.pods[2], 8080)])
    for packet in (
        tcp((addresses.pods[0], 1), (addresses.pods[2], 2)),
        udp((addresses.outside, 1), (addresses.node, 80)),
        tcp((addresses.node, 1), (addresses.outside, 2)),
    ):
        assert node.receive(packet) == packet
        assert node.send(packet) == packet


def test_random_frames_get_a_verdict() -> None:
    """Any frame gets a verdict, whatever it contains."""
    node = Node(FAMILIES[4])
    for size in range(54, 120):
        noise = os.urandom(size)
        for kind in (b"\x08\x00", b"\x86\xdd", b"\x08\x06"):
            assert node.loaded.try_packet("coming", noise[:12] + kind + noise[14:]).verdict in (
                PASS,
                DROP,
                REDIRECT,
            )
