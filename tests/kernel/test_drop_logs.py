"""Probes that end when the log of a node tells that a policy has dropped their packets."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager

import pytest
from msgspec import structs

from kubenetlab.kernel.linux import LinuxKernel
from kubenetlab.kernel.netlink.packet_log import PacketLog
from kubenetlab.kernel.syscalls import inside_network, open_namespace
from kubenetlab.names import POLICY_LOG_GROUP
from kubenetlab.observe.prober import ProbeRequest, Result, run
from tests.kernel.test_probes import FAMILIES, OPEN, SERVED_S, Pair, Protocol
from tests.patience import patiently

LOGGED, TRANSLATED, SLOW = 7100, 7101, 7102
"""Destination ports: with a rule that logs and drops, one that leads there, and a slow server."""
RULES = f"""
table inet policies {{
    chain translate {{
        type nat hook prerouting priority -100;
        tcp dport {TRANSLATED} redirect to :{LOGGED}
        udp dport {TRANSLATED} redirect to :{LOGGED}
    }}
    chain input {{
        type filter hook input priority 0;
        tcp dport {LOGGED} counter log prefix "denied" group {POLICY_LOG_GROUP} drop
        udp dport {LOGGED} counter log prefix "denied" group {POLICY_LOG_GROUP} drop
    }}
}}
"""
NO_PINGS = f"""
table inet pings {{
    chain input {{
        type filter hook input priority 0;
        icmp type echo-request log group {POLICY_LOG_GROUP} drop
        icmpv6 type echo-request log group {POLICY_LOG_GROUP} drop
    }}
}}
"""
LONG_S = patiently(60)
"""Deadline that no test reaches."""
SHORT_S = 0.4
"""Deadline that tests wait for."""


@contextmanager
def inside(path: str) -> Iterator[None]:
    home = open_namespace("net")
    try:
        with inside_network(os.open(path, os.O_RDONLY | os.O_CLOEXEC), home):
            yield
    finally:
        os.close(home)


def load(pair: Pair, rules: str) -> None:
    with inside(pair.server):
        subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)


def denying(linux: LinuxKernel, family: str) -> Pair:
    pair = Pair(linux, family)
    load(pair, RULES)
    return pair


both_families = pytest.mark.parametrize("family", FAMILIES)


def timed(
    pair: Pair, probes: Sequence[ProbeRequest], deadline_s: float
) -> tuple[list[Result], float]:
    """Return the results of probes and the time that they took in seconds."""
    started = time.monotonic()
    results = run(probes, deadline_s=deadline_s, nodes=[pair.server])
    return results, time.monotonic() - started


@both_families
def test_dropped_probes_end_at_once(kernel: Callable[[], LinuxKernel], family: str) -> None:
    """Whether or not an answer was expected; the others get their answers."""
    pair = denying(kernel(), family)
    many: list[tuple[Protocol, int]] = [("TCP", LOGGED), ("UDP", LOGGED), ("TCP", TRANSLATED)] * 500
    for expects_answer in (True, False):
        probes = [
            *(pair.probe(*each, expects_answer=expects_answer) for each in many),
            *[pair.probe("TCP", OPEN)] * 100,
        ]
        results, took_s = timed(pair, probes, LONG_S)
        assert {result.outcome for result in results[: len(many)]} == {"silence"}
        assert {result.outcome for result in results[len(many) :]} == {"answer"}
        assert took_s < LONG_S / 2


@both_families
def test_dropped_pings_end_at_once(kernel: Callable[[], LinuxKernel], family: str) -> None:
    """Each ping is found by its identifier and its sequence number."""
    pair = denying(kernel(), family)
    load(pair, NO_PINGS)
    results, took_s = timed(pair, [pair.probe("ICMP")] * 50, LONG_S)
    assert {result.outcome for result in results} == {"silence"}
    assert took_s < LONG_S / 2


@pytest.mark.parametrize("port", [LOGGED, TRANSLATED])
@both_families
def test_translated_packets_of_nodes_are_waited_for(
    kernel: Callable[[], LinuxKernel], family: str, port: int
) -> None:
    """They may be those of a pod, which the node has given its address."""
    pair = denying(kernel(), family)
    node = structs.replace(pair.client, kind="node")
    probe = structs.replace(pair.probe("TCP", port), source=node)
    (result,), took_s = timed(pair, [probe], SHORT_S)
    assert result.outcome == "silence"
    assert (took_s >= SHORT_S) == (port == TRANSLATED)


@both_families
def test_a_slow_answer_is_an_answer(kernel: Callable[[], LinuxKernel], family: str) -> None:
    """Denied probes beside it end first."""
    pair = denying(kernel(), family)
    with inside(pair.server):
        version = socket.AF_INET6 if ":" in pair.address else socket.AF_INET
        server = socket.socket(version, socket.SOCK_DGRAM)
        server.bind(("", SLOW))

    def answer_late() -> None:
        threading.Timer(SHORT_S, server.sendto, server.recvfrom(64)).start()

    threading.Thread(target=answer_late, daemon=True).start()
    results, took_s = timed(pair, [pair.probe("UDP", SLOW), pair.probe("UDP", LOGGED)], SERVED_S)
    server.close()
    assert [result.outcome for result in results] == ["answer", "silence"]
    assert took_s >= SHORT_S


@both_families
def test_a_log_that_another_process_reads_is_not_needed(
    kernel: Callable[[], LinuxKernel], family: str
) -> None:
    """Probes wait then; so they do for a node that has gone."""
    pair = denying(kernel(), family)
    with inside(pair.server):
        log = PacketLog(POLICY_LOG_GROUP)
    with closing(log):
        (result,), took_s = timed(pair, [pair.probe("TCP", LOGGED)], SHORT_S)
        assert result.outcome == "silence"
        assert took_s >= SHORT_S
        assert [packet.prefix for packet in log.read()] == ["denied"]
    results = run([pair.probe("TCP", OPEN)], deadline_s=SERVED_S, nodes=["/proc/0/ns/net"])
    assert [result.outcome for result in results] == ["answer"]
