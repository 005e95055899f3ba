"""Desired states for LinuxKernel, and functions that apply and compare them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Literal

import pytest

from kubenetlab.datapath import plan
from kubenetlab.hoststate.diff import diff
from kubenetlab.hoststate.links.existing import LinkUp
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.sandbox import Sandbox
from kubenetlab.hoststate.state import HostState, contents_of
from kubenetlab.kernel.features.detection import has_br_netfilter
from kubenetlab.kernel.linux import LinuxKernel
from tests.clusters import decided, store

Make = Callable[[], LinuxKernel]
"""Creates a kernel for the lab `t`; called inside the test."""


def netlink(state: HostState) -> HostState:
    """Return the objects that LinuxKernel applies: no rules and no programs."""
    kept = {
        netns: {key: obj for key, obj in contents.items() if obj.applier == "netlink"}
        for netns, contents in state.namespaces.items()
    }
    return HostState(kept, state.origins)


def plan_netlink(
    text: str = "",
    layout: str = "onlink",
    neighbors: Literal["dynamic", "permanent"] = "dynamic",
) -> HostState:
    if layout == "onlink" and not has_br_netfilter():
        pytest.skip("pods on a bridge need br_netfilter here (modprobe br_netfilter)")
    return netlink(plan(store(text), decided(layout, neighbors)))


def state_of(*objects: Object) -> HostState:
    by_netns: dict[str, list[Object]] = {}
    for obj in objects:
        by_netns.setdefault(obj.netns, []).append(obj)
    return HostState(
        {
            netns: contents_of([Sandbox(netns, "h"), LinkUp(netns, "lo"), *members])
            for netns, members in by_netns.items()
        }
    )


def difference(kernel: LinuxKernel, desired: HostState) -> str:
    return str(diff(HostState(kernel.observe(desired.namespaces)), desired))


def apply_desired(kernel: LinuxKernel, desired: HostState) -> None:
    kernel.apply(diff(HostState(kernel.observe(desired.namespaces)), desired)).raise_failures()


def ip(kernel: LinuxKernel, netns: str, *arguments: str) -> str:
    return subprocess.run(
        ["nsenter", f"--net=/proc/{kernel.sandboxes.pids[netns]}/ns/net", "ip", *arguments],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
