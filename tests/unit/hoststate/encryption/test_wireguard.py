"""WireGuard's keys and messages."""

from __future__ import annotations

import os
from base64 import b64encode

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenetlab.hoststate.diff import Operation
from kubenetlab.hoststate.encryption.wireguard import (
    WIREGUARD_MESSAGES,
    WireguardDevice,
    WireguardPeer,
    decode_wireguard,
)
from kubenetlab.hoststate.encryption.wireguard_keys import node_keys, private_key, public_key
from kubenetlab.hoststate.netlink.message_classes import MessageClass, nest
from kubenetlab.hoststate.netlink.wire import HEADER
from kubenetlab.hoststate.secret import Secret
from tests.unit.hoststate.netlink.test_messages import Indexes

MESSAGE = MessageClass("pyroute2.netlink.generic.wireguard", "wgmsg")


def encoded(number: int) -> str:
    return b64encode(bytes([number] * 32)).decode()


@pytest.mark.parametrize(
    ("private", "public"),
    [
        (
            "09".ljust(64, "0"),
            "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079",
        ),
        (
            "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
            "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
        ),
    ],
    ids=["one iteration", "Bob"],
)
def test_public_keys_are_those_of_rfc_7748(private: str, public: str) -> None:
    """Sections 5.2 and 6.1."""
    expected = b64encode(bytes.fromhex(public)).decode()
    assert public_key(Secret(bytes.fromhex(private))) == expected


def test_new_keys_differ_and_are_as_the_kernel_keeps_them() -> None:
    keys = {private_key(os.urandom(32)) for _ in range(20)}
    assert len(keys) == 20
    assert all(private_key(key.reveal) == key for key in keys)


def test_keys_of_nodes_follow_from_the_seed_of_the_lab() -> None:
    """Each node has its own, and another lab has others; without a seed there are none yet."""
    seeds = [Secret(bytes([number] * 32)) for number in (1, 2)]
    pairs = [node_keys(seed, node) for seed in seeds for node in ("worker", "worker2")]
    assert len({pair.private for pair in pairs}) == len({pair.public for pair in pairs}) == 4
    for pair in pairs:
        assert private_key(pair.private.reveal) == pair.private
        assert public_key(pair.private) == pair.public
    assert node_keys(seeds[0], "worker") == pairs[0]
    assert node_keys(Secret(b""), "worker") == ("made with the lab, of worker", Secret(b""))


def test_a_private_key_is_shown_nowhere() -> None:
    key = private_key(bytes(range(32)))
    device = WireguardDevice("node/a", "wg0", public_key(key), key)
    other = WireguardDevice("node/a", "wg0", encoded(1), private_key(bytes(range(1, 33))))
    operation = Operation("change", device, other)
    texts = (str(device), repr(device), str(operation), repr(operation), *device.commands(str))
    for text in (*texts, str(operation.difference())):
        for shown in (key.base64, key.reveal.hex(), repr(key.reveal)):
            assert shown not in text
    with pytest.raises(TypeError):
        msgspec.json.encode(device)


networks = st.lists(
    st.one_of(
        st.ip_addresses(v=4).map(lambda address: f"{address}/32"),
        st.ip_addresses(v=6).map(lambda address: f"{address}/128"),
    ),
    unique=True,
    max_size=5,
).map(lambda entries: tuple(sorted(entries)))
keys = st.binary(min_size=32, max_size=32).map(lambda value: b64encode(value).decode())
peers = st.builds(
    WireguardPeer,
    st.just("node/a"),
    st.just("wg0"),
    keys,
    st.ip_addresses().map(str),
    st.integers(1, 65535),
    networks,
    st.integers(0, 65535),
)


@given(peers)
def test_a_peer_is_decoded_as_it_was_encoded(peer: WireguardPeer) -> None:
    """The kernel's list has the attributes of the request."""
    body = memoryview(peer.create(Indexes()))[HEADER.size :]
    ((device, _), (decoded, is_ours)) = decode_wireguard("node/a", [device_reply(), body], {})
    assert isinstance(device, WireguardDevice)
    assert (decoded, is_ours) == (peer, False)


def test_a_device_is_decoded_as_it_was_encoded() -> None:
    key = private_key(bytes(range(32)))
    device = WireguardDevice("node/a", "wg0", public_key(key), key, 51821, 0x100000)
    assert list(decode_wireguard("node/a", [device_reply(device)], {})) == [(device, False)]
    sent = MESSAGE.decode(memoryview(device.create(Indexes()))[HEADER.size :])
    assert sent.get_attr("WGDEVICE_A_PRIVATE_KEY").decode() == key.base64
    assert sent.get_attr("WGDEVICE_A_LISTEN_PORT") == 51821
    assert sent.get_attr("WGDEVICE_A_FWMARK") == 0x100000


def device_reply(device: WireguardDevice | None = None) -> memoryview:
    """Return what the kernel lists of a device without peers."""
    if device is None:
        device = WireguardDevice("node/a", "wg0", encoded(1), Secret(bytes(32)))
    attributes = [
        ("WGDEVICE_A_LISTEN_PORT", device.port),
        ("WGDEVICE_A_FWMARK", device.mark),
        ("WGDEVICE_A_IFNAME", device.link),
        ("WGDEVICE_A_PRIVATE_KEY", device.private_key.base64),
        ("WGDEVICE_A_PUBLIC_KEY", device.public_key),
    ]
    return memoryview(MESSAGE.encode(0, 0, {"cmd": 0, "version": 1}, attributes))[HEADER.size :]


def test_a_peer_that_is_continued_in_the_next_message_is_one_peer() -> None:
    """The continuation has neither device nor endpoint."""
    peer = WireguardPeer("node/a", "wg0", encoded(2), "172.18.0.3", 51820, ("10.244.1.0/24",))
    allowed = nest(
        ("WGALLOWEDIP_A_FAMILY", 2),
        ("WGALLOWEDIP_A_IPADDR", bytes([10, 0, 9, 0])),
        ("WGALLOWEDIP_A_CIDR_MASK", 24),
    )
    rest = nest(("WGPEER_A_PUBLIC_KEY", encoded(2)), ("WGPEER_A_ALLOWEDIPS", [allowed]))
    fields = {"cmd": 0, "version": 1}
    continued = MESSAGE.encode(0, 0, fields, [("WGDEVICE_A_PEERS", [rest])])
    bodies = [
        device_reply(),
        *(memoryview(part)[HEADER.size :] for part in (peer.create(Indexes()), continued)),
    ]
    _, (decoded, _) = decode_wireguard("node/a", bodies, {})
    assert isinstance(decoded, WireguardPeer)
    assert decoded.address == "172.18.0.3"
    assert decoded.allowed_ips == ("10.0.9.0/24", "10.244.1.0/24")


def test_only_wireguard_links_are_asked_for_peers() -> None:
    assert list(WIREGUARD_MESSAGES.dumps("pod/default/a", [])) == []
