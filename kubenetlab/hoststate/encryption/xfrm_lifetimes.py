"""Lifetimes of XFRM states: when a key was added, and how much it has encrypted.

Source: include/uapi/linux/xfrm.h xfrm_lifetime_cur; iproute2, `ip -s xfrm state`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import Struct

from kubenetlab.hoststate.encryption.xfrm import STATE_LIFETIME, XfrmState, decode_states

_LIFETIME: Final = struct.Struct("=4Q")
"""bytes, packets, time when the state was added, time when it was first used"""


class XfrmLifetime(Struct, frozen=True):
    """Lifetime of a state for ESP."""

    source: str
    destination: str
    spi: int
    added_at: int
    """Time when the state was added, in seconds since 1970."""
    bytes: int
    """Bytes that it has encrypted or decrypted."""

    def __str__(self) -> str:
        return f"xfrm state src {self.source} dst {self.destination} spi {self.spi:#010x}"


def decode_lifetimes(bodies: Sequence[memoryview]) -> Iterator[XfrmLifetime]:
    """Yield the lifetime of each state that the lab has made.

    body: xfrm_usersa_info (224 bytes) | attributes.
    """
    for body in bodies:
        for state, is_ours in decode_states("", (body,), {}):
            if is_ours and isinstance(state, XfrmState):
                size, _, added_at, _ = _LIFETIME.unpack_from(body, STATE_LIFETIME)
                yield XfrmLifetime(state.source, state.destination, state.spi, added_at, size)
