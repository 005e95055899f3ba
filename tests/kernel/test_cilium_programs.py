"""The programs of cilium, run on single packets: policies, events and maps."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from kubenetlab.datapath.policy.peers import FIRST_OWN
from kubenetlab.hoststate.rules.bpf_entries import packed_prefix
from kubenetlab.hoststate.rules.cilium import (
    PROGRAMS,
    CiliumEndpoint,
    CiliumPrograms,
    IpcacheEntry,
)
from kubenetlab.hoststate.rules.cilium_entries import (
    ANY_PREFIX,
    CIDR_IDENTITY,
    CONFIG,
    DESCRIBERS,
    DROPS,
    EGRESS,
    ENDPOINT,
    HOST,
    INGRESS,
    IPCACHE_INFO,
    IPCACHE_KEY,
    LINK_KEY,
    POD_LINK,
    POLICED,
    POLICED_KEY,
    POLICY_ENTRY,
    POLICY_KEY,
    POLICY_PREFIX,
    RULE,
    RULE_TEXT,
    FlowEvent,
    describe_drops,
    describe_entry,
    rule_names,
)
from kubenetlab.hoststate.rules.cilium_policies import CiliumPeer
from kubenetlab.kernel.rules.bpf import OBJECTS
from kubenetlab.kernel.rules.libbpf import Libbpf, LoadedPrograms
from tests.kernel.frames import frame, tcp, udp
from tests.libbpf import require_libbpf

CONTINUE, DROP, REDIRECT = -1, 2, 7
LINK = 1
"""Index of the link by which test packets arrive: the loopback link."""
CONTEXT = struct.pack("=10I", *bytes(9), LINK).ljust(192, b"\0")
"""struct __sk_buff of a packet on this link."""
A, B, C = "10.244.1.2", "10.244.1.3", "10.244.2.2"
NUMBERS = {A: 17, B: 18}
IDENTITIES = {A: 300, B: 301, C: 302}
RULE_NUMBER = 42
POLICIES = 7
"""Number of the set of policies of every pod."""


@pytest.fixture
def loaded() -> Iterator[LoadedPrograms]:
    """Yield programs with two pods of this node, A and B, and one of another node, C."""
    require_libbpf()
    programs = Libbpf().load((OBJECTS / PROGRAMS.file).read_bytes())
    mac = "0a:58:0a:f4:01:01"
    objects = [
        CiliumPrograms("", ("10.244.1.1",), mac, "eth0", "172.18.0.3", is_aggregating=False),
        *(IpcacheEntry("", f"{address}/32", number) for address, number in IDENTITIES.items()),
        *(
            CiliumEndpoint("", f"lxc{number}", "default/p", number, (address,), mac)
            for address, number in NUMBERS.items()
        ),
    ]
    for obj in objects:
        for (name, key), value in obj.entries():
            programs.set(name, key, value)
    for number in NUMBERS.values():
        link = (LINK if number == NUMBERS[A] else LINK + 1).to_bytes(4, "little")
        programs.set("cilium_links", LINK_KEY.pack(number, POD_LINK), link)
    yield programs
    programs.close()


def police(loaded: LoadedPrograms, address: str, direction: int) -> None:
    """Let only traffic pass that the policy map allows."""
    key = POLICED_KEY.pack(NUMBERS[address], direction)
    loaded.set("cilium_policed", key, POLICED.pack(POLICIES, 0))
    set_verdict(loaded, 0, direction, deny=True)


def set_verdict(
    loaded: LoadedPrograms, peer: int, direction: int, port: int = 0, *, deny: bool = False
) -> None:
    """Add a verdict about TCP; port 0 covers every protocol and port."""
    prefix, protocol = (POLICY_PREFIX, 6) if port else (ANY_PREFIX, 0)
    key = POLICY_KEY.pack(prefix, peer, POLICIES, direction, protocol, port.to_bytes(2, "big"))
    loaded.set("cilium_policy", key, POLICY_ENTRY.pack(RULE_NUMBER if deny else 0, deny))


def sent(loaded: LoadedPrograms, source: str, destination: str, port: int = 80) -> int:
    packet = frame(tcp((source, 40000), (destination, port)))
    return loaded.try_packet("cil_from_container", packet, CONTEXT).verdict


def events(loaded: LoadedPrograms) -> list[FlowEvent]:
    reader = loaded.read_events("cilium_events")
    try:
        return [FlowEvent.decode(data) for data in reader.read()]
    finally:
        reader.close()


def test_layouts_are_those_of_the_programs(loaded: LoadedPrograms) -> None:
    sizes = {name: (map_.key_size, map_.value_size) for name, map_ in loaded.maps.items()}
    assert sizes["cilium_config"] == (4, CONFIG.size)
    assert sizes["cilium_lxc"] == (16, ENDPOINT.size)
    assert sizes["cilium_ipcache"] == (IPCACHE_KEY.size, IPCACHE_INFO.size)
    assert sizes["cilium_policed"] == (POLICED_KEY.size, POLICED.size)
    assert sizes["cilium_cidr"] == (IPCACHE_KEY.size, CIDR_IDENTITY.size)
    assert sizes["cilium_rules"] == (RULE.size, RULE_TEXT.size)
    assert sizes["cilium_drops"] == (RULE.size, DROPS.size)
    assert sizes["cilium_policy"] == (POLICY_KEY.size, POLICY_ENTRY.size)
    assert sizes["cilium_links"] == (LINK_KEY.size, 4)
    assert set(DESCRIBERS) == set(PROGRAMS.maps)


def test_packets_go_to_the_pod_or_to_the_stack(loaded: LoadedPrograms) -> None:
    assert sent(loaded, A, B) == REDIRECT
    assert sent(loaded, A, "198.51.100.10") == CONTINUE
    assert sent(loaded, B, A) == DROP  # on the link of A
    seen = [(event.point, event.is_dropped, event.detail) for event in events(loaded)]
    assert seen == [
        ("from-endpoint", False, "new"),
        ("to-endpoint", False, "new"),
        ("from-endpoint", False, "new"),
        ("to-stack", False, "new"),
        ("from-endpoint", True, "Invalid source ip"),
    ]


def test_events_have_addresses_and_identities(loaded: LoadedPrograms) -> None:
    sent(loaded, A, B, 8080)
    event = events(loaded)[-1]
    assert (event.source, event.source_port, event.source_identity) == (A, 40000, IDENTITIES[A])
    assert (event.destination, event.destination_port) == (B, 8080)
    assert event.destination_identity == IDENTITIES[B]
    assert (event.protocol, event.link, event.tcp_flags) == ("TCP", LINK, 2)


@pytest.mark.parametrize("direction", [INGRESS, EGRESS])
def test_a_policed_endpoint_needs_a_verdict(loaded: LoadedPrograms, direction: int) -> None:
    """Entries of the peer's identity come before those of all others, long prefixes first."""
    address, peer = (B, IDENTITIES[A]) if direction == INGRESS else (A, IDENTITIES[B])
    police(loaded, address, direction)
    assert sent(loaded, A, B, 1) == DROP
    event = events(loaded)[-1]
    assert (event.detail, event.rule) == ("Policy denied", RULE_NUMBER)
    set_verdict(loaded, 0, direction, 4)
    assert [sent(loaded, A, B, port) for port in (4, 5)] == [REDIRECT, DROP]
    set_verdict(loaded, 999, direction)
    assert sent(loaded, A, B, 5) == DROP
    set_verdict(loaded, peer, direction)
    assert sent(loaded, A, B, 6) == REDIRECT
    set_verdict(loaded, peer, direction, 7, deny=True)
    assert sent(loaded, A, B, 7) == DROP


def test_policies_that_are_not_loaded_deny(loaded: LoadedPrograms) -> None:
    loaded.set("cilium_policed", POLICED_KEY.pack(NUMBERS[B], INGRESS), POLICED.pack(POLICIES, 0))
    assert sent(loaded, A, B) == DROP


def test_open_connections_are_decided_again(loaded: LoadedPrograms) -> None:
    police(loaded, B, INGRESS)
    set_verdict(loaded, IDENTITIES[A], INGRESS)
    data = frame(tcp((A, 40000), (B, 80), flags=0x10))
    assert sent(loaded, A, B) == REDIRECT
    assert loaded.try_packet("cil_from_container", data, CONTEXT).verdict == REDIRECT
    set_verdict(loaded, IDENTITIES[A], INGRESS, deny=True)
    assert loaded.try_packet("cil_from_container", data, CONTEXT).verdict == DROP


def test_a_range_has_an_identity_for_policies(loaded: LoadedPrograms) -> None:
    """The longest range counts; 0 is the identity of cilium_ipcache."""
    police(loaded, A, EGRESS)
    set_verdict(loaded, 1000, EGRESS)
    for cidr, number in (("10.244.0.0/16", 1000), (f"{B}/32", 0)):
        key = IPCACHE_KEY.pack(*packed_prefix(cidr))
        loaded.set("cilium_cidr", key, CIDR_IDENTITY.pack(number))
    assert [sent(loaded, A, address) for address in (C, B)] == [CONTINUE, DROP]


@pytest.mark.parametrize("identity", [300, FIRST_OWN, FIRST_OWN + 0xABCDEF])
def test_a_mark_has_the_identity_of_a_masqueraded_sender(
    loaded: LoadedPrograms, identity: int
) -> None:
    """The node has replaced the address of a host, which has an identity of 25 bits.

    The lowest byte of the mark has bits 16 to 23 of the identity, and the mark 0x2000 bit 24.
    """
    host, node = "198.51.100.10", "172.18.0.3"
    mac = "0a:58:0a:f4:01:01"
    objects = (
        CiliumPrograms("", ("10.244.1.1",), mac, "eth0", is_legacy=True),
        IpcacheEntry("", f"{node}/32", HOST),
        CiliumPeer("", f"{host}/32", identity),
    )
    for obj in objects:
        for (name, key), value in obj.entries():
            loaded.set(name, key, value)
    police(loaded, B, INGRESS)
    arriving = frame(tcp((host, 40000), (node, 30080)))
    marked = loaded.context_after("cil_from_netdev", arriving, CONTEXT)
    translated = frame(tcp((node, 40001), (B, 80)))
    assert loaded.try_packet("cil_from_host", translated, marked).verdict == DROP
    set_verdict(loaded, identity ^ 0x10000, INGRESS)
    set_verdict(loaded, identity ^ 1, INGRESS)
    assert loaded.try_packet("cil_from_host", translated, marked).verdict == DROP
    set_verdict(loaded, identity, INGRESS)
    assert loaded.try_packet("cil_from_host", translated, marked).verdict == REDIRECT


def test_dropped_packets_are_counted_for_known_rules(loaded: LoadedPrograms) -> None:
    police(loaded, B, INGRESS)
    assert sent(loaded, A, B) == DROP
    loaded.set("cilium_rules", RULE.pack(RULE_NUMBER), RULE_TEXT.pack(b"default/b isolated"))
    assert [sent(loaded, A, B), sent(loaded, A, B)] == [DROP, DROP]
    names = rule_names(dict(loaded.entries("cilium_rules")))
    assert [describe_drops(*entry, names) for entry in loaded.entries("cilium_drops")] == [
        "2 packets dropped: default/b isolated"
    ]


def test_replies_of_a_policed_endpoint_need_no_rule(loaded: LoadedPrograms) -> None:
    """They belong to a connection that was allowed."""
    police(loaded, A, EGRESS)
    request = frame(tcp((C, 40000), (A, 80)))
    assert loaded.try_packet("cil_from_host", request, CONTEXT).verdict == REDIRECT
    reply = frame(tcp((A, 80), (C, 40000), flags=0x12))
    assert loaded.try_packet("cil_from_container", reply, CONTEXT).verdict == CONTINUE
    another = frame(udp((A, 81), (C, 40000), b"x"))
    assert loaded.try_packet("cil_from_container", another, CONTEXT).verdict == DROP


def test_entries_are_readable(loaded: LoadedPrograms) -> None:
    police(loaded, A, EGRESS)
    set_verdict(loaded, 300, EGRESS, 80)
    loaded.set("cilium_rules", RULE.pack(RULE_NUMBER), RULE_TEXT.pack(b"a isolated"))
    names = rule_names(dict(loaded.entries("cilium_rules")))
    lines = {
        describe_entry(name, key, value, names)
        for name in PROGRAMS.maps
        for key, value in loaded.entries(name)
    }
    assert {
        "cilium_config router 10.244.1.1, mac 0a:58:0a:f4:01:01, tunnels of 172.18.0.3",
        "cilium_ipcache 10.244.1.2/32: identity 300",
        "cilium_lxc 10.244.1.2: endpoint 00000011 mac 0a:58:0a:f4:01:01",
        "cilium_policed 00000011 egress: policies 0000000000000007",
        "cilium_policy 0000000000000007 IPv4 egress identity 300 80/TCP: allowed",
        'cilium_policy 0000000000000007 IPv4 egress every other identity: denied "a isolated"',
        "cilium_rules 000000000000002a: a isolated",
    } <= lines
