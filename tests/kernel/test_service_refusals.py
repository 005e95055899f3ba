"""What the programs of the mode ebpf say where nobody serves."""

from __future__ import annotations

from tests.kernel.frames import ACK, ICMP, ICMPV6, RST, tcp, udp
from tests.kernel.service_node import DROP, FORWARDED, NODE_PORT, REDIRECT, Addresses, Node


def test_where_nobody_serves_a_client_hears_so(ends: Addresses) -> None:
    """TCP gets a reset for what it sent, UDP and all else an error from the node; also where a Service has no such port. The addresses of the
    Services' range that are nobody's are silent."""
    node = Node(ends)
    for protocol in ("TCP", "UDP"):
        node.serve([], protocol=protocol)
    client = (ends.pods[0], 40000)
    for way in (
        (ends.cluster_ip, 80),
        (ends.cluster_ip, 81),
        (ends.node, NODE_PORT),
        (ends.balanced, 80),
    ):
        verdict, heard = node.coming(tcp(client, way))
        assert (verdict, heard.ends, heard.flags & RST) == (REDIRECT, (*way, *client), RST)
        assert heard.data[8:12] == (1001).to_bytes(4, "big"), (
            "the number after that of the SYN is acknowledged"
        )
        verdict, heard = node.coming(udp(client, way, b"x" * 600))
        assert (verdict, heard.protocol, heard.source, heard.destination) == (
            REDIRECT,
            ICMPV6 if ":" in ends.node else ICMP,
            ends.node,
            ends.pods[0],
        )
        assert heard.data[:2] == (b"\1\4" if ":" in ends.node else b"\3\3")
        assert heard.quoted.ends == (*client, *way)
    free = ends.cluster_ip[:-1] + "9"
    assert node.coming(tcp(client, (free, 80)))[0] == DROP


def test_a_connection_that_nobody_knows_is_ended(ends: Addresses) -> None:
    """It is left to the stack, which may know it from the rules of a former mode; what leaves that untranslated is answered with a reset."""
    node = Node(ends)
    node.serve([(ends.pods[2], 8080)])
    lost = tcp((ends.pods[0], 40000), (ends.cluster_ip, 80), ACK)
    assert node.came(lost) == lost
    verdict, heard = node.going(lost, FORWARDED)
    assert (verdict, heard.ends, heard.flags) == (
        REDIRECT,
        (ends.cluster_ip, 80, ends.pods[0], 40000),
        RST,
    )


def test_a_reset_is_not_answered(ends: Addresses) -> None:
    """Or two of a kind would go on for ever."""
    node = Node(ends)
    node.serve([])
    assert node.coming(tcp((ends.pods[0], 40000), (ends.cluster_ip, 81), RST))[0] == DROP
    assert node.going(tcp((ends.pods[0], 40000), (ends.cluster_ip, 80), RST), FORWARDED)[0] == DROP
