"""The programs of the mode ebpf, given packets without any link: what they say of each, and what they make of it."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest

from kubenetlab.hoststate import bpf
from kubenetlab.hoststate.bpf import ClusterIp, Front, Programs, Range, Source
from kubenetlab.kernel.bpf import OBJECT
from kubenetlab.kernel.libbpf import LIBRARY, Libbpf, has_library
from kubenetlab.kernel.permissions import is_root
from tests.kernel.frames import (
    ACK,
    FIN,
    ICMP,
    ICMPV6,
    RST,
    SYN,
    TCP,
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

PASS, DROP, REDIRECT = 0, 2, 7
NODE_PORT = 30080
SECOND = 10**9
FORWARDED = struct.pack("=9II", *bytes(9), 1).ljust(192, b"\0")
"""A struct __sk_buff whose ingress_ifindex says that the packet has come by a link; without one it is the node's own."""


class Addresses(NamedTuple):
    """One family's."""

    node: str
    pods: tuple[str, str, str]
    """Two on this node, one on another."""
    outside: str
    cluster_ip: str
    second_ip: str
    balanced: str
    ranges: Range


FAMILIES = {
    4: Addresses(
        "172.18.0.2",
        ("10.244.1.2", "10.244.1.3", "10.244.2.2"),
        "198.51.100.10",
        "10.96.0.7",
        "10.96.0.8",
        "203.0.113.1",
        Range("172.18.0.2", "10.244.0.0/16", "10.96.0.0/16"),
    ),
    6: Addresses(
        "fd00:172:18::2",
        ("fd00:10:244:1::2", "fd00:10:244:1::3", "fd00:10:244:2::2"),
        "2001:db8:51:100::10",
        "fd00:10:96::7",
        "fd00:10:96::8",
        "2001:db8:203::1",
        Range("fd00:172:18::2", "fd00:10:244::/56", "fd00:10:96::/112"),
    ),
}


class Node:
    """The programs of a node, with the Services that it is told of."""

    def __init__(self, addresses: Addresses) -> None:
        if not has_library() or not is_root():
            pytest.skip(f"the programs are loaded by {LIBRARY} (apt-get install libbpf1) as root of the machine")
        self.loaded = Libbpf().load(OBJECT.read_bytes())
        self.ends = addresses
        self.tell(Programs("", (addresses.ranges,), "eth0"))

    def tell(self, *objects: Any) -> None:
        for obj in objects:
            for (name, key), value in obj.entries():
                self.loaded.set(name, key, value)

    def forget(self, *objects: Any) -> None:
        for obj in objects:
            for (name, key), _ in obj.entries():
                self.loaded.delete(name, key)

    def serve(self, everywhere: Sequence[tuple[str, int]], here: Sequence[tuple[str, int]] = (), **options: Any) -> list[Any]:
        """A Service of the given endpoints at its cluster IP, its load balancer's address and its node port."""
        protocol = options.pop("protocol", "TCP")
        service = f"default/web/{protocol}"
        is_local, is_fenced = options.pop("is_local", False), options.pop("is_fenced", False)
        lists = [bpf.endpoints(service, "Cluster", everywhere), bpf.endpoints(service, "Local", here)]
        first, second = ((found.name, len(found.endpoints)) for found in lists)
        any_address = "::" if ":" in self.ends.node else "0.0.0.0"
        fronts = [
            Front("", self.ends.cluster_ip, 80, protocol, service, first, second, **options),
            Front("", self.ends.second_ip, 80, protocol, service, first, second, **options),
            Front(
                "",
                self.ends.balanced,
                80,
                protocol,
                service,
                first,
                second,
                is_outside=True,
                is_local=is_local,
                is_fenced=is_fenced,
                **options,
            ),
            Front("", any_address, NODE_PORT, protocol, service, first, second, is_outside=True, is_local=is_local, **options),
        ]
        told = [*lists, ClusterIp("", self.ends.cluster_ip), *fronts]
        self.tell(*told)
        return told

    def coming(self, packet: Packet) -> tuple[int, Packet]:
        return self._given("coming", packet)

    def going(self, packet: Packet, context: bytes = b"") -> tuple[int, Packet]:
        return self._given("going", packet, context)

    def came(self, packet: Packet) -> Packet:
        """What the stack gets of a packet that comes."""
        verdict, found = self.coming(packet)
        assert verdict == PASS
        return found

    def went(self, packet: Packet) -> Packet:
        """What leaves of a packet that goes."""
        verdict, found = self.going(packet, FORWARDED)
        assert verdict == PASS
        return found

    def _given(self, program: str, packet: Packet, context: bytes = b"") -> tuple[int, Packet]:
        verdict, data = self.loaded.try_packet(program, frame(packet), context)
        return verdict, opened(data)


@pytest.fixture(params=[4, 6], ids=["IPv4", "IPv6"])
def ends(request: pytest.FixtureRequest) -> Addresses:
    return FAMILIES[request.param]


def answer(packet: Packet, flags: int = SYN | ACK) -> Packet:
    """From who got it to who it seems to be from."""
    source, source_port, destination, destination_port = packet.ends
    way = (destination, destination_port), (source, source_port)
    return tcp(*way, flags) if packet.protocol == TCP else udp(*way)


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
    assert node.went(node.came(tcp((ends.pods[0], 40000), (ends.cluster_ip, 80)))).source == ends.node


def test_from_outside_by_the_policy_cluster(ends: Addresses) -> None:
    """Whoever asks at a node port or a load balancer's address is masqueraded towards the endpoint, and only there."""
    node = Node(ends)
    node.serve([(ends.pods[2], 8080)])
    for asker in (ends.outside, ends.pods[0]):
        for number, way in ((50000, (ends.node, NODE_PORT)), (50001, (ends.balanced, 80))):
            came = node.came(tcp((asker, number), way))
            assert came.ends == (asker, number, ends.pods[2], 8080)
            went = node.went(came)
            source, port, *there = went.ends
            assert (source, *there) == (ends.node, ends.pods[2], 8080)
            assert 1024 <= port < 30000
            back = node.came(answer(went))
            assert back.ends == (ends.pods[2], 8080, asker, number)
            assert node.went(back).ends == (*way, asker, number)


def test_from_outside_by_the_policy_local(ends: Addresses) -> None:
    """To an endpoint of this node, and the client is seen itself; pods may go to any. Where there is none: silence."""
    node = Node(ends)
    told = node.serve([(ends.pods[2], 8080), (ends.pods[1], 8080)], [(ends.pods[1], 8080)], is_local=True)
    for port in range(50000, 50020):
        came = node.came(tcp((ends.outside, port), (ends.node, NODE_PORT)))
        assert came.ends == (ends.outside, port, ends.pods[1], 8080)
        assert node.went(came) == came
    found = {node.came(tcp((ends.pods[0], port), (ends.node, NODE_PORT))).destination for port in range(50000, 50040)}
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
    node.tell(Source("", "default/web/TCP", f"{ends.outside.rpartition('.')[0]}.0/24" if "." in ends.outside else "2001:db8:51::/48"))
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


def test_where_nobody_serves_a_client_hears_so(ends: Addresses) -> None:
    """TCP gets a reset for what it sent, UDP and all else an error from the node; also where a Service has no such port. The addresses of the
    Services' range that are nobody's are silent."""
    node = Node(ends)
    for protocol in ("TCP", "UDP"):
        node.serve([], protocol=protocol)
    client = (ends.pods[0], 40000)
    for way in ((ends.cluster_ip, 80), (ends.cluster_ip, 81), (ends.node, NODE_PORT), (ends.balanced, 80)):
        verdict, heard = node.coming(tcp(client, way))
        assert (verdict, heard.ends, heard.flags & RST) == (REDIRECT, (*way, *client), RST)
        assert heard.data[8:12] == (1001).to_bytes(4, "big"), "the number after that of the SYN is acknowledged"
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
    assert (verdict, heard.ends, heard.flags) == (REDIRECT, (ends.cluster_ip, 80, ends.pods[0], 40000), RST)


def test_a_reset_is_not_answered(ends: Addresses) -> None:
    """Or two of a kind would go on for ever."""
    node = Node(ends)
    node.serve([])
    assert node.coming(tcp((ends.pods[0], 40000), (ends.cluster_ip, 81), RST))[0] == DROP
    assert node.going(tcp((ends.pods[0], 40000), (ends.cluster_ip, 80), RST), FORWARDED)[0] == DROP


def test_a_faithful_client_gets_its_endpoint(ends: Addresses) -> None:
    """At all addresses of a Service, until its time is over since its last connection, and as long as the endpoint is there."""
    node = Node(ends)
    endpoints = [(pod, 8080) for pod in ends.pods]
    told = node.serve(endpoints, affinity_s=60)
    ports = iter(range(41000, 60000))

    def drawn(way: tuple[str, int]) -> str:
        return node.came(tcp((ends.outside, next(ports)), way)).destination

    first = drawn((ends.cluster_ip, 80))
    assert {drawn(way) for way in ((ends.cluster_ip, 80), (ends.balanced, 80), (ends.node, NODE_PORT)) for _ in range(10)} == {first}
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
    assert {drawn((ends.cluster_ip, 80)) for _ in range(20)} == {drawn((ends.cluster_ip, 80))} != {last}


def test_all_endpoints_are_drawn(ends: Addresses) -> None:
    """As often one as another."""
    node = Node(ends)
    node.serve([(pod, 8080) for pod in ends.pods])
    found = [node.came(tcp((ends.outside, port), (ends.cluster_ip, 80))).destination for port in range(10000, 10600)]
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
    assert [node.went(answer(packet)).ends for packet in came] == [(*way, pod, 40000) for way in ways]


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
    assert came.ends == (ends.outside, 50000, ends.pods[2], 8080)
    went = each(node.went, came)
    assert went.source == ends.node
    back = udp(went.ends[2:], went.ends[:2], bytes(range(200)) * 5)
    assert each(node.went, each(node.came, back)).ends == (ends.node, NODE_PORT, ends.outside, 50000)


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
            assert node.loaded.try_packet("coming", noise[:12] + kind + noise[14:]).verdict in (PASS, DROP, REDIRECT)
