"""Services behind links between nodes: real packets, by links with and without Ethernet headers."""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any

import pytest

from kubenetlab.hoststate.rules import bpf
from kubenetlab.hoststate.rules.bpf import BpfPrograms, Frontend, OverlayLink
from kubenetlab.kernel.rules.bpf import BpfLoader, open_loader
from tests.kernel.frames import (
    HEADER,
    ICMP,
    ICMPV6,
    RST,
    TCP,
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
from tests.kernel.service_node import FAMILIES, NODE_PORT, Addresses, reply_to
from tests.libbpf import require_libbpf
from tests.patience import patiently

OVERLAY = {4: "10.244.1.0", 6: "fd00:10:244:1::"}
POD_RANGE = {4: "10.244.2.0/24", 6: "fd00:10:244:2::/64"}
GATEWAY = {4: "172.18.0.1", 6: "fd00:172:18::1"}
NODE_PREFIX = {4: 16, 6: 64}
_TUNSETIFF, _IFF_TUN, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 1, 2, 0x1000
FIRST_INFORMATIONAL = 128
"""First ICMPv6 type that is no error."""
_MAC = "0a:58:00:00:00:01"
"""MAC address to which `frame` sends."""


class Link:
    """A link of this namespace whose other end is the test."""

    def __init__(self, name: str, *, is_bare: bool) -> None:
        self.is_bare = is_bare
        self._file = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        flags = (_IFF_TUN if is_bare else _IFF_TAP) | _IFF_NO_PI
        fcntl.ioctl(self._file, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))

    def send(self, packet: Packet) -> None:
        os.write(self._file, frame(packet)[HEADER if self.is_bare else 0 :])

    def receive(self, *protocols: int) -> Packet:
        """Return the next packet of some protocols; by default TCP and UDP.

        The kernel itself sends others, for neighbour discovery.
        """
        while True:
            assert select.select([self._file], [], [], patiently(2))[0], "no packet arrives"
            data = os.read(self._file, 65536)
            if self.is_bare:
                data = bytes(12) + (b"\x86\xdd" if data[0] >> 4 == 6 else b"\x08\x00") + data
            if data[12:14] not in (b"\x86\xdd", b"\x08\x00"):
                continue
            packet = parse_frame(data, is_whole=False)
            is_informational = packet.protocol == ICMPV6 and packet.data[0] >= FIRST_INFORMATIONAL
            if packet.protocol in (protocols or (TCP, UDP)) and not is_informational:
                return parse_frame(data)


class World:
    """A node with an uplink and one overlay link."""

    def __init__(self, addresses: Addresses, loader: BpfLoader, *, is_bare: bool) -> None:
        self.addresses = addresses
        self.version = ip_address(addresses.node).version
        self.own = OVERLAY[self.version]
        self.uplink = Link("eth0", is_bare=False)
        self.overlay = Link("overlay0", is_bare=is_bare)
        self._loader = loader
        length = 32 if self.version == 4 else 128
        for each in ("all", "default"):
            write(f"net/ipv4/conf/{each}/rp_filter", "0")
            write(f"net/ipv4/conf/{each}/accept_local", "1")
        write("net/ipv4/ip_forward", "1")
        write("net/ipv6/conf/all/forwarding", "1")
        ip("link set lo up")
        for link, address in (
            ("eth0", f"{addresses.node}/{NODE_PREFIX[self.version]}"),
            ("overlay0", f"{self.own}/{length}"),
        ):
            if link == "eth0" or not is_bare:
                ip(f"link set {link} address {_MAC}")
            ip(f"link set {link} up")
            ip(f"address add {address} dev {link}{' nodad' * (self.version == 6)}")
        gateway, pods = GATEWAY[self.version], POD_RANGE[self.version]
        ip(f"neighbor add {gateway} lladdr 0a:58:00:00:00:02 dev eth0")
        ip(f"route add default via {gateway} dev eth0")
        ip(f"route add {pods} dev overlay0")
        if not is_bare:
            ip(f"neighbor add {addresses.pods[2]} lladdr 0a:58:00:00:00:02 dev overlay0")

    def serve(self, *endpoints: tuple[str, int], protocol: str = "TCP") -> None:
        service = f"default/web/{protocol}"
        chosen = bpf.endpoints(service, "Cluster", endpoints)
        target = (chosen.name, len(endpoints))
        any_address = "0.0.0.0" if self.version == 4 else "::"
        where = ((self.addresses.cluster_ip, 80, False), (any_address, NODE_PORT, True))
        frontends = [
            Frontend("", address, port, protocol, service, target, is_external=is_external)
            for address, port, is_external in where
        ]
        base: list[Any] = [
            BpfPrograms("", (self.addresses.ranges,), "eth0", 1, int(self.overlay.is_bare)),
            OverlayLink("", 0, "overlay0", (self.own,)),
        ]
        self._loader.run(bpf.replacement([*base, chosen, *frontends]))


def write(name: str, value: str) -> None:
    with open(f"/proc/sys/{name}", "w") as file:
        file.write(value)


def ip(words: str) -> None:
    family = ["-6"] if ":" in words and "lladdr" not in words and "address 0a" not in words else []
    subprocess.run(["ip", *family, *words.split()], check=True)


def masquerade(version: int, protocol: str, port: int) -> None:
    """Masquerade what leaves by the overlay, always with the same port."""
    family = "ip" if version == 4 else "ip6"
    rule = f'oifname "overlay0" meta l4proto {protocol.lower()} masquerade to :{port}'
    chain = f"type nat hook postrouting priority srcnat; {rule};"
    text = f"table {family} test {{ chain postrouting {{ {chain} }}; }}"
    subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)


@contextmanager
def world(version: int, *, is_bare: bool) -> Iterator[World]:
    require_libbpf()
    if not os.path.exists("/dev/net/tun"):
        pytest.skip("the kernel has no TUN devices: modprobe tun")
    loader = open_loader()
    try:
        yield World(FAMILIES[version], loader, is_bare=is_bare)
    finally:
        loader.close()


BOTH = pytest.mark.parametrize("is_bare", [False, True], ids=["Ethernet", "bare"])
VERSIONS = pytest.mark.parametrize("version", [4, 6])


@BOTH
@VERSIONS
@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_clients_outside_are_masqueraded_on_the_overlay(
    version: int, is_bare: bool, protocol: str
) -> None:
    """The endpoint sees the node's address on the link, and the client that of the node port."""
    with world(version, is_bare=is_bare) as node:
        addresses, make = node.addresses, tcp if protocol == "TCP" else udp
        node.serve((addresses.pods[2], 8080), protocol=protocol)
        for port in (40000, 40001):
            node.uplink.send(make((addresses.outside, port), (addresses.node, NODE_PORT)))
            arrived = node.overlay.receive()
            source, _, *target = arrived.four_tuple
            assert (source, target) == (node.own, [addresses.pods[2], 8080])
            node.overlay.send(reply_to(arrived))
            expected = (addresses.node, NODE_PORT, addresses.outside, port)
            assert node.uplink.receive().four_tuple == expected


@BOTH
@VERSIONS
@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_connection_tracking_gives_a_connection_the_port_of_a_flow(
    version: int, is_bare: bool, protocol: str
) -> None:
    """The programs and connection tracking do not know each other's ports: both get their replies.

    CNI plugins masquerade what clients outside send to addresses of pods.
    """
    with world(version, is_bare=is_bare) as node:
        addresses, make = node.addresses, tcp if protocol == "TCP" else udp
        endpoint = (addresses.pods[2], 8080)
        node.serve(endpoint, protocol=protocol)
        node.uplink.send(make((addresses.outside, 40000), (addresses.node, NODE_PORT)))
        translated = node.overlay.receive()
        taken = translated.four_tuple[1]
        masquerade(version, protocol, taken)
        ports = set()
        for _ in range(2):  # the second packet follows the first
            node.uplink.send(make((addresses.outside, 40001), endpoint))
            arrived = node.overlay.receive()
            source, port, *target = arrived.four_tuple
            assert (source, target) == (node.own, list(endpoint))
            assert has_valid_checksum(arrived)
            ports.add(port)
        assert len(ports) == 1
        assert taken not in ports
        node.overlay.send(reply_to(arrived))
        reply = node.uplink.receive()
        assert reply.four_tuple == (*endpoint, addresses.outside, 40001)
        assert has_valid_checksum(reply)
        node.overlay.send(reply_to(translated))
        expected = (addresses.node, NODE_PORT, addresses.outside, 40000)
        assert node.uplink.receive().four_tuple == expected


@BOTH
@VERSIONS
def test_the_node_is_a_client_with_its_address_on_the_overlay(version: int, is_bare: bool) -> None:
    """Replies reach the socket of the node, which has connected to a cluster IP."""
    with world(version, is_bare=is_bare) as node:
        addresses = node.addresses
        node.serve((addresses.pods[2], 8080), protocol="UDP")
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_DGRAM) as client:
            client.settimeout(patiently(2))
            client.connect((addresses.cluster_ip, 80))
            client.send(b"hello")
            arrived = node.overlay.receive()
            source, _, *target = arrived.four_tuple
            assert (source, target) == (node.own, [addresses.pods[2], 8080])
            node.overlay.send(reply_to(arrived))
            assert client.recv(100) == b"hello"


@BOTH
@VERSIONS
def test_fragments_pass_in_both_directions(version: int, is_bare: bool) -> None:
    """Only the first fragment has ports. The node may reassemble and fragment packets."""
    with world(version, is_bare=is_bare) as node:
        addresses = node.addresses
        node.serve((addresses.pods[2], 8080), protocol="UDP")
        request = udp((addresses.outside, 40000), (addresses.node, NODE_PORT), b"x" * 2000)
        for part in fragments(request, 1208):
            node.uplink.send(part)
        arrived = reassemble(node.overlay.receive(), node.overlay.receive())
        source, _, *target = arrived.four_tuple
        assert (source, target, len(arrived.data)) == (node.own, [addresses.pods[2], 8080], 2008)
        source, port, destination, own_port = arrived.four_tuple
        reply = udp((destination, own_port), (source, port), b"y" * 2000)
        for part in fragments(reply, 1208):
            node.overlay.send(part)
        answer = reassemble(node.uplink.receive(), node.uplink.receive())
        assert answer.four_tuple == (addresses.node, NODE_PORT, addresses.outside, 40000)
        assert has_valid_checksum(answer)


@BOTH
def test_packets_are_fragmented_for_the_overlay(*, is_bare: bool) -> None:
    """The first packet of a flow may be larger than the MTU of the link."""
    with world(4, is_bare=is_bare) as node:
        addresses = node.addresses
        node.serve((addresses.pods[2], 8080), protocol="UDP")
        ip("link set overlay0 mtu 1280")
        request = udp((addresses.outside, 40000), (addresses.node, NODE_PORT), b"x" * 1400)
        node.uplink.send(request)
        first, later = node.overlay.receive(), node.overlay.receive()
        assert (first.source, first.destination) == (node.own, addresses.pods[2])
        assert (later.source, later.destination) == (node.own, addresses.pods[2])


@BOTH
@VERSIONS
def test_connections_by_the_overlay_are_refused_by_it(version: int, is_bare: bool) -> None:
    """A Service without endpoints answers a pod of another node with a reset."""
    with world(version, is_bare=is_bare) as node:
        addresses = node.addresses
        node.serve()
        node.overlay.send(tcp((addresses.pods[2], 40000), (addresses.cluster_ip, 80)))
        answer = node.overlay.receive()
        assert answer.four_tuple == (addresses.cluster_ip, 80, addresses.pods[2], 40000)
        assert answer.flags & RST


@BOTH
@VERSIONS
def test_errors_about_packets_on_the_overlay_reach_the_client(version: int, is_bare: bool) -> None:
    """The endpoint's error quotes the masqueraded packet; the client gets its own back."""
    with world(version, is_bare=is_bare) as node:
        addresses = node.addresses
        node.serve((addresses.pods[2], 8080), protocol="UDP")
        request = udp((addresses.outside, 40000), (addresses.node, NODE_PORT))
        node.uplink.send(request)
        arrived = node.overlay.receive()
        node.overlay.send(unreachable(addresses.pods[2], arrived))
        error = node.uplink.receive(ICMP, ICMPV6)
        assert (error.source, error.destination) == (addresses.node, addresses.outside)
        assert error.quoted.four_tuple == request.four_tuple


@BOTH
@VERSIONS
def test_other_packets_on_the_overlay_pass(version: int, is_bare: bool) -> None:
    """A packet between pods of two nodes is forwarded as it is, also when no Service exists."""
    with world(version, is_bare=is_bare) as node:
        addresses = node.addresses
        node.serve()
        ip(f"route add {addresses.pods[0]} dev eth0 via {GATEWAY[version]}")
        packet = tcp((addresses.pods[2], 40000), (addresses.pods[0], 8080))
        node.overlay.send(packet)
        assert node.uplink.receive() == packet
