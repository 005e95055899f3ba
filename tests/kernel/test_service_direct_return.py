"""Direct server return by the BPF programs: forwarding between nodes, and replies."""

from __future__ import annotations

import subprocess
from typing import Any

from kubenetlab.hoststate.rules.bpf import FamilyConfig, RemoteRange
from tests.kernel.frames import (
    ACK,
    HEADER,
    ICMP,
    ICMPV6,
    UDP,
    Packet,
    fragments,
    frame,
    has_valid_checksum,
    parse_frame,
    reassemble,
    tcp,
    udp,
    unreachable,
)
from tests.kernel.service_node import NODE_PORT, PASS, REDIRECT, Addresses, Node, reply_to

GENEVE_PORT, GENEVE_BYTES = 6081, 8 + 4 + 20
OVERHEAD = {4: 20 + 8 + GENEVE_BYTES, 6: 40 + 8 + GENEVE_BYTES}
MTU = 1500


def version(addresses: Addresses) -> int:
    return 6 if ":" in addresses.node else 4


def neighbor_of(addresses: Addresses) -> Addresses:
    """Return the addresses of the node that runs the third pod."""
    node = addresses.node[:-1] + "3"
    ranges = FamilyConfig(
        node,
        addresses.ranges.pod_cidr,
        addresses.ranges.service_cidr,
        (node,),
        addresses.ranges.local_cidr,
    )
    return addresses._replace(node=node, ranges=ranges)


def cidr(addresses: Addresses, number: int) -> str:
    """Return the pod range of a node."""
    return f"10.244.{number}.0/24" if version(addresses) == 4 else f"fd00:10:244:{number}::/64"


class Cluster:
    """Two nodes with routes to each other, in a namespace with a link for the nodes' network."""

    def __init__(self, addresses: Addresses) -> None:
        self.addresses = addresses
        self.first, self.second = Node(addresses), Node(neighbor_of(addresses))
        length = 32 if version(addresses) == 4 else 128
        for node, other, number in ((self.first, self.second, 2), (self.second, self.first, 1)):
            node.load(
                RemoteRange("", cidr(addresses, number), other.addresses.node),
                RemoteRange("", f"{other.addresses.node}/{length}", other.addresses.node),
            )
        for command in (
            "ip link set lo up",
            f"ip link add eth0 mtu {MTU} up type veth peer name other",
            "ip link set other up",
            f"ip address add {addresses.node}/{16 if version(addresses) == 4 else 64} dev eth0",
            "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
        ):
            subprocess.run(command.split(), check=True)

    def serve(self, *endpoints: tuple[str, int], **options: Any) -> None:
        for node in (self.first, self.second):
            node.serve(endpoints, is_direct=True, **options)

    def forward(self, packet: Packet) -> Packet:
        """Return the packet as received by the second node from the first."""
        return self.decapsulate(self.encapsulate(packet))

    def encapsulate(self, packet: Packet) -> bytes:
        """Return the frame that the first node sends; check its headers."""
        verdict, data = self.first.loaded.try_packet("coming", frame(packet))
        outer = parse_frame(data, is_whole=False)
        assert (verdict, outer.source, outer.destination) == (
            REDIRECT,
            self.addresses.node,
            self.second.addresses.node,
        )
        assert (
            outer.protocol,
            outer.ports[1],
            data[HEADER + OVERHEAD[version(self.addresses)] :],
        ) == (
            UDP,
            GENEVE_PORT,
            frame(packet)[HEADER:],
        )
        return data

    def decapsulate(self, data: bytes) -> Packet:
        verdict, chosen = self.second.loaded.try_packet("coming", data)
        assert verdict == PASS
        return parse_frame(chosen)


def test_the_endpoints_node_replies_to_the_client(addresses: Addresses) -> None:
    """The endpoint sees the client, which gets replies from the address it used.

    TCP and UDP are covered, at a node port and a load balancer's IP.
    """
    cluster, remote_pod, outside = Cluster(addresses), addresses.pods[2], addresses.outside
    for protocol, make in (("TCP", tcp), ("UDP", udp)):
        cluster.serve((remote_pod, 8080), protocol=protocol)
        for port, destination in (
            (50000, (addresses.node, NODE_PORT)),
            (50001, (addresses.load_balancer_ip, 80)),
        ):
            request = make((outside, port), destination)
            for _ in range(3):
                received = cluster.forward(request)
                assert received.four_tuple == (outside, port, remote_pod, 8080)
                assert cluster.second.send(received) == received
                assert cluster.second.send(reply_to(received)).four_tuple == (
                    *destination,
                    outside,
                    port,
                )


def test_a_local_endpoint_sees_the_client(addresses: Addresses) -> None:
    """The packet is neither forwarded nor masqueraded."""
    cluster, near = Cluster(addresses), addresses.pods[1]
    cluster.serve((near, 8080))
    for client in (addresses.outside, addresses.pods[0], addresses.pods[2]):
        received = cluster.first.receive(tcp((client, 50000), (addresses.node, NODE_PORT)))
        assert (received.four_tuple, cluster.first.send(received)) == (
            (client, 50000, near, 8080),
            received,
        )
        assert cluster.first.send(reply_to(received)).four_tuple == (
            addresses.node,
            NODE_PORT,
            client,
            50000,
        )


def test_a_local_pod_is_translated_by_its_own_node(addresses: Addresses) -> None:
    """The endpoint sees the pod, and the pod's node translates."""
    cluster, remote_pod, pod = Cluster(addresses), addresses.pods[2], addresses.pods[0]
    cluster.serve((remote_pod, 8080))
    received = cluster.first.receive(tcp((pod, 40000), (addresses.node, NODE_PORT)))
    assert (received.four_tuple, cluster.first.send(received)) == (
        (pod, 40000, remote_pod, 8080),
        received,
    )
    assert cluster.first.send(reply_to(received)).four_tuple == (
        addresses.node,
        NODE_PORT,
        pod,
        40000,
    )


def test_an_endpoint_sees_a_pod_of_its_own_node(addresses: Addresses) -> None:
    """Its packets leave the node and come back."""
    cluster, remote_pod = Cluster(addresses), addresses.pods[2]
    cluster.serve((remote_pod, 8080), protocol="UDP")
    neighbor = remote_pod[:-1] + "9"
    request = udp((neighbor, 40000), (addresses.node, NODE_PORT))
    for _ in range(3):
        assert cluster.second.send(cluster.second.receive(request)) == request
        received = cluster.forward(request)
        assert received.four_tuple == (neighbor, 40000, remote_pod, 8080)
        assert cluster.second.send(reply_to(received)).four_tuple == (
            addresses.node,
            NODE_PORT,
            neighbor,
            40000,
        )


def test_clients_that_must_be_masqueraded(addresses: Addresses) -> None:
    """The endpoint's node and the endpoint itself would accept no packets from themselves.

    A client of an endpoint outside the cluster is masqueraded, too.
    """
    cluster, remote_pod = Cluster(addresses), addresses.pods[2]
    cluster.serve((remote_pod, 8080))
    for client in (cluster.second.addresses.node, remote_pod):
        sent = cluster.first.send(
            cluster.first.receive(tcp((client, 40000), (addresses.node, NODE_PORT)))
        )
        assert (sent.source, sent.four_tuple[2:]) == (addresses.node, (remote_pod, 8080))
    beyond = addresses.outside[:-1] + "9"
    cluster.serve((beyond, 8080), protocol="UDP")
    assert cluster.first.send(
        cluster.first.receive(udp((addresses.outside, 40000), (addresses.node, NODE_PORT)))
    ).four_tuple[::2] == (addresses.node, beyond)


def test_the_endpoints_node_tells_connections_of_one_port_apart(addresses: Addresses) -> None:
    """They use two addresses of a Service and the same endpoint."""
    cluster, remote_pod, client = Cluster(addresses), addresses.pods[2], (addresses.outside, 50000)
    cluster.serve((remote_pod, 8080))
    destinations = [(addresses.node, NODE_PORT), (addresses.load_balancer_ip, 80)]
    received = [cluster.forward(tcp(client, destination)) for destination in destinations]
    assert {packet.source for packet in received} == {addresses.outside}
    assert len({packet.ports[0] for packet in received}) == 2
    assert [cluster.second.send(reply_to(packet)).four_tuple for packet in received] == [
        (*destination, *client) for destination in destinations
    ]


def test_a_node_without_the_flow_continues(addresses: Addresses) -> None:
    """A packet within a connection names its endpoint just like the first one."""
    cluster, remote_pod = Cluster(addresses), addresses.pods[2]
    cluster.serve((remote_pod, 8080))
    destination = (addresses.outside, 50000), (addresses.node, NODE_PORT)
    cluster.forward(tcp(*destination))
    for key, _ in cluster.second.loaded.entries("flows"):
        cluster.second.loaded.delete("flows", key)
    received = cluster.forward(tcp(*destination, ACK))
    assert received.four_tuple == (addresses.outside, 50000, remote_pod, 8080)
    assert cluster.second.send(reply_to(received)).four_tuple == (
        addresses.node,
        NODE_PORT,
        addresses.outside,
        50000,
    )


def test_a_removed_endpoint_is_replaced(addresses: Addresses) -> None:
    """If the endpoint of a client's datagrams is removed, the next datagram goes to another.

    This includes another endpoint on the same node.
    """
    cluster, client, destination = (
        Cluster(addresses),
        (addresses.outside, 50000),
        (addresses.node, NODE_PORT),
    )
    for remote_pod in (addresses.pods[2], addresses.pods[2][:-1] + "9"):
        objects = [
            node.serve([(remote_pod, 8080)], is_direct=True, protocol="UDP")
            for node in (cluster.first, cluster.second)
        ]
        received = cluster.forward(udp(client, destination))
        assert received.four_tuple == (*client, remote_pod, 8080)
        assert cluster.second.send(reply_to(received)).four_tuple == (*destination, *client)
        for node, loaded in zip((cluster.first, cluster.second), objects, strict=True):
            node.unload(*loaded)


def test_datagrams_are_masqueraded_after_direct_return_is_disabled(addresses: Addresses) -> None:
    """The next datagram is masqueraded, as if no other had been forwarded."""
    cluster, remote_pod, request = (
        Cluster(addresses),
        addresses.pods[2],
        udp((addresses.outside, 50000), (addresses.node, NODE_PORT)),
    )
    cluster.serve((remote_pod, 8080), protocol="UDP")
    cluster.forward(request)
    cluster.first.serve([(remote_pod, 8080)], protocol="UDP")
    assert cluster.first.send(cluster.first.receive(request)).four_tuple[::2] == (
        addresses.node,
        remote_pod,
    )


def test_fragments_are_forwarded_one_by_one(addresses: Addresses) -> None:
    """The endpoint reassembles them; fragments of its reply are translated, too."""
    cluster, remote_pod = Cluster(addresses), addresses.pods[2]
    cluster.serve((remote_pod, 8080), protocol="UDP")
    pieces = fragments(
        udp((addresses.outside, 50000), (addresses.node, NODE_PORT), bytes(range(200)) * 4), 408
    )
    received = reassemble(*(cluster.forward(piece) for piece in pieces))
    assert has_valid_checksum(received)
    assert received.four_tuple == (addresses.outside, 50000, remote_pod, 8080)
    reply = fragments(
        udp((remote_pod, 8080), (addresses.outside, 50000), bytes(range(200)) * 5), 408
    )
    whole = reassemble(*(cluster.second.send(piece) for piece in reply))
    assert has_valid_checksum(whole)
    assert whole.four_tuple == (addresses.node, NODE_PORT, addresses.outside, 50000)


def test_icmp_errors_are_translated_in_both_directions(addresses: Addresses) -> None:
    """ICMP errors of the endpoint reach the client, from the address that it used.

    Those of the client reach the endpoint by way of the node that the client used.
    """
    cluster, remote_pod = Cluster(addresses), addresses.pods[2]
    cluster.serve((remote_pod, 8080), protocol="UDP")
    request = udp((addresses.outside, 50000), (addresses.node, NODE_PORT))
    received = cluster.forward(request)
    reply = cluster.second.send(unreachable(remote_pod, received))
    assert (reply.source, reply.destination, reply.quoted.four_tuple) == (
        addresses.node,
        addresses.outside,
        request.four_tuple,
    )
    answered = cluster.second.send(reply_to(received))
    reply = cluster.forward(unreachable(addresses.outside, answered))
    assert (reply.source, reply.destination, reply.quoted.four_tuple) == (
        addresses.outside,
        remote_pod,
        reply_to(received).four_tuple,
    )


def test_packets_that_are_too_large_cause_an_icmp_error(addresses: Addresses) -> None:
    """The error names the MTU less the added headers; a packet of that size is forwarded."""
    cluster, remote_pod = Cluster(addresses), addresses.pods[2]
    cluster.serve((remote_pod, 8080), protocol="UDP")
    mtu = MTU - OVERHEAD[version(addresses)]
    payload_size = mtu - (28 if version(addresses) == 4 else 48)
    destination = (addresses.outside, 50000), (addresses.node, NODE_PORT)
    assert cluster.forward(udp(*destination, bytes(payload_size))).four_tuple[2:] == (
        remote_pod,
        8080,
    )
    large = udp(*destination, bytes(payload_size + 1))
    verdict, reply = cluster.first.coming(large)
    error_type = (ICMP, b"\3\4") if version(addresses) == 4 else (ICMPV6, b"\2\0")
    assert (verdict, reply.source, reply.destination) == (
        REDIRECT,
        addresses.node,
        addresses.outside,
    )
    assert (reply.protocol, reply.data[:2], int.from_bytes(reply.data[4:8], "big")) == (
        *error_type,
        mtu,
    )
    assert reply.quoted.four_tuple == large.four_tuple


def test_packets_forwarded_by_others_are_left_alone(addresses: Addresses) -> None:
    """Geneve packets from other senders and other packets to the port are left alone."""
    cluster, remote_pod = Cluster(addresses), addresses.pods[2]
    cluster.serve((remote_pod, 8080))
    outer = parse_frame(
        cluster.encapsulate(tcp((addresses.outside, 50000), (addresses.node, NODE_PORT))),
        is_whole=False,
    )
    for other in (
        outer._replace(source=addresses.outside),
        outer._replace(source=addresses.pods[0]),
        outer._replace(destination=remote_pod),
        outer._replace(data=outer.data[:8] + b"\0" + outer.data[9:]),
        outer._replace(data=outer.data[:20]),
    ):
        assert cluster.second.loaded.try_packet("coming", frame(other)) == (PASS, frame(other))
