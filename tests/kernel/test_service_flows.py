"""What the programs of the mode ebpf tell apart, and what follows a flow that is known: fragments, and errors about its packets."""

from __future__ import annotations

from typing import Any

import pytest

from tests.kernel.frames import (
    ACK,
    FIN,
    Packet,
    fragments,
    is_sound,
    tcp,
    together,
    udp,
    unreachable,
)
from tests.kernel.service_node import NODE_PORT, Addresses, Node, answer


def test_flows_to_one_endpoint_are_told_apart(ends: Addresses) -> None:
    """From one port by two addresses of a Service, and without any: each answer gets the address that was asked."""
    node = Node(ends)
    pod, _, far = ends.pods
    node.serve([(far, 8080)])
    ways = [(ends.cluster_ip, 80), (ends.second_ip, 80), (far, 8080)]
    came = [node.came(tcp((pod, 40000), way)) for way in ways]
    assert [packet.ends[2:] for packet in came] == [(far, 8080)] * 3
    assert {packet.source for packet in came} == {pod}
    assert len({packet.ports[0] for packet in came}) == 3
    assert [node.went(answer(packet)).ends for packet in came] == [
        (*way, pod, 40000) for way in ways
    ]


def test_the_port_of_a_connection_that_has_ended_is_free_for_others(ends: Addresses) -> None:
    """Who then goes to the endpoint without a Service is left alone."""
    node = Node(ends)
    pod, _, far = ends.pods
    node.serve([(far, 8080)])
    node.came(tcp((pod, 40000), (ends.cluster_ip, 80)))
    node.came(tcp((pod, 40000), (ends.cluster_ip, 80), FIN | ACK))
    direct = tcp((pod, 40000), (far, 8080))
    assert node.came(direct) == direct
    assert node.went(answer(direct)) == answer(direct)


@pytest.mark.parametrize("way", ["balanced", "node", "cluster_ip"])
def test_from_its_own_port_a_client_may_ask_an_endpoint_as_well(ends: Addresses, way: str) -> None:
    """At the same time, before or after it has asked the Service: who goes there directly is seen itself, masqueraded or not on the other way."""
    node = Node(ends)
    pod, _, far = ends.pods
    node.serve([(far, 8080)])
    there = (getattr(ends, way), NODE_PORT if way == "node" else 80)
    direct = tcp((pod, 41000), (far, 8080))
    assert node.went(node.came(direct)) == direct
    node.went(node.came(tcp((pod, 41000), there)))
    if way != "cluster_ip":  # that flow has the client's own port
        assert node.went(node.came(direct)) == direct
    node.came(tcp((pod, 41000), there, FIN | ACK))
    assert node.went(node.came(direct)) == direct
    assert node.went(answer(direct)) == answer(direct)
    by_second = node.went(node.came(tcp((pod, 41000), (ends.second_ip, 80))))
    assert by_second.source == pod


def test_nothing_is_left_of_a_flow_whose_service_has_had_nobody(ends: Addresses) -> None:
    """UDP from one port, while the only endpoint goes and comes again: the answers are the Service's, as before."""
    node = Node(ends)
    pod, _, far = ends.pods
    for asker, way in (
        (pod, (ends.cluster_ip, 80)),
        (ends.outside, (ends.node, NODE_PORT)),
        (pod, (ends.balanced, 80)),
    ):
        asked = udp((asker, 41000), way)
        for _ in range(2):
            node.serve([(far, 8080)], protocol="UDP")
            went = node.went(node.came(asked))
            back = answer(went)
            assert node.went(node.came(back) if went.source == ends.node else back).ends == (
                *way,
                asker,
                41000,
            )
            node.serve([], protocol="UDP")
            node.coming(asked)


def test_later_fragments_follow_the_first(ends: Addresses) -> None:
    """To the endpoint, masqueraded, and back; the datagram is whole at either end."""
    node = Node(ends)
    node.serve([(ends.pods[2], 8080)], protocol="UDP")

    def each(do: Any, whole: Packet) -> Packet:
        first, later = (do(piece) for piece in fragments(whole, 408))
        made = together(first, later)
        assert is_sound(made)
        return made

    asked = udp((ends.outside, 50000), (ends.node, NODE_PORT), bytes(range(200)) * 4)
    came = each(node.came, asked)
    assert (came.source, came.ends[2:]) == (ends.outside, (ends.pods[2], 8080))
    went = each(node.went, came)
    assert went.source == ends.node
    back = udp(went.ends[2:], went.ends[:2], bytes(range(200)) * 5)
    assert each(node.went, each(node.came, back)).ends == (
        ends.node,
        NODE_PORT,
        ends.outside,
        50000,
    )


def test_errors_come_back_translated(ends: Addresses) -> None:
    """Whoever along the way says it, the client hears of the packet that it sent itself."""
    node = Node(ends)
    router = ends.outside[:-1] + "1" if "." in ends.outside else "2001:db8:51:100::1"
    node.serve([(ends.pods[2], 8080)], protocol="UDP")
    asked = udp((ends.outside, 50000), (ends.node, NODE_PORT))
    went = node.went(node.came(asked))
    for who, seen in ((ends.pods[2], ends.node), (router, router)):
        heard = node.went(node.came(unreachable(who, went)))
        assert (heard.source, heard.destination) == (seen, ends.outside)
        assert heard.quoted.ends == asked.ends


def test_errors_of_the_client_reach_the_endpoint(ends: Addresses) -> None:
    """About an answer that nobody waits for any more."""
    node = Node(ends)
    node.serve([(ends.pods[2], 8080)], protocol="UDP")
    went = node.went(node.came(udp((ends.outside, 50000), (ends.node, NODE_PORT))))
    answered = answer(went)
    heard = node.went(node.came(unreachable(ends.outside, node.went(node.came(answered)))))
    assert (heard.source, heard.destination) == (ends.node, ends.pods[2])
    assert heard.quoted.ends == answered.ends
