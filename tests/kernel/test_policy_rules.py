"""Rules of the policy engine nftables: each connection has the verdict of the evaluator."""

from __future__ import annotations

import os
import re
import select
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubenetlab.api.json_types import JsonObject
from kubenetlab.api.pods import Pod
from kubenetlab.api.policies.network_policy import NetworkPolicy
from kubenetlab.api.store import Cluster
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.datapath.policy import nftables as engine
from kubenetlab.datapath.policy.members import members, policy_pods
from kubenetlab.datapath.policy.rules import isolating
from kubenetlab.hoststate.object import Key
from kubenetlab.hoststate.rules import nftables as nftables_rules
from kubenetlab.hoststate.rules.nftables import NftObject
from kubenetlab.hoststate.rules.nftables.transactions import transaction_text
from kubenetlab.kernel import syscalls
from kubenetlab.kernel.rules.nftables import LibraryNft, ProgramNft
from kubenetlab.observe.policies.evaluator import Evaluator, Party, Traffic
from tests.examples import examples
from tests.kernel.test_nft_messages import Side, load_both
from tests.kernel.test_nftables import open_loader
from tests.patience import patiently
from tests.policies import CLUSTER, NAMES, OUTSIDE, POLICIES, with_policies

FIRST_PORT, LAST_PORT = 20000, 60000
"""Ports of clients."""
TRAFFIC = (Traffic("TCP", 9000), Traffic("TCP", 80), Traffic("UDP", 53), Traffic("ICMP"))


def desired_rules(cluster: Cluster) -> list[NftObject]:
    """Return the rules of a node on which all pods are."""
    cache = PlanCache()
    pods = policy_pods(cluster, cache)
    policies = [entry for policy in cluster.all(NetworkPolicy) for entry in isolating(policy)]
    groups = dict.fromkeys(
        group for policy in policies for rule in policy.rules for group in rule.groups
    )
    names = dict.fromkeys(
        name for policy in policies for rule in policy.rules for name in rule.port_names
    )
    result: dict[Key, NftObject] = {}
    for version in (4, 6):
        table = engine.FamilyTable.of(version)
        subjects = [
            *(
                engine.group_rules(table, group, (*members(cache, cluster, pods, group).values(),))
                for group in groups
            ),
            *(engine.port_rules(table, name, (*pods.values(),)) for name in names),
            *(engine.policy_rules(table, policy) for policy in policies),
        ]
        objects: list[NftObject] = [
            *engine.base(table),
            *(obj for subject in subjects for obj in subject.objects),
            *(
                obj
                for pod in pods.values()
                for isolation in [
                    engine.isolation_rules(
                        table,
                        pod,
                        [
                            policy
                            for policy in policies
                            if pod in members(cache, cluster, pods, policy.subjects).values()
                        ],
                    )
                ]
                for obj in (*isolation.shared, *isolation.objects)
            ),
        ]
        result |= {obj.key: obj for obj in objects}
    return list(result.values())


class Network:
    """A node, which is this network namespace, with routes to the pods and to a host outside."""

    def __init__(self) -> None:
        self.home = syscalls.open_namespace("net")
        self.parties: list[tuple[Party, ...]] = []
        self._namespaces: dict[str, int] = {}
        self._ports = FIRST_PORT
        for path in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            _set(path, "1")
        pods = [CLUSTER.get(Pod, *name.split("/")) for name in NAMES]
        hosts = [
            *((pod.full_name, pod.addresses) for pod in pods if pod is not None),
            ("", (OUTSIDE[4], OUTSIDE[6])),
        ]
        for number, (_, addresses) in enumerate(hosts):
            self._add(number, addresses)
        for index in (0, 1):
            self.parties.append(
                tuple(Party(addresses[index], name, name) for name, addresses in hosts)
            )

    def _add(self, number: int, addresses: Sequence[str]) -> None:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        for path, value in (
            ("ipv4/icmp_ratelimit", "0"),
            ("ipv6/icmp/ratelimit", "0"),
            ("ipv4/ping_group_range", "0 2147483647"),
            ("ipv6/conf/default/accept_dad", "0"),
        ):
            _set(path, value)
        inside = syscalls.open_namespace("net")
        syscalls.setns(self.home)
        node_mac, mac = f"02:00:00:00:00:{number + 1:02x}", f"02:00:00:00:01:{number + 1:02x}"
        link = f"h{number}"
        _ip(
            f"link add {link} address {node_mac} type veth"
            f" peer name eth0 address {mac} netns /proc/{os.getpid()}/fd/{inside}",
            f"link set {link} up",
            *(
                command
                for address in addresses
                for command in (
                    f"route add {address} dev {link}",
                    f"neighbor add {address} lladdr {mac} dev {link} nud permanent",
                )
            ),
        )
        with syscalls.inside_network(inside, self.home, is_kept=True):
            _ip(
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
        for address in addresses:
            self._namespaces[address] = inside

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
        # Every connection has another port for a while, so no entry of conntrack is found again.
        self._ports = FIRST_PORT if self._ports == LAST_PORT else self._ports + 1
        connection.bind((source, self._ports))
        connection.connect_ex((destination, traffic.port))
        if traffic.protocol == "ICMP":
            connection.send(bytes([128 if ":" in source else 8]) + bytes(7))
        elif traffic.protocol == "UDP":
            connection.send(b"request")
        return connection

    def connections(self, dropped: Drops) -> Iterator[tuple[Party, Party, Traffic, bool]]:
        """Yield source, destination and traffic of each probe, and True if it was answered.

        It ends when the node has forwarded or dropped the packets of all probes.
        """
        poll, before = select.epoll(), dropped.read()
        probes: dict[int, tuple[Party, Party, Traffic, socket.socket]] = {}
        with ExitStack() as stack:
            stack.callback(poll.close)
            for of_version in self.parties:
                for source in of_version:
                    for destination in of_version:
                        for traffic in TRAFFIC if source != destination else ():
                            probe = self.open(source.address, destination.address, traffic)
                            stack.enter_context(probe)
                            poll.register(probe, select.EPOLLIN | select.EPOLLERR)
                            probes[probe.fileno()] = source, destination, traffic, probe
            answered: set[int] = set()
            deadline = time.monotonic() + patiently(10)
            while len(answered) + dropped.read() - before < len(probes):
                assert time.monotonic() < deadline, (len(answered), dropped.read(), len(probes))
                for descriptor, _ in poll.poll(0.01):
                    answered.add(descriptor)
                    poll.unregister(descriptor)
            for descriptor, (source, destination, traffic, _) in probes.items():
                yield source, destination, traffic, descriptor in answered


class Drops:
    """Number of packets that the rules have dropped."""

    def __init__(self, loader: LibraryNft | ProgramNft) -> None:
        self._loader = loader

    def read(self) -> int:
        text = self._loader.run("list ruleset")
        return sum(map(int, re.findall(r"counter packets (\d+)", text)))


def _ip(*commands: str) -> None:
    subprocess.run(["ip", "-batch", "-"], input="\n".join(commands), text=True, check=True)


def _set(path: str, value: str) -> None:
    with open(f"/proc/sys/net/{path}", "w", encoding="ascii") as file:
        file.write(value)


def test_connections_have_the_verdicts_of_the_evaluator() -> None:
    """Random policies replace each other; packets of all pods and of a host outside, IPv4 and IPv6.

    Each example is one transaction on top of the previous one.
    """
    network, loader = Network(), open_loader("library")
    loaded: list[NftObject] = []

    @settings(max_examples=max(30, examples(100)), deadline=None)
    @given(policies=st.lists(POLICIES, max_size=6))
    def check(policies: list[JsonObject]) -> None:
        nonlocal loaded
        cluster = with_policies(policies)
        desired = desired_rules(cluster)
        if commands := nftables_rules.transaction(loaded, desired):
            loader.run(transaction_text(commands))
        loaded = desired
        evaluator = Evaluator(cluster)
        for source, destination, traffic, is_answered in network.connections(Drops(loader)):
            verdict = evaluator.verdict(source, destination, traffic)
            assert is_answered == verdict.is_allowed, (source, destination, traffic, verdict)

    check()
    loader.close()


@pytest.mark.first_kernel
def test_messages_and_commands_give_identical_kernel_state() -> None:
    by_library, by_messages = Side(), Side()
    loaded: list[NftObject] = []

    @settings(max_examples=examples(50), deadline=None)
    @given(policies=st.lists(POLICIES, max_size=3))
    def check(policies: list[JsonObject]) -> None:
        nonlocal loaded
        desired = desired_rules(with_policies(policies))
        if commands := nftables_rules.transaction(loaded, desired):
            load_both(commands, by_library, by_messages)
            assert by_messages.has(desired) == by_library.has(desired)
        loaded = desired

    check()
