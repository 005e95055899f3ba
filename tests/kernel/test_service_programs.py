"""Which ways packets go through the programs of the mode ebpf: whom an endpoint sees, and what a client gets back."""

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
    answer,
)


def test_a_pod_asks_a_cluster_ip(ends: Addresses) -> None:
    """It is seen itself, and sees the address that it asked; so it goes on, by TCP and UDP."""
    node = Node(ends)
    pod, _, far = ends.pods
    for protocol, make in (("TCP", tcp), ("UDP", udp)):
        node.serve([(far, 8080)], protocol=protocol)
        asked = make((pod, 40000), (ends.cluster_ip, 80))
        for _ in range(3):
            came = node.came(asked)
            assert came.ends == (pod, 40000, far, 8080)
            assert node.went(came) == came
            assert node.went(answer(came)).ends == (ends.cluster_ip, 80, pod, 40000)
            assert node.came(answer(came)) == answer(came), "what comes for a pod is left as it is"


def test_clients_can_be_hidden(ends: Addresses) -> None:
    """With masqueradeAll pods are not seen themselves either."""
    node = Node(ends)
    node.serve([(ends.pods[2], 8080)], is_hiding=True)
    assert (
        node.went(node.came(tcp((ends.pods[0], 40000), (ends.cluster_ip, 80)))).source == ends.node
    )


def test_from_outside_by_the_policy_cluster(ends: Addresses) -> None:
    """Whoever asks at a node port or a load balancer's address is masqueraded towards the endpoint, and only there."""
    node = Node(ends)
    node.serve([(ends.pods[2], 8080)])
    for asker in (ends.outside, ends.pods[0]):
        for number, way in ((50000, (ends.node, NODE_PORT)), (50001, (ends.balanced, 80))):
            came = node.came(tcp((asker, number), way))
            source, between, *there = came.ends
            assert (source, *there) == (asker, ends.pods[2], 8080)
            went = node.went(came)
            source, port, *there = went.ends
            assert (source, *there) == (ends.node, ends.pods[2], 8080)
            assert all(1024 <= number < 30000 for number in (between, port))
            back = node.came(answer(went))
            assert back.ends == (ends.pods[2], 8080, asker, between)
            assert node.went(back).ends == (*way, asker, number)


def test_node_ports_answer_at_the_nodes_doors(ends: Addresses) -> None:
    """There and nowhere else; who asks at one is answered from there."""
    node = Node(ends)
    node.serve([(ends.pods[2], 8080)])
    for port, door in enumerate(ends.ranges.doors, 40000):
        went = node.went(node.came(tcp((ends.pods[0], port), (door, NODE_PORT))))
        assert went.destination == ends.pods[2]
        assert node.went(node.came(answer(went))).ends == (door, NODE_PORT, ends.pods[0], port)
    node = Node(ends._replace(ranges=structs.replace(ends.ranges, doors=ends.ranges.doors[1:])))
    node.serve([(ends.pods[2], 8080)])
    shut = tcp((ends.pods[0], 41000), (ends.node, NODE_PORT))
    assert node.came(shut) == shut


def test_from_outside_by_the_policy_local(ends: Addresses) -> None:
    """To an endpoint of this node, and the client is seen itself; pods may go to any. Where there is none: silence."""
    node = Node(ends)
    told = node.serve(
        [(ends.pods[2], 8080), (ends.pods[1], 8080)], [(ends.pods[1], 8080)], is_local=True
    )
    for port in range(50000, 50020):
        came = node.came(tcp((ends.outside, port), (ends.node, NODE_PORT)))
        assert came.ends == (ends.outside, port, ends.pods[1], 8080)
        assert node.went(came) == came
    found = {
        node.came(tcp((ends.pods[0], port), (ends.node, NODE_PORT))).destination
        for port in range(50000, 50040)
    }
    assert found == set(ends.pods[1:])
    node.forget(*told)
    node.serve([(ends.pods[2], 8080)], [], is_local=True)
    assert node.coming(tcp((ends.outside, 50100), (ends.node, NODE_PORT)))[0] == DROP
    asked = node.came(tcp((ends.pods[0], 50100), (ends.node, NODE_PORT)))
    assert node.went(asked).ends == (ends.pods[0], 50100, ends.pods[2], 8080)


def test_only_the_clients_named_may_ask_a_load_balancers_address(ends: Addresses) -> None:
    """Others hear nothing; the node port is open to all."""
    node = Node(ends)
    node.serve([(ends.pods[0], 8080)], is_fenced=True)
    asked = tcp((ends.outside, 50000), (ends.balanced, 80))
    assert node.coming(asked)[0] == DROP
    assert node.came(tcp((ends.outside, 50000), (ends.node, NODE_PORT))).destination == ends.pods[0]
    node.tell(
        AllowedSource(
            "",
            "default/web/TCP",
            f"{ends.outside.rpartition('.')[0]}.0/24"
            if "." in ends.outside
            else "2001:db8:51::/48",
        )
    )
    assert node.came(asked).destination == ends.pods[0]
    assert node.coming(tcp((ends.pods[0], 50000), (ends.balanced, 80)))[0] == DROP


def test_a_pod_that_meets_itself_is_masqueraded(ends: Addresses) -> None:
    """Or it would answer itself."""
    node = Node(ends)
    pod = ends.pods[0]
    node.serve([(pod, 8080)])
    came = node.came(tcp((pod, 40000), (ends.cluster_ip, 80)))
    went = node.went(came)
    assert (went.source, went.ends[2:]) == (ends.node, (pod, 8080))
    assert node.went(node.came(answer(went))).ends == (ends.cluster_ip, 80, pod, 40000)


def test_an_endpoint_at_the_node_itself_sees_the_client(ends: Addresses) -> None:
    """Nothing goes out that could be masqueraded."""
    node = Node(ends)
    node.serve([(ends.node, 7070)])
    came = node.came(tcp((ends.outside, 50000), (ends.node, NODE_PORT)))
    assert came.ends == (ends.outside, 50000, ends.node, 7070)
    assert node.went(answer(came)).ends == (ends.node, NODE_PORT, ends.outside, 50000)


def test_what_the_node_asks_itself_comes_in_by_lo(ends: Addresses) -> None:
    """Translated whole at once, and so are the answers."""
    node = Node(ends)
    node.serve([(ends.node, 7070)])
    verdict, went = node.going(tcp((ends.node, 40000), (ends.cluster_ip, 80)))
    source, port, *there = went.ends
    assert (verdict, source, *there) == (REDIRECT, ends.node, ends.node, 7070)
    assert 1024 <= port < 30000
    verdict, heard = node.going(answer(went))
    assert (verdict, heard.ends) == (REDIRECT, (ends.cluster_ip, 80, ends.node, 40000))


def test_what_is_not_for_a_service_is_left_alone(ends: Addresses) -> None:
    """Bit by bit."""
    node = Node(ends)
    node.serve([(ends.pods[2], 8080)])
    for packet in (
        tcp((ends.pods[0], 1), (ends.pods[2], 2)),
        udp((ends.outside, 1), (ends.node, 80)),
        tcp((ends.node, 1), (ends.outside, 2)),
    ):
        assert node.came(packet) == packet
        assert node.went(packet) == packet


def test_noise_is_survived() -> None:
    """Whatever is in a frame, each gets a verdict."""
    node = Node(FAMILIES[4])
    for size in range(54, 120):
        noise = os.urandom(size)
        for kind in (b"\x08\x00", b"\x86\xdd", b"\x08\x06"):
            assert node.loaded.try_packet("coming", noise[:12] + kind + noise[14:]).verdict in (
                PASS,
                DROP,
                REDIRECT,
            )
