"""A node's programs of the mode ebpf without any link: told of Services, and given packets."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest

from kubenetlab.hoststate.rules import bpf
from kubenetlab.hoststate.rules.bpf import BpfPrograms, ClusterIp, FamilyConfig, Frontend
from kubenetlab.kernel.processes.permissions import is_root
from kubenetlab.kernel.rules.bpf import OBJECT
from kubenetlab.kernel.rules.libbpf import LIBRARY, Libbpf, has_library
from tests.kernel.frames import ACK, SYN, TCP, Packet, frame, opened, tcp, udp

PASS, DROP, REDIRECT = 0, 2, 7
NODE_PORT = 30080
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
    ranges: FamilyConfig


FAMILIES = {
    4: Addresses(
        "172.18.0.2",
        ("10.244.1.2", "10.244.1.3", "10.244.2.2"),
        "198.51.100.10",
        "10.96.0.7",
        "10.96.0.8",
        "203.0.113.1",
        FamilyConfig(
            "172.18.0.2",
            "10.244.0.0/16",
            "10.96.0.0/16",
            ("172.18.0.2", "10.244.1.1"),
            "10.244.0.0/16",
        ),
    ),
    6: Addresses(
        "fd00:172:18::2",
        ("fd00:10:244:1::2", "fd00:10:244:1::3", "fd00:10:244:2::2"),
        "2001:db8:51:100::10",
        "fd00:10:96::7",
        "fd00:10:96::8",
        "2001:db8:203::1",
        FamilyConfig(
            "fd00:172:18::2",
            "fd00:10:244::/56",
            "fd00:10:96::/112",
            ("fd00:172:18::2", "fd00:10:244:1::1"),
            "fd00:10:244::/56",
        ),
    ),
}


class Node:
    """The programs of a node, with the Services that it is told of."""

    def __init__(self, addresses: Addresses) -> None:
        if not has_library() or not is_root():
            pytest.skip(
                f"the programs are loaded by {LIBRARY} (apt-get install libbpf1) as root of the machine"
            )
        self.loaded = Libbpf().load(OBJECT.read_bytes())
        self.ends = addresses
        self.tell(BpfPrograms("", (addresses.ranges,), "eth0"))

    def tell(self, *objects: Any) -> None:
        for obj in objects:
            for (name, key), value in obj.entries():
                self.loaded.set(name, key, value)

    def forget(self, *objects: Any) -> None:
        for obj in objects:
            for (name, key), _ in obj.entries():
                self.loaded.delete(name, key)

    def serve(
        self,
        everywhere: Sequence[tuple[str, int]],
        here: Sequence[tuple[str, int]] = (),
        **options: Any,
    ) -> list[Any]:
        """A Service of the given endpoints at its cluster IP, its load balancer's address and its node port."""
        protocol = options.pop("protocol", "TCP")
        service = f"default/web/{protocol}"
        is_fenced = options.pop("is_fenced", False)
        outside = {
            "is_outside": True,
            "is_local": options.pop("is_local", False),
            "is_direct": options.pop("is_direct", False),
            **options,
        }
        lists = [
            bpf.endpoints(service, "Cluster", everywhere),
            bpf.endpoints(service, "Local", here),
        ]
        first, second = ((found.name, len(found.endpoints)) for found in lists)
        any_address = "::" if ":" in self.ends.node else "0.0.0.0"
        fronts = [
            Frontend("", self.ends.cluster_ip, 80, protocol, service, first, second, **options),
            Frontend("", self.ends.second_ip, 80, protocol, service, first, second, **options),
            Frontend(
                "",
                self.ends.balanced,
                80,
                protocol,
                service,
                first,
                second,
                is_fenced=is_fenced,
                **outside,
            ),
            Frontend("", any_address, NODE_PORT, protocol, service, first, second, **outside),
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


def answer(packet: Packet, flags: int = SYN | ACK) -> Packet:
    """From who got it to who it seems to be from."""
    source, source_port, destination, destination_port = packet.ends
    way = (destination, destination_port), (source, source_port)
    return tcp(*way, flags) if packet.protocol == TCP else udp(*way)
