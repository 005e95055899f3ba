"""Sessions of WireGuard, lifetimes of XFRM states, and how `inspect` shows them."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from kubenetlab.cli.probing.inspect import key_line
from kubenetlab.hoststate.encryption.wireguard_sessions import WireguardSession, decode_sessions
from kubenetlab.hoststate.encryption.xfrm import STATE_LIFETIME, XfrmState
from kubenetlab.hoststate.encryption.xfrm_lifetimes import XfrmLifetime, decode_lifetimes
from kubenetlab.hoststate.netlink.message_classes import nest
from kubenetlab.hoststate.netlink.wire import HEADER
from kubenetlab.hoststate.secret import Secret
from kubenetlab.lab.apiserver.key_listing import listed_keys
from tests.unit.hoststate.encryption.test_wireguard import MESSAGE, encoded
from tests.unit.hoststate.netlink.test_messages import Indexes

NOW = 1_700_000_000.5


def message(*peers: Any, link: str = "") -> memoryview:
    """Return a message about a link, of which only the first has its name."""
    names = [("WGDEVICE_A_IFNAME", link)] if link else []
    body = MESSAGE.encode(0, 0, {"cmd": 0, "version": 1}, [*names, ("WGDEVICE_A_PEERS", [*peers])])
    return memoryview(body)[HEADER.size :]


def peer(number: int, *session: tuple[str, Any]) -> Any:
    return nest(("WGPEER_A_PUBLIC_KEY", encoded(number)), *session)


def session_attributes(at: int, sent_bytes: int, received_bytes: int) -> list[tuple[str, Any]]:
    return [
        ("WGPEER_A_ENDPOINT", {"addr": "172.18.0.3", "port": 51820}),
        ("WGPEER_A_LAST_HANDSHAKE_TIME", {"tv_sec": at, "tv_nsec": 500_000_000 if at else 0}),
        ("WGPEER_A_TX_BYTES", sent_bytes),
        ("WGPEER_A_RX_BYTES", received_bytes),
    ]


def test_sessions_of_all_peers_are_decoded() -> None:
    """A second message has more peers, and more networks of a peer of the first one."""
    bodies = [
        message(
            peer(1, *session_attributes(1_699_999_990, 300, 200)),
            peer(2, *session_attributes(0, 148, 0)),
            link="wg0",
        ),
        message(peer(2), peer(3, *session_attributes(0, 0, 0))),
    ]
    sessions = list(decode_sessions(bodies))
    endpoint = ("172.18.0.3", 51820)
    assert sessions == [
        WireguardSession("wg0", encoded(1), *endpoint, 1_699_999_990.5, 200, 300),
        WireguardSession("wg0", encoded(2), *endpoint, 0.0, 0, 148),
        WireguardSession("wg0", encoded(3), *endpoint, 0.0, 0, 0),
    ]


@pytest.mark.parametrize("is_ours", [True, False])
def test_lifetimes_of_the_labs_states_are_decoded(*, is_ours: bool) -> None:
    state = XfrmState("node/a", "172.18.0.2", "172.18.0.3", 0x1001, Secret(bytes(36)))
    body = bytearray(state.create(Indexes())[HEADER.size :])
    struct.pack_into("=4Q", body, STATE_LIFETIME, 1234, 5, 1_699_999_900, 1_699_999_950)
    if not is_ours:
        body = bytearray(bytes(body).replace(struct.pack("=I", 0x6B6E6C), struct.pack("=I", 7)))
    expected = XfrmLifetime("172.18.0.2", "172.18.0.3", 0x1001, 1_699_999_900, 1234)
    assert list(decode_lifetimes([memoryview(body)])) == [expected] * is_ours


def test_the_lines_have_ages_and_amounts() -> None:
    sessions = [
        WireguardSession("wg0", "k", "fd00::3", 51821, NOW - 130, 1200, 3400),
        WireguardSession("wg0", "k", "172.18.0.3", 51820, 0.0, 0, 148),
    ]
    lifetimes = [
        XfrmLifetime("172.18.0.2", "172.18.0.3", 0x1001, int(NOW) - 35, 1234),
        XfrmLifetime("172.18.0.3", "172.18.0.2", 0x1002, int(NOW) - 35, 0),
    ]
    listed = list(listed_keys(sessions, lifetimes, {"172.18.0.2"}, NOW))
    ages = [entry["age_s"] for entry in listed]
    assert ages == [130.0, None, 35.5, 35.5]
    assert [key_line(entry) for entry in listed] == [
        "wireguard wg0 peer [fd00::3]:51821 key 0862575d: latest handshake 2m10s ago, "
        "1,200 bytes received, 3,400 bytes sent",
        "wireguard wg0 peer 172.18.0.3:51820 key 0862575d: no handshake yet, 148 bytes sent",
        "xfrm state src 172.18.0.2 dst 172.18.0.3 spi 0x00001001: added 35s ago, 1,234 bytes sent",
        "xfrm state src 172.18.0.3 dst 172.18.0.2 spi 0x00001002: added 35s ago",
    ]
