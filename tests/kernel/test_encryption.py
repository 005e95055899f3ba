"""WireGuard, ESP and routing rules between two nodes, by real packets.

All that the fabric carries is captured: without encryption it contains the payload.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from msgspec import structs

from kubenetlab.datapath.agents.handshakes import ATTEMPTS_S, REJECT_AFTER_S, Handshakes
from kubenetlab.datapath.agents.health import AgentHealth
from kubenetlab.errors import ApplyError
from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.encryption.wireguard import WireguardDevice, WireguardPeer
from kubenetlab.hoststate.encryption.wireguard_keys import private_key, public_key
from kubenetlab.hoststate.encryption.wireguard_sessions import WireguardSession
from kubenetlab.hoststate.encryption.xfrm import XfrmPolicy, XfrmState
from kubenetlab.hoststate.links.veth import Veth, VethPeer
from kubenetlab.hoststate.links.wireguard import Wireguard
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.policy_rule import PolicyRule
from kubenetlab.hoststate.route import Route
from kubenetlab.hoststate.secret import Secret
from kubenetlab.hoststate.state import HostState
from kubenetlab.kernel.features.overlay_probes import OVERLAY_PROBES
from kubenetlab.kernel.features.probing import run_probes
from kubenetlab.kernel.linux import LinuxKernel
from kubenetlab.kernel.overlay_state import wireguard_sessions, xfrm_lifetimes
from kubenetlab.lab.nodeagent.agent_check import missing
from tests.kernel.states import Make, apply_desired, difference, ip, state_of
from tests.patience import patiently

NODES = ("node/a", "node/b")
FABRIC = {4: ("192.0.2.1", "192.0.2.2", 24), 6: ("2001:db8::1", "2001:db8::2", 64)}
INSIDE = ("10.244.0.1", "10.244.1.1")
PAYLOAD = b"a secret that everybody can read"
_ETH_P_ALL = 3


def require(feature: str) -> None:
    (outcome,) = run_probes([probe for probe in OVERLAY_PROBES if probe.name == feature])
    if outcome.fault:
        pytest.skip(f"this kernel lacks {feature}: {outcome.fault}")


def nodes(version: int, *objects: Object) -> HostState:
    """Return two nodes whose links are the ends of one pair."""
    first, second, length = FABRIC[version]
    return state_of(
        VethPeer(NODES[0], "eth0", "0a:58:00:00:00:01"),
        Address(NODES[0], "eth0", f"{first}/{length}"),
        Veth(NODES[1], "eth0", "0a:58:00:00:00:02", NODES[0], "eth0"),
        Address(NODES[1], "eth0", f"{second}/{length}"),
        *objects,
    )


@contextmanager
def captured(linux: LinuxKernel) -> Iterator[list[bytes]]:
    """Collect the frames that cross the fabric during the block."""
    frames: list[bytes] = []
    with (
        linux.sandboxes.inside(NODES[1]),
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL)) as capture,
    ):
        capture.bind(("eth0", _ETH_P_ALL))
        capture.setblocking(False)
        yield frames
        while True:
            try:
                frames.append(capture.recv(65536))
            except BlockingIOError:
                return


def exchange(linux: LinuxKernel, source: str, destination: str, timeout_s: float = 5) -> str:
    """Send the payload from the first node to the second; return the source that this one sees.

    Empty without an answer.
    """
    family = socket.AF_INET6 if ":" in destination else socket.AF_INET
    with linux.sandboxes.inside(NODES[1]):
        server = socket.create_server((destination, 80), family=family)
    with linux.sandboxes.inside(NODES[0]), socket.socket(family) as client, server:
        client.settimeout(patiently(timeout_s))
        client.bind((source, 0))
        try:
            client.connect((destination, 80))
        except OSError:
            return ""
        client.sendall(PAYLOAD)
        connection, (address, *_) = server.accept()
        with connection:
            connection.settimeout(patiently(5))
            assert connection.recv(len(PAYLOAD), socket.MSG_WAITALL) == PAYLOAD
    return str(address)


def wireguard(version: int, *, table: int = 254) -> list[Object]:
    """Return both ends of a WireGuard tunnel, with new keys."""
    keys = [private_key(os.urandom(32)), private_key(os.urandom(32))]
    objects: list[Object] = []
    for number, node in enumerate(NODES):
        peer = 1 - number
        objects += [
            Wireguard(node, "wg0", 1420),
            Address(node, "wg0", f"{INSIDE[number]}/32"),
            WireguardDevice(node, "wg0", public_key(keys[number]), keys[number], mark=0x100000),
            WireguardPeer(
                node,
                "wg0",
                public_key(keys[peer]),
                str(FABRIC[version][peer]),
                51820,
                (f"{INSIDE[peer]}/32",),
            ),
            Route(node, f"{INSIDE[peer]}/32", "wg0", table=table),
        ]
    return objects


@pytest.mark.parametrize("version", [4, 6])
def test_wireguard_encrypts_what_crosses_the_fabric(kernel: Make, version: int) -> None:
    require("wireguard")
    linux, desired = kernel(), nodes(version, *wireguard(version))
    apply_desired(linux, desired)
    assert difference(linux, desired) == ""
    with captured(linux) as frames:
        assert exchange(linux, *INSIDE) == INSIDE[0]
    assert len(frames) > 5
    assert not any(PAYLOAD[:8] in frame for frame in frames)


def test_rules_lead_packets_without_the_mark_into_wireguard(kernel: Make) -> None:
    """This is calico's way: the routes are in a table of their own."""
    require("wireguard")
    rules = [PolicyRule(node, 4, 99, 1, 0x100000, 0x100000, is_inverted=True) for node in NODES]
    linux, desired = kernel(), nodes(4, *wireguard(4, table=1), *rules)
    apply_desired(linux, desired)
    assert difference(linux, desired) == ""
    with captured(linux) as frames:
        assert exchange(linux, *INSIDE) == INSIDE[0]
    assert not any(PAYLOAD[:8] in frame for frame in frames)


def test_keys_and_peers_are_repaired_and_replaced(kernel: Make) -> None:
    """A key is compared, not shown; a peer that others add is removed."""
    require("wireguard")
    linux, desired = kernel(), nodes(4, *wireguard(4))
    apply_desired(linux, desired)
    changed = nodes(4, *wireguard(4))
    text = difference(linux, changed)
    assert "+ wireguard wg0 peer" in text
    assert "- wireguard wg0 peer" in text
    assert "~ wireguard wg0 key" in text
    for obj in changed.objects():
        if isinstance(obj, WireguardDevice):
            assert obj.private_key.base64 not in text
    apply_desired(linux, changed)
    assert difference(linux, changed) == ""
    assert exchange(linux, *INSIDE) == INSIDE[0]
    ip(linux, NODES[0], "link", "delete", "wg0")
    apply_desired(linux, changed)
    apply_desired(linux, changed)
    assert difference(linux, changed) == ""
    assert exchange(linux, *INSIDE) == INSIDE[0]


def test_the_sessions_of_peers_are_read_and_checked(kernel: Make) -> None:
    """A peer that the link does not have, and one that does not answer, make an agent unready."""
    require("wireguard")
    linux, desired = kernel(), nodes(4, *wireguard(4))
    apply_desired(linux, desired)
    (key,) = [
        obj.public_key for obj in desired[NODES[0]].values() if isinstance(obj, WireguardPeer)
    ]
    health = AgentHealth("agent", keys=(("wg0", key, "192.0.2.2"), ("wg0", "unknown", "192.0.2.3")))
    no_peer = "WireGuard peer 192.0.2.3 on wg0"

    def problems(handshakes: Handshakes) -> list[str]:
        with linux.sandboxes.inside(NODES[0]):
            return list(missing(health, handshakes))

    def session() -> WireguardSession:
        with linux.sandboxes.inside(NODES[0]):
            (session,) = wireguard_sessions()
        return session

    assert problems(Handshakes()) == [no_peer]
    fresh = session()
    assert (fresh.link, fresh.public_key, fresh.address) == ("wg0", key, "192.0.2.2")
    assert (fresh.handshake_at, fresh.received_bytes, fresh.sent_bytes) == (0, 0, 0)
    assert exchange(linux, *INSIDE) == INSIDE[0]
    used = session()
    assert abs(time.time() - used.handshake_at) < patiently(30)
    assert used.received_bytes > 0
    assert used.sent_bytes > len(PAYLOAD)
    ip(linux, NODES[1], "link", "set", "wg0", "down")
    handshakes, now = Handshakes(), used.handshake_at + REJECT_AFTER_S
    silent = []
    for second in (0.0, 1.0, ATTEMPTS_S, ATTEMPTS_S + 1):
        send(linux, INSIDE[1])
        silent = list(handshakes.silent([session()], now + second))
    assert [each.public_key for each in silent] == [key]
    assert problems(Handshakes()) == [no_peer]


def send(linux: LinuxKernel, address: str) -> None:
    """Send a datagram from the first node."""
    with (
        linux.sandboxes.inside(NODES[0]),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.sendto(PAYLOAD, (address, 9))


def test_a_kernel_without_wireguard_refuses_its_objects(kernel: Make) -> None:
    """Each failure names its object, and the link is the first."""
    (outcome,) = run_probes([probe for probe in OVERLAY_PROBES if probe.name == "wireguard"])
    if not outcome.fault:
        pytest.skip("this kernel has WireGuard")
    with pytest.raises(ApplyError, match="wireguard wg0 mtu 1420"):
        apply_desired(kernel(), nodes(4, *wireguard(4)))


def esp(version: int) -> list[Object]:
    """Return states and policies by which both nodes encrypt what they send to each other."""
    first, second, _ = (str(part) for part in FABRIC[version])
    length = 32 if version == 4 else 128
    keys = {(first, second): (0x1001, bytes(range(20))), (second, first): (0x1002, bytes(20))}
    objects: list[Object] = []
    for node, own in ((NODES[0], first), (NODES[1], second)):
        for (source, destination), (spi, key) in keys.items():
            objects.append(XfrmState(node, source, destination, spi, Secret(key)))
            if source == own:
                ends = (f"{source}/{length}", f"{destination}/{length}")
                objects.append(XfrmPolicy(node, *ends, spi, ip_protocol=6))
    return objects


@pytest.mark.parametrize("version", [4, 6])
def test_esp_encrypts_what_crosses_the_fabric(kernel: Make, version: int) -> None:
    require("ESP")
    linux, plain, desired = kernel(), nodes(version), nodes(version, *esp(version))
    ends = (str(FABRIC[version][0]), str(FABRIC[version][1]))
    apply_desired(linux, plain)
    with captured(linux) as frames:
        assert exchange(linux, *ends) == ends[0]
    assert any(PAYLOAD in frame for frame in frames)
    apply_desired(linux, desired)
    assert difference(linux, desired) == ""
    with captured(linux) as frames:
        assert exchange(linux, *ends) == ends[0]
    assert len(frames) > 5
    assert not any(PAYLOAD[:8] in frame for frame in frames)
    with linux.sandboxes.inside(NODES[0]):
        lifetimes = xfrm_lifetimes(NODES[0])
    assert {each.source for each in lifetimes} == set(ends)
    assert all(each.bytes > len(PAYLOAD) for each in lifetimes if each.source == ends[0])
    assert all(abs(time.time() - each.added_at) < patiently(30) for each in lifetimes)
    apply_desired(linux, plain)
    assert difference(linux, plain) == ""
    assert ip(linux, NODES[0], "xfrm", "state") == ip(linux, NODES[0], "xfrm", "policy") == ""


def test_policies_without_a_key_stop_packets(kernel: Make) -> None:
    """Nothing leaves in plain text: the kernel refuses the packets."""
    linux = kernel()
    policies = [obj for obj in esp(4) if isinstance(obj, XfrmPolicy)]
    desired = nodes(4, *policies)
    apply_desired(linux, desired)
    assert difference(linux, desired) == ""
    with captured(linux) as frames:
        assert exchange(linux, "192.0.2.1", "192.0.2.2", timeout_s=0.5) == ""
    assert not any(PAYLOAD[:8] in frame for frame in frames)
    apply_desired(linux, nodes(4))
    assert exchange(linux, "192.0.2.1", "192.0.2.2") == "192.0.2.1"


@pytest.mark.parametrize("version", [4, 6])
def test_a_policy_drops_packets_that_come_in_unencrypted(kernel: Make, version: int) -> None:
    """The receiver asks for encryption by any state; only packets that had it are accepted."""
    require("ESP")
    linux, ends = kernel(), (str(FABRIC[version][0]), str(FABRIC[version][1]))
    own = f"{ends[1]}/{32 if version == 4 else 128}"
    anywhere = "0.0.0.0/0" if version == 4 else "::/0"
    strict = XfrmPolicy(NODES[1], anywhere, own, 0, ip_protocol=6, is_inbound=True)
    apply_desired(linux, nodes(version, strict))
    assert difference(linux, nodes(version, strict)) == ""
    assert exchange(linux, *ends, timeout_s=0.5) == ""
    desired = nodes(version, strict, *esp(version))
    apply_desired(linux, desired)
    assert difference(linux, desired) == ""
    assert exchange(linux, *ends) == ends[0]


def test_a_state_that_is_made_again_is_accepted_without_replay_detection(kernel: Make) -> None:
    """A sender that lost its state counts from 1 again, and the receiver must not mind."""
    require("ESP")
    linux = kernel()
    objects = [
        structs.replace(obj, replay_window=0) if isinstance(obj, XfrmState) else obj
        for obj in esp(4)
    ]
    desired = nodes(4, *objects)
    apply_desired(linux, desired)
    for _ in range(20):
        assert exchange(linux, "192.0.2.1", "192.0.2.2") == "192.0.2.1"
    ip(linux, NODES[0], "xfrm", "state", "flush")
    apply_desired(linux, desired)
    assert difference(linux, desired) == ""
    assert exchange(linux, "192.0.2.1", "192.0.2.2") == "192.0.2.1"


@pytest.mark.parametrize("version", [4, 6])
def test_rules_select_the_table_by_mark_and_addresses(kernel: Make, version: int) -> None:
    """The route of a table applies to what its rule selects; a deleted rule is restored."""
    linux, node = kernel(), NODES[0]
    prefix, address = ("10.9.0.0/16", "10.9.0.1") if version == 4 else ("fd09::/64", "fd09::1")
    route = Route(node, prefix, "", type="unreachable", table=100)
    base = [route, Route(node, prefix, "eth0")]
    rule = PolicyRule(node, version, 50, 100, 0x10, 0x30)
    desired = nodes(version, *base, rule)
    apply_desired(linux, desired)
    assert difference(linux, desired) == ""
    assert "fwmark 0x10/0x30 lookup 100 proto static" in ip(
        linux, node, f"-{version}", "rule", "show"
    )
    assert reaches(linux, address, 0)
    assert reaches(linux, address, 0x20)
    assert not reaches(linux, address, 0x10)
    assert not reaches(linux, address, 0x50)
    ip(linux, node, f"-{version}", "rule", "delete", "priority", "50")
    assert f"+ {rule}" in difference(linux, desired)
    apply_desired(linux, desired)
    assert not reaches(linux, address, 0x10)
    inverted = nodes(
        version, *base, PolicyRule(node, version, 50, 100, 0x10, 0x30, is_inverted=True)
    )
    apply_desired(linux, inverted)
    assert difference(linux, inverted) == ""
    assert not reaches(linux, address, 0)
    assert reaches(linux, address, 0x10)
    to = PolicyRule(node, version, 60, 100, destination=prefix)
    apply_desired(linux, nodes(version, *base, to))
    assert difference(linux, nodes(version, *base, to)) == ""
    assert not reaches(linux, address, 0)
    apply_desired(linux, nodes(version, *base))
    assert "lookup 100" not in ip(linux, node, f"-{version}", "rule", "show")


def reaches(linux: LinuxKernel, address: str, mark: int) -> bool:
    """Return True if the first node has a route for a packet with a mark."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with linux.sandboxes.inside(NODES[0]), socket.socket(family, socket.SOCK_DGRAM) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        return client.connect_ex((address, 9)) != errno.EHOSTUNREACH
