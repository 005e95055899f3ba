"""The BPF programs of a node without any link: loaded with Services, and run on packets."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from kubenetlab.hoststate.rules import bpf
from kubenetlab.hoststate.rules.bpf import BpfPrograms, ClusterIp, FamilyConfig, Frontend
from kubenetlab.kernel.rules.bpf import OBJECT
from kubenetlab.kernel.rules.libbpf import Libbpf
from tests.kernel.frames import ACK, SYN, TCP, Packet, frame, parse_frame, tcp, udp
from tests.libbpf import require_libbpf

PASS, DROP, REDIRECT = -1, 2, 7
NODE_PORT = 30080
FORWARDED = struct.pack("=9II", *bytes(9), 1).ljust(192, b"\0")
"""struct __sk_buff of a packet that arrived by a link; with ingress_ifindex 0 the node sent it."""


class Addresses(NamedTuple):
    """Addresses of one IP family."""

    node: str
    pods: tuple[str, str, str]
    """Two pods on this node, one on another."""
    outside: str
    cluster_ip: str
    second_ip: str
    load_balancer_ip: str
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
    """The programs of a node, and the Services loaded into their maps."""

    def __init__(self, addresses: Addresses) -> None:
        require_libbpf()
        self.loaded = Libbpf().load(OBJECT.read_bytes())
        self.addresses = addresses
        self.load(BpfPrograms("", (addresses.ranges,), "eth0"))

    def load(self, *objects: Any) -> None:
        for obj in objects:
            for (name, key), value in obj.entries():
                self.loaded.set(name, key, value)

    def unload(self, *objects: Any) -> None:
        for obj in objects:
            for (name, key), _ in obj.entries():
                self.loaded.delete(name, key)

    def serve(
        self,
        everywhere: Sequence[tuple[str, int]],
        local: Sequence[tuple[str, int]] = (),
        **options: Any,
    ) -> list[Any]:
        """Load a Service; return its objects.

        The Service is reachable at two cluster IPs, its load balancer's IP and its node port.

        everywhere: all endpoints, for policy Cluster.
        local: endpoints on this node, for policy Local.
        """
        protocol = options.pop("protocol", "TCP")
        service = f"default/web/{protocol}"
        has_source_ranges = options.pop("has_source_ranges", False)
        outside = {
            "is_external": True,
            "is_local": options.pop("is_local", False),
            "is_direct": options.pop("is_direct", False),
            **options,
        }
        endpoint_lists = [
            bpf.endpoints(service, "Cluster", everywhere),
            bpf.endpoints(service, "Local", local),
        ]
        all_list, local_list = ((listed.name, len(listed.endpoints)) for listed in endpoint_lists)
        any_address = "::" if ":" in self.addresses.node else "0.0.0.0"
        frontends = [
            Frontend(
                "",
                self.addresses.cluster_ip,
                80,
                protocol,
                service,
                all_list,
                local_list,
                **options,
            ),
            Frontend(
                "", self.addresses.second_ip, 80, protocol, service, all_list, local_list, **options
            ),
            Frontend(
                "",
                self.addresses.load_balancer_ip,
                80,
                protocol,
                service,
                all_list,
                local_list,
                has_source_ranges=has_source_ranges,
                **outside,
            ),
            Frontend(
                "", any_address, NODE_PORT, protocol, service, all_list, local_list, **outside
            ),
        ]
        objects = [*endpoint_lists, ClusterIp("", self.addresses.cluster_ip), *frontends]
        self.load(*objects)
        return objects

    def coming(self, packet: Packet) -> tuple[int, Packet]:
        return self._run_program("coming", packet)

    def going(self, packet: Packet, context: bytes = b"") -> tuple[int, Packet]:
        return self._run_program("going", packet, context)

    def receive(self, packet: Packet) -> Packet:
        """Run `coming` on a packet; return what the node's stack receives."""
        verdict, received = self.coming(packet)
        assert verdict == PASS
        return received

    def send(self, packet: Packet) -> Packet:
        """Run `going` on a forwarded packet; return what leaves the node."""
        verdict, sent = self.going(packet, FORWARDED)
        assert verdict == PASS
        return sent

    def _run_program(
        self, program: str, packet: Packet, context: bytes = b""
    ) -> tuple[int, Packet]:
        verdict, data = self.loaded.try_packet(program, frame(packet), context)
        return verdict, parse_frame(data)


def reply_to(packet: Packet, flags: int = SYN | ACK) -> Packet:
    """Return a reply from the receiver of a packet to its apparent sender."""
    source, source_port, destination, destination_port = packet.four_tuple
    addresses = (destination, destination_port), (source, source_port)
    return tcp(*addresses, flags) if packet.protocol == TCP else udp(*addresses)
