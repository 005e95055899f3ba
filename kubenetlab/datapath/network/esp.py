"""ESP between nodes: the states and policies that encrypt the datagrams of tunnels with a password.

There is no key exchange. Every node derives the same key for each pair of nodes and each direction,
from the password, the random seed of the lab and the names of both nodes: scrypt (RFC 7914) makes
guesses of the password slow, and HKDF (RFC 5869) derives the keys. The seed gives two labs with the
same password different keys.

Two uses of one key are safe although it is not negotiated: the kernel starts the initialization
vectors of every state at a random number (crypto/seqiv.c, 6.12). Repeated packets are not detected,
because a state that is made again counts from 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Final
from zlib import crc32

from kubenetlab.datapath.view import DEFAULT_ROUTES, Family, NodeView
from kubenetlab.hoststate.encryption.xfrm import XfrmPolicy, XfrmState
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.secret import Secret

KEY_BYTES: Final = 36
"""Key of AES-256 (32 bytes) and salt of its counter mode (4)."""
_UDP: Final = 17
_MAX_RESERVED_SPI: Final = 255
"""RFC 4303, section 2.1: smaller numbers are reserved."""
_SCRYPT_COST: Final = 2**14
"""CPU and memory cost N: 50 ms and 16 MB, once for a lab and a password."""


def tunnels(node: NodeView, password: Secret, index: int, port: int) -> Iterator[Object]:
    """Yield states and policies that encrypt the datagrams between a node and all others.

    index: number of the family of the addresses between which the tunnels are.
    port: UDP port of the tunnels; other packets are not encrypted.
    Datagrams to the port of the node that come in unencrypted are dropped.
    """
    own = node.families[index]
    master = master_key(password, node.seed)
    anywhere = DEFAULT_ROUTES[own.version]
    yield XfrmPolicy(
        node.netns, anywhere, _host(own), 0, ip_protocol=_UDP, port=port, is_inbound=True
    )
    for peer in node.peers:
        there = peer.families[index]
        for name, source, target, destination in (
            (node.name, own, peer.name, there),
            (peer.name, there, node.name, own),
        ):
            yield XfrmState(
                node.netns,
                source.address,
                destination.address,
                spi_of(name),
                derived_key(master, name, target),
                replay_window=0,
            )
        ends = (_host(own), _host(there))
        yield XfrmPolicy(node.netns, *ends, spi_of(node.name), ip_protocol=_UDP, port=port)


def spi_of(sender: str) -> int:
    """Return the security parameter index of the packets from a node.

    A receiver knows states by their SPI, so that those of its senders must differ.
    """
    number = crc32(sender.encode())
    return number if number > _MAX_RESERVED_SPI else number + _MAX_RESERVED_SPI + 1


@lru_cache(maxsize=8)
def master_key(password: Secret, seed: Secret) -> Secret:
    """Return the key from which those of all pairs of nodes are derived.

    seed: random bytes of the lab; empty before the lab is made.
    """
    import hashlib  # loads OpenSSL, which most labs do not need

    key = hashlib.scrypt(password.reveal, salt=seed.reveal, n=_SCRYPT_COST, r=8, p=1, dklen=32)
    return Secret(key)


@lru_cache(maxsize=4096)  # the sender and the receiver need it
def derived_key(master: Secret, sender: str, receiver: str) -> Secret:
    """Return the key and the salt for packets from one node to another: HKDF-Expand of RFC 5869.

    Names of nodes contain no slash, so that no two pairs have the same text.
    """
    import hashlib
    import hmac

    info, block, key = f"esp {sender}/{receiver}".encode(), b"", b""
    for counter in range(1, 3):  # two digests of 32 bytes are enough
        block = hmac.digest(master.reveal, block + info + bytes([counter]), hashlib.sha256)
        key += block
    return Secret(key[:KEY_BYTES])


def _host(family: Family) -> str:
    return f"{family.address}/{family.host_length}"
