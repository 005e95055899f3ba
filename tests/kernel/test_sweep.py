"""Ping sweeps: a node pings many pods by one socket, and repeats pings without reply."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable

import pytest

from kubenetlab.datapath.probes import ProbeSpec
from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.diff import diff
from kubenetlab.hoststate.links.bridge import Bridge
from kubenetlab.hoststate.links.existing import LinkUp
from kubenetlab.hoststate.links.veth import Port, Veth
from kubenetlab.hoststate.sandbox import Sandbox, Sysctl
from kubenetlab.hoststate.state import HostState, contents_of
from kubenetlab.kernel.linux import LinuxKernel
from kubenetlab.kernel.processes.identity import Process
from kubenetlab.lab.messages.node_agent import ProbeResult
from kubenetlab.lab.nodeagent.ping_sweep import PingSweep
from kubenetlab.lab.nodeagent.prober import ProbeState
from kubenetlab.lab.runtime.pod_network import NetnsSocketFactory
from tests.patience import patiently

PODS = 150
"""More pods than are pinged before replies are read."""
LATE = "pod7"
FAMILIES = {"IPv4": ("10.0.0.{}", 24), "IPv6": ("fd00::{:x}", 64)}
PINGS = Sysctl("node", "net/ipv4/ping_group_range", "0\t2147483647")


def spec_of(number: int, address: str) -> ProbeSpec:
    return ProbeSpec(
        f"pod{number}", "main", 0, "readiness", "node", address, "ping", is_implied=True
    )


def pods(text: str, length: int) -> HostState:
    """Return a node with a bridge and pods on it; one pod has no address yet."""
    contents = {
        "node": [
            Sandbox("node", "node"),
            LinkUp("node", "lo"),
            PINGS,
            Bridge("node", "br0", "0a:58:00:00:00:01"),
        ]
    }
    contents["node"].append(Address("node", "br0", f"{text.format(1)}/{length}"))
    for number in range(PODS):
        netns, mac = f"pod{number}", f"0a:58:00:00:01:{number:02x}"
        contents[netns] = [
            Sandbox(netns, netns),
            LinkUp(netns, "lo"),
            Veth(netns, "eth0", mac, "node", f"veth{number}"),
        ]
        contents["node"].append(
            Port("node", f"veth{number}", "br0", f"0a:59:00:00:01:{number:02x}", alias="a pod")
        )
        if netns != LATE:
            contents[netns].append(Address(netns, "eth0", f"{text.format(number + 2)}/{length}"))
    return HostState({netns: contents_of(objects) for netns, objects in contents.items()})


@pytest.mark.first_kernel  # the test is about a program's timeouts, not the kernel
@pytest.mark.parametrize("family", FAMILIES)
def test_a_sweep_repeats_pings_until_all_pods_answer(
    kernel: Callable[[], LinuxKernel], family: str
) -> None:
    """A pod without reply is reported after some time, and found once it has its address."""
    linux, (text, length) = kernel(), FAMILIES[family]
    linux.apply(diff(HostState(), pods(text, length))).raise_failures()
    node, late = linux.sandboxes.pauses["node"].id, linux.sandboxes.pids[LATE]
    results: list[ProbeResult] = []

    async def sweep_pods() -> None:
        home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        has_news = asyncio.Event()

        def record(result: ProbeResult) -> None:
            results.append(result)
            has_news.set()

        async def wait_until(condition: Callable[[], bool]) -> None:
            async with asyncio.timeout(patiently(20)):
                while not condition():
                    has_news.clear()
                    await has_news.wait()

        states = [
            ProbeState(spec_of(number, text.format(number + 2)), node, record)
            for number in range(PODS)
        ]
        states[8].stop()
        sweep = PingSweep(states, NetnsSocketFactory(Process(node), home))
        reachable = {f"pod{number}" for number in range(PODS)} - {LATE, "pod8"}
        await wait_until(
            lambda: (
                {result.netns for result in results if result.outcome.ok} >= reachable
                and LATE in {result.netns for result in results}
            )
        )
        silence = next(result.outcome for result in results if result.netns == LATE)
        assert (silence.ok, silence.message) == (
            False,
            f"no answer to a ping to {text.format(9)}",
        )
        assert {result.netns for result in results} == reachable | {LATE}
        flags = ["nodad"] if family == "IPv6" else []
        command = ["ip", "address", "add", f"{text.format(9)}/{length}", "dev", "eth0", *flags]
        enter = ["nsenter", f"--net=/proc/{late}/ns/net"]
        await asyncio.to_thread(subprocess.run, [*enter, *command], check=True)
        await sweep.ended()
        assert [result.outcome.ok for result in results if result.netns == LATE][-1]

    asyncio.run(sweep_pods())
