"""VXLAN links, their forwarding entries, and routes of all types, by real packets."""

from __future__ import annotations

import errno
import json
import socket
import subprocess
from typing import Any

import pytest

from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.fdb import ANY_MAC, BridgeFdbEntry, FdbEntry
from kubenetlab.hoststate.links.bridge import Bridge
from kubenetlab.hoststate.links.veth import LocalVethPeer, Port, Veth, VethPeer
from kubenetlab.hoststate.links.vxlan import OVERHEAD_BYTES, Vxlan
from kubenetlab.hoststate.links.vxlan_external import VxlanExternal
from kubenetlab.hoststate.neighbor import Neighbor
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.route import Route, RouteType
from kubenetlab.hoststate.sandbox import Sysctl
from kubenetlab.hoststate.state import HostState
from kubenetlab.kernel.linux import LinuxKernel
from tests.kernel.states import Make, apply_desired, difference, ip, state_of
from tests.patience import patiently

FABRIC = {4: ("192.0.2.1", "192.0.2.2", 24), 6: ("2001:db8::1", "2001:db8::2", 64)}
"""IP version → addresses of both nodes, and the prefix length of their network."""
INSIDE = ("10.244.0.0", "10.244.1.0")
MACS = ("0a:58:00:00:00:0a", "0a:58:00:00:00:0b")
NODES = ("a", "b")


def tunnel_end(number: int, version: int, *, vni: int = 1) -> list[Object]:
    """Return what a node has for a VXLAN overlay in flannel's manner."""
    node, peer = NODES[number], 1 - number
    *addresses, length = FABRIC[version]
    return [
        Address(node, "eth0", f"{addresses[number]}/{length}"),
        Vxlan(
            node,
            "vxlan.1",
            MACS[number],
            vni,
            8472,
            str(addresses[number]),
            "eth0",
            1500 - OVERHEAD_BYTES[version],
        ),
        Address(node, "vxlan.1", f"{INSIDE[number]}/32"),
        Neighbor(node, "vxlan.1", INSIDE[peer], MACS[peer]),
        FdbEntry(node, "vxlan.1", MACS[peer], str(addresses[peer])),
        Route(node, f"{INSIDE[peer]}/24", "vxlan.1", INSIDE[peer], is_onlink=True),
    ]


def two_nodes(version: int = 4, *, vni: int = 1) -> HostState:
    """Return two nodes, whose links are the ends of one pair."""
    return state_of(
        VethPeer("a", "eth0", "0a:58:00:00:00:01"),
        *tunnel_end(0, version),
        Veth("b", "eth0", "0a:58:00:00:00:02", "a", "eth0"),
        *tunnel_end(1, version, vni=vni),
    )


def client_seen_by_b(linux: LinuxKernel, timeout_s: float = 5) -> str:
    """Return the source address that b sees of a connection from a; empty without an answer.

    The kernel repeats the first packet of a connection after one second.
    """
    with linux.sandboxes.inside("b"):
        server = socket.create_server((INSIDE[1], 80))
    with linux.sandboxes.inside("a"), socket.socket() as client, server:
        client.settimeout(patiently(timeout_s))
        try:
            client.connect((INSIDE[1], 80))
        except TimeoutError:
            return ""
        connection, (address, _) = server.accept()
        connection.close()
    return str(address)


def show(linux: LinuxKernel, *words: str) -> list[dict[str, Any]]:
    """Return what iproute2 shows on node a."""
    program, *arguments = words
    netns = f"--net=/proc/{linux.sandboxes.pids['a']}/ns/net"
    done = subprocess.run(
        ["nsenter", netns, program, "-j", "-d", *arguments], capture_output=True, check=True
    )
    listed: list[dict[str, Any]] = json.loads(done.stdout)
    return listed


@pytest.mark.parametrize("version", [4, 6])
def test_packets_cross_a_vxlan(kernel: Make, version: int) -> None:
    """The other node sees the sender's own address, and iproute2 shows each object."""
    linux, desired = kernel(), two_nodes(version)
    apply_desired(linux, desired)
    assert difference(linux, desired) == ""
    assert client_seen_by_b(linux) == INSIDE[0]
    (link,) = show(linux, "ip", "link", "show", "vxlan.1")
    data = link["linkinfo"]["info_data"]
    assert (data["id"], data["port"], data["link"], data["learning"]) == (1, 8472, "eth0", False)
    assert data["local" if version == 4 else "local6"] == FABRIC[version][0]
    entries = show(linux, "bridge", "fdb", "show", "dev", "vxlan.1")
    assert [(entry["mac"], entry["dst"], entry["state"]) for entry in entries] == [
        (MACS[1], FABRIC[version][1], "permanent")
    ]
    (route,) = show(linux, "ip", "route", "show", "10.244.1.0/24")
    assert (route["gateway"], route["dev"], route["flags"]) == (INSIDE[1], "vxlan.1", ["onlink"])


def test_nodes_with_different_identifiers_do_not_hear_each_other(kernel: Make) -> None:
    linux = kernel()
    apply_desired(linux, two_nodes(vni=2))
    assert client_seen_by_b(linux, timeout_s=0.5) == ""
    desired = two_nodes()
    assert "(was: vxlan vxlan.1 id 2" in difference(linux, desired)
    apply_desired(linux, desired)
    assert difference(linux, desired) == ""
    assert client_seen_by_b(linux) == INSIDE[0]


@pytest.mark.parametrize(
    "command",
    [
        "bridge fdb delete 0a:58:00:00:00:0b dev vxlan.1 dst 192.0.2.2 self",
        "bridge fdb append 0a:58:00:00:00:0c dev vxlan.1 dst 192.0.2.9 self permanent",
        "bridge fdb append 00:00:00:00:00:00 dev vxlan.1 dst 192.0.2.9 self permanent",
        "ip link delete vxlan.1",
        "ip link set vxlan.1 mtu 1400",
        "ip link set vxlan.1 address 0a:58:00:00:00:99",
        "ip link set vxlan.1 down",
        "ip route replace blackhole 10.244.1.0/24",
        "ip route delete 10.244.1.0/24",
        "ip neighbor delete 10.244.1.0 dev vxlan.1",
        "ip link delete eth0",
    ],
)
def test_drift_of_an_overlay_is_repaired(kernel: Make, command: str) -> None:
    linux, desired = kernel(), two_nodes()
    apply_desired(linux, desired)
    netns = f"--net=/proc/{linux.sandboxes.pids['a']}/ns/net"
    subprocess.run(["nsenter", netns, *command.split()], check=True)
    assert difference(linux, desired) != ""
    for _ in range(3):
        apply_desired(linux, desired)
    assert difference(linux, desired) == ""
    assert client_seen_by_b(linux) == INSIDE[0]


def test_unknown_destinations_are_sent_to_several_nodes(kernel: Make) -> None:
    """Entries of the address of unknown destinations are kept beside each other."""
    linux = kernel()
    flooded = [FdbEntry("a", "vxlan.1", ANY_MAC, f"192.0.2.{node}") for node in (2, 3, 4)]
    desired = state_of(*two_nodes().objects(), *flooded)
    apply_desired(linux, desired)
    assert difference(linux, desired) == ""
    fewer = state_of(*two_nodes().objects(), *flooded[1:])
    apply_desired(linux, fewer)
    assert difference(linux, fewer) == ""
    assert client_seen_by_b(linux) == INSIDE[0]


def subnet_of_pods(*, is_known: bool) -> HostState:
    """Return a bridge with a VXLAN link and two pods, and neighbors of the node."""
    objects: list[Object] = [
        *two_nodes().objects(),
        Bridge("a", "br0", "0a:58:00:00:01:00"),
        Address("a", "br0", "10.32.0.1/24"),
    ]
    for pod, last in (("p", 2), ("q", 3)):
        mac, port = f"0a:58:00:00:01:0{last}", f"veth{pod}"
        objects += [
            Sysctl(pod, "net/ipv6/conf/all/disable_ipv6", "1"),  # it sends nothing by itself
            Sysctl(pod, "net/ipv6/conf/default/disable_ipv6", "1"),
            Veth(pod, "eth0", mac, "a", port),
            Address(pod, "eth0", f"10.32.0.{last}/24"),
            Port("a", port, "br0", f"0a:59:00:00:01:0{last}"),
            Neighbor("a", "br0", f"10.32.0.{last}", mac),
        ]
        if is_known:
            objects.append(BridgeFdbEntry("a", port, mac))
    return state_of(*objects)


def send_to(linux: LinuxKernel, address: str) -> None:
    with linux.sandboxes.inside("a"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"first", (address, 9))


@pytest.mark.parametrize(("is_known", "first"), [(True, "10.32.0.3"), (False, "10.32.0.2")])
def test_a_bridge_sends_to_known_pods_alone(kernel: Make, is_known: bool, first: str) -> None:
    """The first packet to a pod, which has sent nothing, is not flooded to another pod."""
    linux, desired = kernel(), subnet_of_pods(is_known=is_known)
    apply_desired(linux, desired)
    assert difference(linux, desired) == ""
    ipv4 = socket.htons(0x0800)
    with linux.sandboxes.inside("q"):
        received = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, ipv4)
    with received:
        received.settimeout(patiently(5))
        send_to(linux, "10.32.0.2")
        send_to(linux, "10.32.0.3")
        assert socket.inet_ntoa(received.recv(100)[16:20]) == first


def test_a_lost_forwarding_entry_of_a_bridge_is_made_again(kernel: Make) -> None:
    linux, desired = kernel(), subnet_of_pods(is_known=True)
    apply_desired(linux, desired)
    netns = f"--net=/proc/{linux.sandboxes.pids['a']}/ns/net"
    entry = "0a:58:00:00:01:02 dev vethp master"
    subprocess.run(["nsenter", netns, "bridge", "fdb", "del", *entry.split()], check=True)
    assert difference(linux, desired) != ""
    apply_desired(linux, desired)
    assert difference(linux, desired) == ""
    apply_desired(linux, subnet_of_pods(is_known=False))
    command = ["nsenter", netns, "bridge", "fdb", "show", "dev", "vethp"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "static" not in shown.stdout


@pytest.mark.parametrize(
    ("prefix", "destination"), [("10.9.0.0/16", "10.9.0.1"), ("2001:db8:9::/48", "2001:db8:9::1")]
)
@pytest.mark.parametrize("table", [254, 100, 1000])
def test_routes_of_every_type_have_their_effect(
    kernel: Make, prefix: str, destination: str, table: int
) -> None:
    """They replace one another, also in tables that rules select."""
    linux = kernel()
    version = 6 if ":" in prefix else 4
    base = [
        Bridge("n", "br0", "0a:58:00:00:00:01"),
        Address("n", "br0", "2001:db8::1/64" if version == 6 else "192.0.2.1/24"),
    ]
    expected: dict[RouteType, int] = {
        "blackhole": errno.EINVAL,
        "unreachable": errno.EHOSTUNREACH,
        "throw": errno.ENETUNREACH,  # no other table has a route
        "unicast": 0,
        "local": 0,
    }
    for type_, number in expected.items():
        link = {"unicast": "br0", "local": "lo"}.get(type_, "")
        desired = state_of(*base, Route("n", prefix, link, type=type_, table=table))
        apply_desired(linux, desired)
        assert difference(linux, desired) == "", type_
        if table != 254:
            words = f"-{version} rule add to {prefix} table {table} priority 5"
            ip(linux, "n", *words.split())
        family = socket.AF_INET6 if version == 6 else socket.AF_INET
        with linux.sandboxes.inside("n"), socket.socket(family, socket.SOCK_DGRAM) as client:
            if type_ != "local" or table == 254:  # other tables give it no source address
                assert client.connect_ex((destination, 9)) == number, type_
        shown = ip(linux, "n", f"-{version}", "route", "show", "table", "all", "type", type_)
        start = prefix if type_ == "unicast" else f"{type_} {prefix}"
        assert any(line.startswith(f"{start} ") for line in shown.splitlines()), shown
        if table != 254:
            ip(linux, "n", f"-{version}", "rule", "delete", "priority", "5")


@pytest.mark.parametrize(
    "change",
    [
        "ip link set inner arp on",
        "ip link set outer arp on",
        "ip link set outer mtu 1400",
        "ip link delete outer",
        "ip link delete tunnel",
        "ip link delete tunnel ; ip link add tunnel type vxlan id 1 dstport 8472 dev outer",
        "ip route change 198.51.100.0/24 dev outer proto static scope link mtu 1300",
        "ip -6 route change 2001:db8::/64 dev outer proto static",
    ],
)
def test_links_without_peers_of_their_own_are_restored(kernel: Make, change: str) -> None:
    """They are a veth pair inside one namespace, without ARP, and a VXLAN link without a peer."""
    desired = state_of(
        Veth("a", "outer", MACS[0], "a", "inner", 1450, "a pair", has_arp=False),
        LocalVethPeer("a", "inner", MACS[1], 1450, "a pair", has_arp=False),
        VxlanExternal("a", "tunnel", MACS[0], 8472, alias="a tunnel"),
        Route("a", "198.51.100.0/24", "outer", mtu=1400),
        Route("a", "2001:db8::/64", "outer", mtu=1400),
    )
    linux = kernel()
    apply_desired(linux, desired)
    for name in ("outer", "inner"):
        assert "NOARP" in ip(linux, "a", "link", "show", name)
    with linux.sandboxes.inside("a"):
        for command in change.split(" ; "):
            subprocess.run(command.split(), check=True)
    assert difference(linux, desired)
    apply_desired(linux, desired)
    assert "external" in ip(linux, "a", "-d", "link", "show", "tunnel")


def test_an_onlink_route_takes_the_place_of_another(kernel: Make) -> None:
    """Its gateway is in the range to which the former route leads by another link."""
    linux = kernel()
    inside = ("fd00:10:244::", "fd00:10:244:1::")
    tunnel = [
        Vxlan("a", "vxlan6", MACS[0], 1, 8472, FABRIC[6][0], "eth0", 1430),
        Address("a", "vxlan6", f"{inside[0]}/128"),
    ]
    link = [
        Address("a", "eth0", f"{FABRIC[6][0]}/64"),
        VethPeer("a", "eth0", "0a:58:00:00:00:01"),
        Veth("b", "eth0", "0a:58:00:00:00:02", "a", "eth0"),
    ]
    apply_desired(
        linux, state_of(*link, *tunnel, Route("a", f"{inside[1]}/64", "eth0", FABRIC[6][1]))
    )
    desired = state_of(
        *link, *tunnel, Route("a", f"{inside[1]}/64", "vxlan6", inside[1], is_onlink=True)
    )
    apply_desired(linux, desired)
    assert difference(linux, desired) == ""
