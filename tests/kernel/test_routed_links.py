"""Links of pods that are routed without a bridge: proxy ARP and source checks, by real packets."""

from __future__ import annotations

import socket
import subprocess

import pytest

from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.links.existing import LinkUp
from kubenetlab.hoststate.links.veth import Veth, VethPeer
from kubenetlab.hoststate.route import Route
from kubenetlab.hoststate.sandbox import Sysctl
from kubenetlab.hoststate.state import HostState
from kubenetlab.kernel.linux import LinuxKernel
from tests.kernel.states import Make, apply_desired, difference, ip, state_of
from tests.patience import patiently

POD, NODE, GATEWAY = "10.244.7.5", "192.0.2.1", "169.254.1.1"


def routed_pod(*, has_proxy_arp: bool = True, is_source_checked: bool = True) -> HostState:
    """Return a node and a pod in the manner of Calico: no address is on the link of the node."""
    return state_of(
        Sysctl("node", "net/ipv4/ip_forward", "1"),
        Sysctl("node", "net/ipv4/conf/all/rp_filter", "0"),
        LinkUp("node", "lo"),
        Address("node", "lo", f"{NODE}/32"),
        VethPeer(
            "node",
            "cali0",
            "ee:ee:ee:ee:ee:ee",
            has_proxy_arp=has_proxy_arp,
            is_source_checked=is_source_checked,
        ),
        Route("node", "0.0.0.0/0", "lo"),
        Route("node", f"{POD}/32", "cali0"),
        Veth("pod", "eth0", "0a:58:00:00:00:05", "node", "cali0"),
        Address("pod", "eth0", f"{POD}/32"),
        Route("pod", f"{GATEWAY}/32", "eth0"),
        Route("pod", "0.0.0.0/0", "eth0", via=GATEWAY),
    )


def source_seen(linux: LinuxKernel, *, source: str = POD) -> str:
    """Return the source of a datagram from the pod to the node; empty if none arrives."""
    with linux.sandboxes.inside("node"):
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind((NODE, 5000))
    server.settimeout(patiently(0.5))
    with linux.sandboxes.inside("pod"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind((source, 0))
        client.sendto(b"hello", (NODE, 5000))
    with server:
        try:
            _, (address, _) = server.recvfrom(100)
        except TimeoutError:
            return ""
    return str(address)


def test_the_node_answers_for_a_gateway_that_nothing_has(kernel: Make) -> None:
    """Without proxy ARP the pod cannot resolve its gateway; the setting changes in place."""
    linux = kernel()
    apply_desired(linux, routed_pod(has_proxy_arp=False))
    assert source_seen(linux) == ""
    desired = routed_pod()
    assert "proxy_arp" in difference(linux, desired)
    apply_desired(linux, desired)
    assert difference(linux, desired) == ""
    ip(linux, "pod", "neighbor", "flush", "dev", "eth0")
    assert source_seen(linux) == POD
    assert "ee:ee:ee:ee:ee:ee" in ip(linux, "pod", "neighbor", "show", GATEWAY)


@pytest.mark.parametrize("is_source_checked", [True, False])
def test_a_foreign_source_is_dropped(kernel: Make, is_source_checked: bool) -> None:
    """An address that the node routes elsewhere passes only without the check."""
    linux, foreign = kernel(), "10.244.9.9"
    apply_desired(linux, routed_pod(is_source_checked=is_source_checked))
    ip(linux, "pod", "address", "add", f"{foreign}/32", "dev", "eth0")
    assert source_seen(linux) == POD
    assert source_seen(linux, source=foreign) == ("" if is_source_checked else foreign)


@pytest.mark.parametrize("name", ["proxy_arp", "rp_filter"])
def test_changed_settings_are_differences(kernel: Make, name: str) -> None:
    linux, desired = kernel(), routed_pod()
    apply_desired(linux, desired)
    command = ["sysctl", "-qw", f"net/ipv4/conf/cali0/{name}=0"]
    netns = f"--net=/proc/{linux.sandboxes.pids['node']}/ns/net"
    subprocess.run(["nsenter", netns, *command], check=True)
    assert name in difference(linux, desired)
    apply_desired(linux, desired)
    assert difference(linux, desired) == ""
