"""Probes in bulk, from sockets in a namespace: answers, refusals and silence by nftables rules."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Literal

import pytest

from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.diff import diff
from kubenetlab.hoststate.links.existing import LinkUp
from kubenetlab.hoststate.links.veth import Veth, VethPeer
from kubenetlab.hoststate.sandbox import Sandbox, Sysctl
from kubenetlab.hoststate.state import HostState, contents_of
from kubenetlab.kernel.linux import LinuxKernel
from kubenetlab.kernel.syscalls import inside_network, open_namespace
from kubenetlab.observe import prober
from kubenetlab.observe.probe_sockets import source_ports
from kubenetlab.observe.prober import ProbeRequest, run
from kubenetlab.observe.targets.locations import Location
from tests.patience import patiently

Protocol = Literal["ICMP", "TCP", "UDP", "SCTP"]
OPEN, CLOSED, REJECTED, RESET, DROPPED = 7000, 7001, 7002, 7003, 7004
"""Destination ports: with a server, without one, and with a rule of nftables."""
FAMILIES = {"IPv4": ("10.0.0.1", "10.0.0.2", 24), "IPv6": ("fd00::1", "fd00::2", 64)}
BACKLOG = 1024
RULES = f"""
table inet probes {{
    chain input {{
        type filter hook input priority 0;
        tcp dport {REJECTED} reject with icmpx type admin-prohibited
        udp dport {REJECTED} reject with icmpx type port-unreachable
        tcp dport {RESET} reject with tcp reset
        tcp dport {DROPPED} drop
        udp dport {DROPPED} drop
    }}
}}
"""
"""Outcomes are those that kube-proxy and policy engines cause."""


SERVED_S = patiently(20)


class Pair:
    """Namespaces `client` and `server`, connected by a veth pair, with rules in the second one."""

    def __init__(self, linux: LinuxKernel, family: str) -> None:
        client, self.address, length = FAMILIES[family]
        contents = {
            "server": [
                Sandbox("server", "server"),
                LinkUp("server", "lo"),
                # By default, a host sends one client six ICMP errors and then one a second.
                Sysctl("server", "net/ipv4/icmp_ratelimit", "0"),
                Sysctl("server", "net/ipv6/icmp/ratelimit", "0"),
                VethPeer("server", "eth0", "0a:58:00:00:00:02"),
                Address("server", "eth0", f"{self.address}/{length}"),
            ],
            "client": [
                Sandbox("client", "client"),
                LinkUp("client", "lo"),
                Sysctl("client", "net/ipv4/ping_group_range", "0\t2147483647"),
                Veth("client", "eth0", "0a:58:00:00:00:01", "server", "eth0"),
                Address("client", "eth0", f"{client}/{length}"),
            ],
        }
        state = HostState({name: contents_of(objects) for name, objects in contents.items()})
        linux.apply(diff(HostState(), state)).raise_failures()
        paths = {name: f"/proc/{linux.sandboxes.pids[name]}/ns/net" for name in contents}
        self.server = paths["server"]
        """Path of the namespace with the rules."""
        self.client = Location("pod", "default", "client", "client", paths["client"], (client,))
        self._family = socket.AF_INET6 if ":" in client else socket.AF_INET
        self.clients: list[int] = []
        """Source port of each datagram that the server has received."""
        home = open_namespace("net")
        fd = os.open(paths["server"], os.O_RDONLY | os.O_CLOEXEC)
        with inside_network(fd, home):
            subprocess.run(["nft", "-f", "-"], input=RULES, text=True, check=True)
            self._streams = socket.create_server(
                ("", OPEN), family=self._family, backlog=BACKLOG, reuse_port=False
            )
            self._datagrams = socket.socket(self._family, socket.SOCK_DGRAM)
            self._datagrams.bind(("", OPEN))
        os.close(home)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            data, (address, port, *_) = self._datagrams.recvfrom(64)
            self.clients.append(port)
            self._datagrams.sendto(data, (address, port))

    def probe(
        self, protocol: Protocol, port: int = 0, *, expects_answer: bool = True
    ) -> ProbeRequest:
        return ProbeRequest(self.client, protocol, self.address, port, expects_answer)


MIXED: list[tuple[Protocol, int, str]] = [
    ("TCP", OPEN, "answer"),
    ("TCP", CLOSED, "refused"),
    ("TCP", REJECTED, "unreachable"),
    ("TCP", RESET, "refused"),
    ("TCP", DROPPED, "silence"),
    ("UDP", OPEN, "answer"),
    ("UDP", CLOSED, "refused"),
    ("UDP", REJECTED, "refused"),
    ("UDP", DROPPED, "silence"),
    ("ICMP", 0, "answer"),
]
"""Protocol, port, and the outcome of a probe."""


@pytest.mark.parametrize("capacity", [16_384, 7])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_probe_gets_its_own_outcome(
    kernel: Callable[[], LinuxKernel],
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    capacity: int,
) -> None:
    """Probes of all protocols are under way together, also with fewer sockets than probes."""
    monkeypatch.setattr(prober, "MAX_OPEN", capacity)
    pair = Pair(kernel(), family)
    repeated = MIXED * 5
    results = run(
        [
            pair.probe(protocol, port, expects_answer=outcome == "answer")
            for protocol, port, outcome in repeated
        ],
        deadline_s=SERVED_S,
    )
    found = [
        (protocol, port, result.outcome)
        for (protocol, port, _), result in zip(repeated, results, strict=True)
    ]
    assert found == repeated
    assert all(result.ms > 0 for result in results if result.outcome == "answer")


def test_denials_are_waited_for_together(kernel: Callable[[], LinuxKernel]) -> None:
    """Thousands of dropped probes take one deadline, whether or not an answer was expected."""
    pair = Pair(kernel(), "IPv4")
    for expects_answer, deadline_s in ((True, 0.5), (False, 60.0)):
        dropped = [pair.probe("TCP", DROPPED, expects_answer=expects_answer)] * 3000
        started = time.monotonic()
        results = run([*dropped, *[pair.probe("TCP", OPEN)] * 100], deadline_s=deadline_s)
        took_s = time.monotonic() - started
        assert {result.outcome for result in results[:3000]} == {"silence"}
        assert {result.outcome for result in results[3000:]} == {"answer"}
        assert took_s < patiently(5)


def test_an_expected_answer_may_take_the_whole_deadline(
    kernel: Callable[[], LinuxKernel],
) -> None:
    """A probe that expects none ends earlier, unless an older one still waits for its answer."""
    pair = Pair(kernel(), "IPv4")
    silent = pair.probe("UDP", DROPPED)
    unexpected = pair.probe("UDP", DROPPED, expects_answer=False)
    for probes, least_s, most_s in (
        ([silent], 0.8, SERVED_S),
        ([unexpected], 0.2, 0.8),
        ([silent, unexpected], 0.8, SERVED_S),
    ):
        started = time.monotonic()
        run(probes, deadline_s=0.8)
        assert least_s <= time.monotonic() - started < most_s


def test_source_ports_differ(kernel: Callable[[], LinuxKernel]) -> None:
    """A probe of a second run is a new flow, because the kernel remembers that of the first."""
    pair = Pair(kernel(), "IPv4")
    probes = [pair.probe("UDP", OPEN)] * 50
    runs = []
    for _ in range(2):
        former = next(source_ports(0))
        runs.append(run(probes, deadline_s=SERVED_S))
        while next(source_ports(0)) == former:  # some milliseconds, as between two commands
            pass
    assert {result.outcome for results in runs for result in results} == {"answer"}
    first, second = pair.clients[:50], pair.clients[50:]
    assert len(set(first)) == len(set(second)) == len(probes)
    assert all(port != former for port, former in zip(second, first, strict=True))


def test_ports_in_use_are_passed_over(kernel: Callable[[], LinuxKernel]) -> None:
    """A program of the pod may use any port."""
    pair = Pair(kernel(), "IPv4")
    home = open_namespace("net")
    with inside_network(os.open(pair.client.netns_path, os.O_RDONLY), home):
        ports = source_ports(0)
        taken = [socket.create_server(("", next(ports))) for _ in range(500)]
    os.close(home)
    (result,) = run([pair.probe("TCP", OPEN)], deadline_s=SERVED_S)
    assert result.outcome == "answer"
    for listener in taken:
        listener.close()
