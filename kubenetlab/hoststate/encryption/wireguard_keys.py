"""Keys of WireGuard: X25519, as RFC 7748 defines it.

A public key takes 2 ms here. Keys that protect more than a lab need an implementation that takes
the same time for every key.
"""

from __future__ import annotations

from base64 import b64encode
from functools import lru_cache
from typing import Final, NamedTuple

from kubenetlab.hoststate.secret import Secret

KEY_BYTES: Final = 32
UNMADE: Final = "made with the lab, of"
"""Beginning of the text that stands for a public key before the lab is made."""
_PRIME: Final = 2**255 - 19
_A24: Final = 121665
_BASE_POINT: Final = 9


def private_key(value: bytes) -> Secret:
    """Return 32 random bytes as a private key: some bits are fixed, as the kernel fixes them."""
    scalar = bytearray(value)
    scalar[0] &= 248
    scalar[31] = scalar[31] & 127 | 64
    return Secret(bytes(scalar))


class KeyPair(NamedTuple):
    """Keys of one node."""

    public: str
    """In base64, as `wg` shows it; before the lab is made, text that stands for it."""
    private: Secret


@lru_cache(maxsize=2048)  # every node needs the public keys of all nodes
def node_keys(seed: Secret, node: str) -> KeyPair:
    """Return the keys of a node, which follow from the random seed of the lab.

    An empty seed means that the lab does not exist yet: there are no keys then.
    """
    if not seed.reveal:
        return KeyPair(f"{UNMADE} {node}", Secret(b""))
    import hashlib  # loads OpenSSL, which most labs do not need
    import hmac

    private = private_key(hmac.digest(seed.reveal, f"wireguard {node}".encode(), hashlib.sha256))
    return KeyPair(public_key(private), private)


def public_key(private: Secret) -> str:
    """Return the public key of a private one, in base64 as `wg` shows it."""
    scalar = int.from_bytes(private_key(private.reveal).reveal, "little")
    return b64encode(_multiply(scalar, _BASE_POINT).to_bytes(KEY_BYTES, "little")).decode()


def _multiply(scalar: int, u: int) -> int:
    """Return the u-coordinate of a multiple of a point: the Montgomery ladder of RFC 7748 §5."""
    x2, z2, x3, z3 = 1, 0, u, 1
    is_swapped = 0
    for position in reversed(range(255)):
        bit = scalar >> position & 1
        if is_swapped ^ bit:
            x2, x3, z2, z3 = x3, x2, z3, z2
        is_swapped = bit
        sum2, difference2 = x2 + z2, x2 - z2
        square_of_sum = sum2 * sum2 % _PRIME
        square_of_difference = difference2 * difference2 % _PRIME
        gap = square_of_sum - square_of_difference
        cross1 = (x3 - z3) * sum2 % _PRIME
        cross2 = (x3 + z3) * difference2 % _PRIME
        x3 = pow(cross1 + cross2, 2, _PRIME)
        z3 = u * pow(cross1 - cross2, 2, _PRIME) % _PRIME
        x2 = square_of_sum * square_of_difference % _PRIME
        z2 = gap * (square_of_sum + _A24 * gap) % _PRIME
    if is_swapped:
        x2, z2 = x3, z3
    return x2 * pow(z2, _PRIME - 2, _PRIME) % _PRIME
