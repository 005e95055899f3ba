"""Sessions of WireGuard links with their peers: the latest handshake, and how much was sent.

Source: drivers/net/wireguard/netlink.c get_peer() (6.12); wireguard-tools, `wg show`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from kubenetlab.hoststate.encryption.wireguard import decoded_peers, fingerprint
from kubenetlab.names import socket_address


class WireguardSession(Struct, frozen=True):
    """Session with a peer. Keys of sessions change with each handshake."""

    link: str
    public_key: str
    address: str
    """Address of the peer; empty if it is not known yet."""
    port: int
    handshake_at: float
    """Time of the latest handshake, in seconds since 1970; 0 if there was none."""
    received_bytes: int
    """Bytes of all datagrams of the peer with a valid key."""
    sent_bytes: int
    """Bytes of all datagrams to the peer, including handshakes."""

    def __str__(self) -> str:
        endpoint = socket_address(self.address, self.port)
        return f"wireguard {self.link} peer {endpoint} key {fingerprint(self.public_key)}"


def decode_sessions(bodies: Sequence[memoryview]) -> Iterator[WireguardSession]:
    """Decode the messages about one link; yield its sessions.

    body: genlmsghdr (4 bytes) | attributes.
    """
    for link, key, entry in decoded_peers(bodies):
        sent_bytes = entry.get_attr("WGPEER_A_TX_BYTES")
        if sent_bytes is None:
            continue  # more networks of a peer whose session was in the previous message
        endpoint = entry.get_attr("WGPEER_A_ENDPOINT") or {"addr": "", "port": 0}
        time = entry.get_attr("WGPEER_A_LAST_HANDSHAKE_TIME")
        yield WireguardSession(
            link,
            key,
            endpoint["addr"],
            endpoint["port"],
            time["tv_sec"] + time["tv_nsec"] / 1e9,
            entry.get_attr("WGPEER_A_RX_BYTES"),
            sent_bytes,
        )
