"""Direct server return by the programs of the mode ebpf: what one node hands on, and what the endpoint's node makes of it."""

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
    is_sound,
    opened,
    tcp,
    together,
    udp,
    unreachable,
)
from tests.kernel.service_node import NODE_PORT, PASS, REDIRECT, Addresses, Node, answer

GENEVE_PORT, GENEVE_BYTES = 6081, 8 + 4 + 20
OVERHEAD = {4: 20 + 8 + GENEVE_BYTES, 6: 40 + 8 + GENEVE_BYTES}
MTU = 1500


def version(ends: Addresses) -> int:
    return 6 if ":" in ends.node else 4


def neighbor_of(ends: Addresses) -> Addresses:
    """The node on which the pod is that is on another."""
    node = ends.node[:-1] + "3"
    ranges = FamilyConfig(node, ends.ranges.pods, ends.ranges.services, (node,), ends.ranges.local)
    return ends._replace(node=node, ranges=ranges)


def cidr(ends: Addresses, number: int) -> str:
    """The range of the pods of a node."""
    return f"10.244.{number}.0/24" if version(ends) == 4 else f"fd00:10:244:{number}::/64"


class Cluster:
    """Two nodes that know of each other. Both look up routes where the test is: there is a wire with a network for nodes."""

    def __init__(self, ends: Addresses) -> None:
        self.ends = ends
        self.first, self.second = Node(ends), Node(neighbor_of(ends))
        length = 32 if version(ends) == 4 else 128
        for node, other, number in ((self.first, self.second, 2), (self.second, self.first, 1)):
            node.tell(
                RemoteRange("", cidr(ends, number), other.ends.node),
                RemoteRange("", f"{other.ends.node}/{length}", other.ends.node),
            )
        for command in (
            "ip link set lo up",
            f"ip link add eth0 mtu {MTU} up type veth peer name other",
            "ip link set other up",
            f"ip address add {ends.node}/{16 if version(ends) == 4 else 64} dev eth0",
            "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
        ):
            subprocess.run(command.split(), check=True)

    def serve(self, *endpoints: tuple[str, int], **options: Any) -> None:
        for node in (self.first, self.second):
            node.serve(endpoints, is_direct=True, **options)

    def handed_on(self, packet: Packet) -> Packet:
        """What the second node makes of what the first one hands on; that is the packet itself."""
        return self.taken_in(self.wrapped(packet))

    def wrapped(self, packet: Packet) -> bytes:
        verdict, data = self.first.loaded.try_packet("coming", frame(packet))
        outer = opened(data, is_whole=False)
        assert (verdict, outer.source, outer.destination) == (
            REDIRECT,
            self.ends.node,
            self.second.ends.node,
        )
        assert (outer.protocol, outer.ports[1], data[HEADER + OVERHEAD[version(self.ends)] :]) == (
            UDP,
            GENEVE_PORT,
            frame(packet)[HEADER:],
        )
        return data

    def taken_in(self, data: bytes) -> Packet:
        verdict, found = self.second.loaded.try_packet("coming", data)
        assert verdict == PASS
        return opened(found)


def test_the_endpoints_node_answers_the_client(ends: Addresses) -> None:
    """As from the address that was asked; the endpoint sees the client. TCP and UDP, at a node port and a load balancer's address."""
    cluster, far, outside = Cluster(ends), ends.pods[2], ends.outside
    for protocol, make in (("TCP", tcp), ("UDP", udp)):
        cluster.serve((far, 8080), protocol=protocol)
        for port, way in ((50000, (ends.node, NODE_PORT)), (50001, (ends.balanced, 80))):
            asked = make((outside, port), way)
            for _ in range(3):
                came = cluster.handed_on(asked)
                assert came.ends == (outside, port, far, 8080)
                assert cluster.second.went(came) == came
                assert cluster.second.went(answer(came)).ends == (*way, outside, port)


def test_an_endpoint_of_the_node_itself_sees_the_client(ends: Addresses) -> None:
    """Nothing is handed on, and nothing masqueraded."""
    cluster, near = Cluster(ends), ends.pods[1]
    cluster.serve((near, 8080))
    for client in (ends.outside, ends.pods[0], ends.pods[2]):
        came = cluster.first.came(tcp((client, 50000), (ends.node, NODE_PORT)))
        assert (came.ends, cluster.first.went(came)) == ((client, 50000, near, 8080), came)
        assert cluster.first.went(answer(came)).ends == (ends.node, NODE_PORT, client, 50000)


def test_a_pod_of_the_node_that_it_asks_gets_its_answers_by_that(ends: Addresses) -> None:
    """It is seen itself, and what it sends is translated at once."""
    cluster, far, pod = Cluster(ends), ends.pods[2], ends.pods[0]
    cluster.serve((far, 8080))
    came = cluster.first.came(tcp((pod, 40000), (ends.node, NODE_PORT)))
    assert (came.ends, cluster.first.went(came)) == ((pod, 40000, far, 8080), came)
    assert cluster.first.went(answer(came)).ends == (ends.node, NODE_PORT, pod, 40000)


def test_a_pod_of_the_endpoints_node_is_seen_itself(ends: Addresses) -> None:
    """Though what it sends goes out and comes in again."""
    cluster, far = Cluster(ends), ends.pods[2]
    cluster.serve((far, 8080), protocol="UDP")
    neighbor = far[:-1] + "9"
    asked = udp((neighbor, 40000), (ends.node, NODE_PORT))
    for _ in range(3):
        assert cluster.second.went(cluster.second.came(asked)) == asked
        came = cluster.handed_on(asked)
        assert came.ends == (neighbor, 40000, far, 8080)
        assert cluster.second.went(answer(came)).ends == (ends.node, NODE_PORT, neighbor, 40000)


def test_some_are_masqueraded_all_the_same(ends: Addresses) -> None:
    """The endpoint's own node and the endpoint itself, who would take in nothing from themselves; and whose endpoint is on no node."""
    cluster, far = Cluster(ends), ends.pods[2]
    cluster.serve((far, 8080))
    for client in (cluster.second.ends.node, far):
        went = cluster.first.went(cluster.first.came(tcp((client, 40000), (ends.node, NODE_PORT))))
        assert (went.source, went.ends[2:]) == (ends.node, (far, 8080))
    beyond = ends.outside[:-1] + "9"
    cluster.serve((beyond, 8080), protocol="UDP")
    assert cluster.first.went(
        cluster.first.came(udp((ends.outside, 40000), (ends.node, NODE_PORT)))
    ).ends[::2] == (ends.node, beyond)


def test_connections_of_one_port_are_told_apart_by_the_endpoints_node(ends: Addresses) -> None:
    """By two addresses of a Service to one endpoint."""
    cluster, far, client = Cluster(ends), ends.pods[2], (ends.outside, 50000)
    cluster.serve((far, 8080))
    ways = [(ends.node, NODE_PORT), (ends.balanced, 80)]
    came = [cluster.handed_on(tcp(client, way)) for way in ways]
    assert {packet.source for packet in came} == {ends.outside}
    assert len({packet.ports[0] for packet in came}) == 2
    assert [cluster.second.went(answer(packet)).ends for packet in came] == [
        (*way, *client) for way in ways
    ]


def test_a_node_that_has_forgotten_goes_on(ends: Addresses) -> None:
    """A packet in the middle of a connection names its endpoint as the first one did."""
    cluster, far = Cluster(ends), ends.pods[2]
    cluster.serve((far, 8080))
    way = (ends.outside, 50000), (ends.node, NODE_PORT)
    cluster.handed_on(tcp(*way))
    for key, _ in cluster.second.loaded.entries("flows"):
        cluster.second.loaded.delete("flows", key)
    came = cluster.handed_on(tcp(*way, ACK))
    assert came.ends == (ends.outside, 50000, far, 8080)
    assert cluster.second.went(answer(came)).ends == (ends.node, NODE_PORT, ends.outside, 50000)


def test_another_endpoint_takes_over(ends: Addresses) -> None:
    """When that of a client's datagrams goes, the next goes to another, on the same node, too."""
    cluster, client, way = Cluster(ends), (ends.outside, 50000), (ends.node, NODE_PORT)
    for far in (ends.pods[2], ends.pods[2][:-1] + "9"):
        told = [
            node.serve([(far, 8080)], is_direct=True, protocol="UDP")
            for node in (cluster.first, cluster.second)
        ]
        came = cluster.handed_on(udp(client, way))
        assert came.ends == (*client, far, 8080)
        assert cluster.second.went(answer(came)).ends == (*way, *client)
        for node, objects in zip((cluster.first, cluster.second), told, strict=True):
            node.forget(*objects)


def test_datagrams_are_not_handed_on_when_that_is_over(ends: Addresses) -> None:
    """The next is masqueraded, as if there had been none before."""
    cluster, far, asked = (
        Cluster(ends),
        ends.pods[2],
        udp((ends.outside, 50000), (ends.node, NODE_PORT)),
    )
    cluster.serve((far, 8080), protocol="UDP")
    cluster.handed_on(asked)
    cluster.first.serve([(far, 8080)], protocol="UDP")
    assert cluster.first.went(cluster.first.came(asked)).ends[::2] == (ends.node, far)


def test_fragments_are_handed_on_each(ends: Addresses) -> None:
    """And put together by the endpoint; so is what it answers."""
    cluster, far = Cluster(ends), ends.pods[2]
    cluster.serve((far, 8080), protocol="UDP")
    pieces = fragments(
        udp((ends.outside, 50000), (ends.node, NODE_PORT), bytes(range(200)) * 4), 408
    )
    came = together(*(cluster.handed_on(piece) for piece in pieces))
    assert is_sound(came)
    assert came.ends == (ends.outside, 50000, far, 8080)
    back = fragments(udp((far, 8080), (ends.outside, 50000), bytes(range(200)) * 5), 408)
    whole = together(*(cluster.second.went(piece) for piece in back))
    assert is_sound(whole)
    assert whole.ends == (ends.node, NODE_PORT, ends.outside, 50000)


def test_errors_find_their_way_both_ways(ends: Addresses) -> None:
    """The endpoint's to the client as from the address that was asked; the client's to the endpoint by the node that it asked."""
    cluster, far = Cluster(ends), ends.pods[2]
    cluster.serve((far, 8080), protocol="UDP")
    asked = udp((ends.outside, 50000), (ends.node, NODE_PORT))
    came = cluster.handed_on(asked)
    heard = cluster.second.went(unreachable(far, came))
    assert (heard.source, heard.destination, heard.quoted.ends) == (
        ends.node,
        ends.outside,
        asked.ends,
    )
    answered = cluster.second.went(answer(came))
    heard = cluster.handed_on(unreachable(ends.outside, answered))
    assert (heard.source, heard.destination, heard.quoted.ends) == (
        ends.outside,
        far,
        answer(came).ends,
    )


def test_who_sends_too_much_hears_how_much_fits(ends: Addresses) -> None:
    """Beside the headers that a packet gets; the largest that fits is handed on."""
    cluster, far = Cluster(ends), ends.pods[2]
    cluster.serve((far, 8080), protocol="UDP")
    fits = MTU - OVERHEAD[version(ends)]
    room = fits - (28 if version(ends) == 4 else 48)
    way = (ends.outside, 50000), (ends.node, NODE_PORT)
    assert cluster.handed_on(udp(*way, bytes(room))).ends[2:] == (far, 8080)
    large = udp(*way, bytes(room + 1))
    verdict, heard = cluster.first.coming(large)
    told = (ICMP, b"\3\4") if version(ends) == 4 else (ICMPV6, b"\2\0")
    assert (verdict, heard.source, heard.destination) == (REDIRECT, ends.node, ends.outside)
    assert (heard.protocol, heard.data[:2], int.from_bytes(heard.data[4:8], "big")) == (*told, fits)
    assert heard.quoted.ends == large.ends


def test_only_nodes_hand_on(ends: Addresses) -> None:
    """What a stranger wraps like one is left as it is, and so is all else that comes to the port."""
    cluster, far = Cluster(ends), ends.pods[2]
    cluster.serve((far, 8080))
    outer = opened(
        cluster.wrapped(tcp((ends.outside, 50000), (ends.node, NODE_PORT))), is_whole=False
    )
    for other in (
        outer._replace(source=ends.outside),
        outer._replace(source=ends.pods[0]),
        outer._replace(destination=far),
        outer._replace(data=outer.data[:8] + b"\0" + outer.data[9:]),
        outer._replace(data=outer.data[:20]),
    ):
        assert cluster.second.loaded.try_packet("coming", frame(other)) == (PASS, frame(other))
