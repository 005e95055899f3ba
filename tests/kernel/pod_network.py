"""A node with pods and a host outside, each in a network namespace, and probes between them."""

from __future__ import annotations

import os
import re
import select
import socket
import struct
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import Final, Protocol

from kubenetlab.api.pods import Pod
from kubenetlab.hoststate.rules.cilium import CiliumEndpoint, CiliumPrograms
from kubenetlab.kernel import syscalls
from kubenetlab.kernel.rules.backends import Loader
from kubenetlab.kernel.rules.nftables import LibraryNft, ProgramNft
from kubenetlab.observe.policies.evaluator import Party, Traffic
from tests.patience import patiently
from tests.policies import CLUSTER, NAMES, OUTSIDE, node_rules
from tests.tier_policies import parties_of

FIRST_PORT, LAST_PORT = 20000, 60000
"""Ports of clients."""
TRAFFIC = (
    Traffic("TCP", 9000),
    Traffic("TCP", 80),
    Traffic("UDP", 53),
    Traffic("SCTP", 53),
    Traffic("ICMP"),
)
_INIT: Final = struct.pack("!BBHIIHHI", 1, 0, 20, 1, 65536, 1, 1, 1)
"""First chunk of an SCTP association: type, flags, length, tag, window, streams, sequence."""

LIKE_HOSTS: Final = (
    ("ipv4/icmp_ratelimit", "0"),
    ("ipv6/icmp/ratelimit", "0"),
    ("ipv4/ping_group_range", "0 2147483647"),
)
"""Sysctls of namespaces that answer and send probes."""

Probe = tuple[Party, Party, Traffic]
"""Source, destination, traffic."""


class Network:
    """A node, which is this network namespace, with routes to the pods and to a host outside."""

    def __init__(self) -> None:
        self.home = syscalls.open_namespace("net")
        self.parties: list[tuple[Party, ...]] = []
        self._namespaces: dict[str, int] = {}
        self._sctp: dict[str, socket.socket] = {}
        """Address → raw socket for SCTP packets, which needs no SCTP in the kernel."""
        self._ports = FIRST_PORT
        for path in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            write_setting(path, "1")
        pods = [CLUSTER.get(Pod, *name.split("/")) for name in NAMES]
        hosts = [
            *((pod.full_name, pod.addresses) for pod in pods if pod is not None),
            ("", (OUTSIDE[4], OUTSIDE[6])),
        ]
        for number, (_, addresses) in enumerate(hosts):
            self.add(number, addresses)
        for index in (0, 1):
            self.parties.append(
                tuple(Party(addresses[index], name, name) for name, addresses in hosts)
            )

    def _link(self, number: int, addresses: Sequence[str]) -> tuple[str, str, Sequence[str]]:
        """Return the node's link to a host, the host's MAC address, and the addresses routed."""
        return f"h{number}", f"02:00:00:00:01:{number + 1:02x}", addresses

    def register_node(self, addresses: Iterable[str]) -> None:
        """Add the addresses of the node itself."""
        self._register(self.home, addresses)

    def add(self, number: int, addresses: Sequence[str]) -> None:
        """Add a host."""
        link, mac, routed = self._link(number, addresses)
        syscalls.unshare(syscalls.CLONE_NEWNET)
        for path, value in (*LIKE_HOSTS, ("ipv6/conf/default/accept_dad", "0")):
            write_setting(path, value)
        inside = syscalls.open_namespace("net")
        syscalls.setns(self.home)
        node_mac = f"02:00:00:00:00:{number + 1:02x}"
        run_ip(
            f"link add {link} address {node_mac} type veth"
            f" peer name eth0 address {mac} netns /proc/{os.getpid()}/fd/{inside}",
            f"link set {link} up",
            *(
                command
                for address in routed
                for command in (
                    f"route add {address} dev {link}",
                    f"neighbor add {address} lladdr {mac} dev {link} nud permanent",
                )
            ),
        )
        with syscalls.inside_network(inside, self.home, is_kept=True):
            run_ip(
                "link set lo up",
                "link set eth0 up",
                *(f"address add {address} dev eth0 nodad" for address in addresses),
                "route add 169.254.1.1 dev eth0",
                "route add default via 169.254.1.1",
                "route add default via fe80::1 dev eth0",
                *(
                    f"neighbor add {gateway} lladdr {node_mac} dev eth0 nud permanent"
                    for gateway in ("169.254.1.1", "fe80::1")
                ),
            )
            self._register(inside, addresses)

    def _register(self, namespace: int, addresses: Iterable[str]) -> None:
        """Add the addresses of the current namespace."""
        for address in addresses:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            self._sctp[address] = raw = socket.socket(
                family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_SCTP
            )
            raw.bind((address, 0))
            self._namespaces[address] = namespace

    def _next_port(self) -> int:
        """Return a port that had no connection for a while, of which conntrack has no entry."""
        self._ports = FIRST_PORT if self._ports == LAST_PORT else self._ports + 1
        return self._ports

    def open(self, source: str, destination: str, traffic: Traffic) -> socket.socket:
        """Send the first packet of a connection to a port at which no server listens."""
        family = socket.AF_INET6 if ":" in source else socket.AF_INET
        type_, protocol = {
            "TCP": (socket.SOCK_STREAM, 0),
            "UDP": (socket.SOCK_DGRAM, 0),
            "ICMP": (
                socket.SOCK_DGRAM,
                socket.IPPROTO_ICMPV6 if ":" in source else socket.IPPROTO_ICMP,
            ),
        }[traffic.protocol]
        with syscalls.inside_network(self._namespaces[source], self.home, is_kept=True):
            connection = socket.socket(family, type_ | socket.SOCK_NONBLOCK, protocol)
        connection.bind((source, self._next_port()))
        connection.connect_ex((destination, traffic.port))
        if traffic.protocol == "ICMP":
            connection.send(bytes([128 if ":" in source else 8]) + bytes(7))
        elif traffic.protocol == "UDP":
            connection.send(b"request")
        return connection

    def _send_sctp(self, source: str, destination: str, port: int) -> None:
        """Send the first packet of an association, without a checksum."""
        header = struct.pack("!HHII", self._next_port(), port, 0, 0)
        self._sctp[source].sendto(header + _INIT, (destination, 0))

    def send_through_output(self, source: str, destination: str, port: int) -> None:
        """Send the first UDP packet of a pod's connection from the node, as IPVS does it."""
        number = self._next_port()
        udp = struct.pack("!HHHH", number, port, 8, 0)
        ends = [socket.inet_pton(socket.AF_INET, address) for address in (source, destination)]
        header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28, 0, 0, 64, socket.IPPROTO_UDP, 0, *ends)
        # The kernel reports a dropped packet as an error.
        with (
            socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw,
            suppress(PermissionError),
        ):
            raw.sendto(header + udp, (destination, 0))

    def _received_sctp(self) -> Iterator[tuple[str, str]]:
        """Yield the source and the destination of each SCTP packet that has arrived."""
        for destination, raw in self._sctp.items():
            while True:
                try:
                    yield raw.recvfrom(100)[1][0], destination
                except BlockingIOError:
                    break

    def connections(self, dropped: Drops) -> Iterator[tuple[Party, Party, Traffic, bool]]:
        """Yield source, destination and traffic of each probe, and True if it was answered.

        It ends when the node has forwarded or dropped the packets of all probes.
        """
        before, probes = dropped.read(), list(self._probes())
        by_ends = {(each[0].address, each[1].address, each[2]): each for each in probes}
        by_descriptor: dict[int, Probe] = {}
        with ExitStack() as stack:
            poll = select.epoll()
            stack.callback(poll.close)
            for source, destination, traffic in probes:
                if traffic.protocol == "SCTP":
                    self._send_sctp(source.address, destination.address, traffic.port)
                    continue
                probe = self.open(source.address, destination.address, traffic)
                stack.enter_context(probe)
                poll.register(probe, select.EPOLLIN | select.EPOLLERR)
                by_descriptor[probe.fileno()] = source, destination, traffic
            answered: set[Probe] = set()
            deadline = time.monotonic() + patiently(10)
            while len(answered) + dropped.read() - before < len(probes):
                assert time.monotonic() < deadline, (len(answered), dropped.read(), len(probes))
                for descriptor, _ in poll.poll(0.01):
                    answered.add(by_descriptor[descriptor])
                    poll.unregister(descriptor)
                for ends in self._received_sctp():
                    answered.add(by_ends[*ends, Traffic("SCTP", 53)])
        for each in probes:
            yield *each, each in answered

    def _probes(self) -> Iterator[Probe]:
        for of_version in self.parties:
            for source in of_version:
                for destination in of_version:
                    for traffic in TRAFFIC if source != destination else ():
                        yield source, destination, traffic


class CiliumNetwork(Network):
    """A network with the links of the CNI mode cilium, whose programs forward between pods."""

    def __init__(self, *, has_tunnel: bool = False) -> None:
        self._endpoints = {
            address: obj
            for obj in node_rules("ebpf", CLUSTER)
            if isinstance(obj, CiliumEndpoint)
            for address in obj.addresses
        }
        programs = next(
            obj for obj in node_rules("ebpf", CLUSTER) if isinstance(obj, CiliumPrograms)
        )
        super().__init__()
        ipv4, ipv6 = programs.routers
        run_ip(
            f"link add cilium_host address {programs.mac} type veth peer name cilium_net",
            "link set cilium_host up arp off",
            "link set cilium_net up arp off",
            f"address add {ipv4}/32 dev cilium_host",
            f"address add {ipv6}/128 dev cilium_host nodad",
            f"route add 10.244.1.0/24 via {ipv4} dev cilium_host",
            "route add fd00:10:244:1::/64 dev cilium_host",
            *(["link add cilium_vxlan type vxlan external dstport 8472"] if has_tunnel else ()),
        )

    def _link(self, number: int, addresses: Sequence[str]) -> tuple[str, str, Sequence[str]]:
        endpoint = self._endpoints.get(addresses[0])
        if endpoint is not None:
            return endpoint.link, endpoint.mac, ()
        _, mac, routed = super()._link(number, addresses)
        return ("eth0" if addresses[0] == OUTSIDE[4] else f"h{number}"), mac, routed


def add_nodes(network: Network) -> None:
    """Make the node of the pods and another one hosts, too."""
    network.parties = [tuple(parties_of(version)) for version in (4, 6)]
    own, other = (
        [
            party.address
            for parties in network.parties
            for party in parties
            if not party.pod and party.node == name
        ]
        for name in ("worker", "worker2")
    )
    for path, value in LIKE_HOSTS:
        write_setting(path, value)
    network.add(len(network.parties[0]), other)
    run_ip("link set lo up", *(f"address replace {address} dev lo nodad" for address in own))
    network.register_node(own)


class Drops(Protocol):
    """Counters of the packets that the rules have dropped."""

    def read(self) -> int:
        """Return the number of packets."""


class NftDrops:
    """Counters in rules of nftables or iptables."""

    def __init__(self, loader: LibraryNft | ProgramNft) -> None:
        self._loader = loader

    def read(self) -> int:
        text = self._loader.run("list ruleset")
        return sum(map(int, _DROPPED.findall(text)))


class CiliumDrops:
    """Counters of the programs of cilium."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def read(self) -> int:
        return sum(map(int, _DROPPED_BY_PROGRAMS.findall(self._loader.text())))


_DROPPED: Final = re.compile(
    r'counter packets (\d+) bytes \d+ (?:log prefix "[^"]*" group \d+ )?drop'
)
"""Rules that drop packets, some of which log them before."""


_DROPPED_BY_PROGRAMS: Final = re.compile(r"^cilium_drops (\d+) packets", re.MULTILINE)


def run_ip(*commands: str) -> None:
    subprocess.run(["ip", "-batch", "-"], input="\n".join(commands), text=True, check=True)


def write_setting(path: str, value: str) -> None:
    with open(f"/proc/sys/net/{path}", "w", encoding="ascii") as file:
        file.write(value)
