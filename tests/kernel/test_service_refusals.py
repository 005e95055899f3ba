"""Replies of the BPF programs to packets for Service ports without endpoints."""

from __future__ import annotations

from tests.kernel.frames import ACK, ICMP, ICMPV6, RST, tcp, udp
from tests.kernel.service_node import DROP, FORWARDED, NODE_PORT, REDIRECT, Addresses, Node


def test_ports_without_endpoints_are_refused(addresses: Addresses) -> None:
    """TCP is answered by a reset, UDP by an ICMP error of the node.

    This includes ports that the Service does not have. Packets to unallocated cluster IPs are
    dropped.
    """
    node = Node(addresses)
    for protocol in ("TCP", "UDP"):
        node.serve([], protocol=protocol)
    client = (addresses.pods[0], 40000)
    for destination in (
        (addresses.cluster_ip, 80),
        (addresses.cluster_ip, 81),
        (addresses.node, NODE_PORT),
        (addresses.load_balancer_ip, 80),
    ):
        verdict, reply = node.coming(tcp(client, destination))
        assert (verdict, reply.four_tuple, reply.flags & RST) == (
            REDIRECT,
            (*destination, *client),
            RST,
        )
        assert reply.data[8:12] == (1001).to_bytes(4, "big"), (
            "the number after that of the SYN is acknowledged"
        )
        verdict, reply = node.coming(udp(client, destination, b"x" * 600))
        assert (verdict, reply.protocol, reply.source, reply.destination) == (
            REDIRECT,
            ICMPV6 if ":" in addresses.node else ICMP,
            addresses.node,
            addresses.pods[0],
        )
        assert reply.data[:2] == (b"\1\4" if ":" in addresses.node else b"\3\3")
        assert reply.quoted.four_tuple == (*client, *destination)
    free = addresses.cluster_ip[:-1] + "9"
    assert node.coming(tcp(client, (free, 80)))[0] == DROP


def test_an_unknown_connection_is_reset(addresses: Addresses) -> None:
    """The packet is passed on, since connection tracking may know it from a former proxy mode.

    If it leaves the node untranslated, it is answered by a reset.
    """
    node = Node(addresses)
    node.serve([(addresses.pods[2], 8080)])
    lost = tcp((addresses.pods[0], 40000), (addresses.cluster_ip, 80), ACK)
    assert node.receive(lost) == lost
    verdict, reply = node.going(lost, FORWARDED)
    assert (verdict, reply.four_tuple, reply.flags) == (
        REDIRECT,
        (addresses.cluster_ip, 80, addresses.pods[0], 40000),
        RST,
    )


def test_a_reset_is_not_answered(addresses: Addresses) -> None:
    """Two nodes would otherwise reply to each other forever."""
    node = Node(addresses)
    node.serve([])
    assert node.coming(tcp((addresses.pods[0], 40000), (addresses.cluster_ip, 81), RST))[0] == DROP
    assert (
        node.going(tcp((addresses.pods[0], 40000), (addresses.cluster_ip, 80), RST), FORWARDED)[0]
        == DROP
    )
