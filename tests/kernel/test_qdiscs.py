"""Queueing disciplines of links, judged by tc and by packets."""

from __future__ import annotations

import socket
import subprocess
import time

import pytest

from kubenetlab.hoststate.qdisc import Qdisc
from kubenetlab.kernel.linux import LinuxKernel
from tests.kernel.states import Make, apply_desired, difference
from tests.kernel.test_encryption import NODES, nodes, require
from tests.patience import patiently

TBF = Qdisc(NODES[0], "eth0", 4_000_000)
NETEM = Qdisc(NODES[0], "eth0", 10_000_000, 50_000)
LOSS = Qdisc(NODES[0], "eth0", 0, 0, 500_000)
SENT_BYTES = 300_000


def tc(linux: LinuxKernel, *words: str) -> str:
    netns = f"--net=/proc/{linux.sandboxes.pids[NODES[0]]}/ns/net"
    return subprocess.run(
        ["nsenter", netns, "tc", *words], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize("qdisc", [TBF, NETEM, LOSS], ids=["tbf", "netem", "loss"])
def test_disciplines_are_made_changed_and_repaired(kernel: Make, qdisc: Qdisc) -> None:
    require(qdisc.kind)
    linux = kernel()
    for desired in (nodes(4, qdisc), nodes(4, Qdisc(NODES[0], "eth0", 8_000_000, qdisc.delay_us))):
        for _ in range(2):
            apply_desired(linux, desired)
        assert difference(linux, desired) == ""
    desired = nodes(4, qdisc)
    for words in ("del dev eth0 root", "replace dev eth0 root pfifo"):
        for _ in range(2):
            apply_desired(linux, desired)
        assert f"qdisc {qdisc.kind} 6b6e: root" in tc(linux, "qdisc", "show", "dev", "eth0")
        tc(linux, "qdisc", *words.split())
        assert difference(linux, desired) != ""
    for _ in range(2):
        apply_desired(linux, desired)
    apply_desired(linux, nodes(4))
    assert "6b6e:" not in tc(linux, "qdisc", "show", "dev", "eth0")


def seconds_to_send(linux: LinuxKernel) -> float:
    """Return how long it takes until the other node has received some bytes."""
    with linux.sandboxes.inside(NODES[1]):
        server = socket.create_server(("192.0.2.2", 80))
    with linux.sandboxes.inside(NODES[0]), server:
        client = socket.create_connection(("192.0.2.2", 80), timeout=patiently(5))
        connection, _ = server.accept()
        with client, connection:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SENT_BYTES)
            connection.settimeout(patiently(10))
            started = time.monotonic()
            client.sendall(bytes(SENT_BYTES))
            received = 0
            while received < SENT_BYTES:
                received += len(connection.recv(65536))
            return time.monotonic() - started


def test_a_rate_slows_packets_down(kernel: Make) -> None:
    """The bytes beyond the burst take their time: 4 Mbit/s are 500 kB a second."""
    linux = kernel()
    apply_desired(linux, nodes(4))
    assert seconds_to_send(linux) < 0.4
    apply_desired(linux, nodes(4, TBF))
    assert seconds_to_send(linux) >= (SENT_BYTES - 40_000) / 500_000


def test_a_delay_and_a_loss_are_measured(kernel: Make) -> None:
    require("netem")
    linux = kernel()
    apply_desired(linux, nodes(4, Qdisc(NODES[0], "eth0", 0, 50_000)))
    assert min(round_trips_ms(linux, 3)) >= 50
    apply_desired(linux, nodes(4, LOSS))
    answered = len(round_trips_ms(linux, 60))
    assert 10 < answered < 50


def round_trips_ms(linux: LinuxKernel, count: int) -> list[float]:
    """Return the times of answered pings from the first node to the second."""
    netns = f"--net=/proc/{linux.sandboxes.pids[NODES[0]]}/ns/net"
    words = ["ping", "-c", str(count), "-i", "0.02", "-W", "1", "192.0.2.2"]
    done = subprocess.run(["nsenter", netns, *words], capture_output=True, text=True, check=False)
    return [
        float(line.partition("time=")[2].split()[0])
        for line in done.stdout.splitlines()
        if "time=" in line
    ]
