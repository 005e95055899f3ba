"""Tunnels of IP packets in IP packets, and MACVLAN links, by real packets."""

from __future__ import annotations

import json

import pytest
from msgspec import structs

from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.diff import diff
from kubenetlab.hoststate.links.bridge import Bridge
from kubenetlab.hoststate.links.ip6tnl import Ip6Tunnel
from kubenetlab.hoststate.links.ip_tunnel import IpTunnel
from kubenetlab.hoststate.links.ipip import FallbackIpip, Ipip
from kubenetlab.hoststate.links.link import Link
from kubenetlab.hoststate.links.macvlan import Macvlan, MacvlanMode
from kubenetlab.hoststate.links.sit import Sit
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.route import Route
from kubenetlab.hoststate.state import HostState
from kubenetlab.kernel.features.probing import FeatureProbe, run_probes
from kubenetlab.kernel.features.scratch import enter_scratch_namespace, send_batch
from kubenetlab.kernel.linux import FIRST_INDEX
from tests.kernel.states import Make, apply_desired, difference, ip, state_of
from tests.kernel.test_encryption import FABRIC, NODES, captured, exchange, nodes
from tests.kernel.test_encryption import INSIDE as INSIDE4

INSIDE6 = ("fd00:10:244::1", "fd00:10:244:1::1")
TunnelClass = type[Ipip] | type[Sit] | type[Ip6Tunnel]
KINDS: dict[str, tuple[TunnelClass, int, tuple[str, str], int]] = {
    "ipip": (Ipip, 4, INSIDE4, 4),
    "sit": (Sit, 4, INSIDE6, 41),
    "ip6tnl with IPv4": (Ip6Tunnel, 6, INSIDE4, 4),
    "ip6tnl with IPv6": (Ip6Tunnel, 6, INSIDE6, 41),
}
"""Name → class, IP version between the nodes, addresses inside, and the number of the protocol by
which the outer packet names the inner one."""


def require(link: Link) -> None:
    """Skip the test on a kernel without the kind of the link."""
    probe = FeatureProbe(link.kind, lambda: create(link), "a test")
    (outcome,) = run_probes([probe])
    if outcome.fault:
        pytest.skip(f"this kernel has no links of the kind {link.kind}: {outcome.fault}")


def create(link: Link) -> None:
    send_batch([link.create(enter_scratch_namespace())])


def tunnel(kind: TunnelClass, version: int, inside: tuple[str, str]) -> list[Object]:
    """Return both ends of a tunnel between two addresses of the fabric."""
    length = 128 if ":" in inside[0] else 32
    objects: list[Object] = []
    for number, node in enumerate(NODES):
        local, remote = str(FABRIC[version][number]), str(FABRIC[version][1 - number])
        objects += [
            kind(node, "tun0", local, remote, 1440, "cni: a tunnel"),
            Address(node, "tun0", f"{inside[number]}/{length}"),
            Route(node, f"{inside[1 - number]}/{length}", "tun0"),
        ]
    return objects


@pytest.mark.parametrize("name", KINDS)
def test_packets_cross_a_tunnel(kernel: Make, name: str) -> None:
    """The fabric carries them in packets of the nodes, with the protocol of their kind."""
    kind, version, inside, protocol = KINDS[name]
    ends = tunnel(kind, version, inside)
    assert isinstance(ends[0], Link)
    require(ends[0])
    linux, desired = kernel(), nodes(version, *ends)
    apply_desired(linux, desired)
    assert difference(linux, desired) == ""
    with captured(linux) as frames:
        assert exchange(linux, *inside) == inside[0]
    fields = {frame[12:14]: frame[14 + (9 if version == 4 else 6)] for frame in frames}
    assert fields[b"\x08\x00" if version == 4 else b"\x86\xdd"] == protocol
    shown = ip(linux, NODES[0], "-d", "link", "show", "tun0")
    assert f"{ends[0].kind} " in shown
    assert "mtu 1440" in shown
    assert f"remote {FABRIC[version][1]} local {FABRIC[version][0]}" in shown


@pytest.mark.parametrize("name", KINDS)
def test_drift_of_a_tunnel_is_repaired(kernel: Make, name: str) -> None:
    kind, version, inside, _ = KINDS[name]
    ends = tunnel(kind, version, inside)
    assert isinstance(ends[0], Link)
    require(ends[0])
    linux, desired = kernel(), nodes(version, *ends)
    apply_desired(linux, desired)
    for words in ("set tun0 mtu 1300", "set tun0 down", "set tun0 alias x", "delete tun0"):
        ip(linux, NODES[0], "link", *words.split())
        assert difference(linux, desired) != ""
        for _ in range(2):
            apply_desired(linux, desired)
        assert difference(linux, desired) == "", words
    others = [structs.replace(end, remote=end.local) for end in ends if isinstance(end, IpTunnel)]
    changed = nodes(version, *[end for end in ends if not isinstance(end, IpTunnel)], *others)
    assert "(was: " in difference(linux, changed)
    for _ in range(2):
        apply_desired(linux, changed)
    assert difference(linux, changed) == ""


def fallback(mtu: int = 1480) -> HostState:
    """Return two nodes with calico's IPIP: one tunnel to all gateways."""
    objects: list[Object] = []
    for number, node in enumerate(NODES):
        gateway = str(FABRIC[4][1 - number])
        objects += [
            FallbackIpip(node, mtu=mtu),
            Address(node, "tunl0", f"{INSIDE4[number]}/32"),
            Route(node, f"{INSIDE4[1 - number]}/32", "tunl0", gateway, is_onlink=True),
        ]
    return nodes(4, *objects)


def test_tunl0_is_adopted_and_given_back(kernel: Make) -> None:
    """The kernel creates it in a new namespace, at the latest when it is asked for.

    It gets another index than the lab's links. Without the mode it is down, as it was before.
    """
    require(FallbackIpip(NODES[0]))
    linux, desired = kernel(), fallback()
    apply_desired(linux, desired)
    assert difference(linux, desired) == ""
    assert linux.indexes(NODES[0])["tunl0"] < FIRST_INDEX
    with captured(linux) as frames:
        assert exchange(linux, *INSIDE4) == INSIDE4[0]
    assert any(frame[12:14] == b"\x08\x00" and frame[23] == 4 for frame in frames)
    ip(linux, NODES[0], "link", "set", "tunl0", "down", "mtu", "1400")
    assert "~ ipip tunl0 mtu 1480    (was: ipip tunl0 mtu 1400 down)" in difference(linux, desired)
    for _ in range(2):
        apply_desired(linux, desired)
    assert difference(linux, desired) == ""
    apply_desired(linux, fallback(1440))
    assert difference(linux, fallback(1440)) == ""
    linux.apply(diff(HostState(linux.observe(fallback().namespaces)), nodes(4))).raise_failures()
    assert "tunl0" not in ip(linux, NODES[0], "route")
    assert "state DOWN" in ip(linux, NODES[0], "link", "show", "tunl0")


def macvlans(mode: MacvlanMode) -> HostState:
    """Return a namespace with two MACVLAN links on one bridge."""
    return state_of(
        Bridge("n", "br0", "0a:58:00:00:00:01"),
        Macvlan("n", "mac0", "0a:58:00:00:00:02", "br0", mode, alias="cni: one"),
        Macvlan("n", "mac1", "0a:58:00:00:00:03", "br0", mode, 1400),
        Address("n", "mac0", "192.0.2.1/24"),
    )


def test_macvlan_links_are_made_changed_and_repaired(kernel: Make) -> None:
    linux = kernel()
    desired = macvlans("bridge")
    apply_desired(linux, desired)
    assert difference(linux, desired) == ""
    shown = json.loads(ip(linux, "n", "-j", "-d", "link", "show", "mac1"))[0]
    assert (shown["link"], shown["mtu"], shown["linkinfo"]["info_data"]["mode"]) == (
        "br0",
        1400,
        "bridge",
    )
    for words in (
        "set mac0 address 0a:58:00:00:00:99",
        "set mac0 mtu 1300",
        "set mac1 down",
        "delete mac0",
    ):
        ip(linux, "n", "link", *words.split())
        assert difference(linux, desired) != ""
        for _ in range(2):
            apply_desired(linux, desired)
        assert difference(linux, desired) == "", words
    for _ in range(2):
        apply_desired(linux, macvlans("private"))
    assert difference(linux, macvlans("private")) == ""
    ip(linux, "n", "link", "delete", "br0")
    for _ in range(2):
        apply_desired(linux, desired)
    assert difference(linux, desired) == ""
