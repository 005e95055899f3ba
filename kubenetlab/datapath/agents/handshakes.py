"""Handshakes of WireGuard peers over time, by which an agent detects a peer that is silent.

A peer without traffic has no handshakes, which is normal. When the keys of a session have expired,
WireGuard only sends handshakes. A peer to which it goes on sending does not answer them.

Source: drivers/net/wireguard/messages.h, timers.c (6.12); the WireGuard paper, section 6.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import Struct

from kubenetlab.hoststate.encryption.wireguard_sessions import WireguardSession

REJECT_AFTER_S: Final = 180.0
"""Time after which the keys of a session are not used any more, in seconds (REJECT_AFTER_TIME)."""
ATTEMPTS_S: Final = 15.0
"""Time for which handshakes must be without an answer, in seconds: WireGuard repeats them every
5 s (REKEY_TIMEOUT), so that two lost datagrams are no failure."""


class _Attempts(Struct, frozen=True):
    """Datagrams to a peer since its latest handshake."""

    handshake_at: float
    """Time of this handshake; 0 before the first one."""
    since: float
    """Time of the handshake, or of the first look at a peer without one."""
    sent_bytes: int
    first_sent_at: float = 0.0
    """Time of the first datagram of a series without pauses; 0 after a pause."""
    sent_at: float = 0.0
    """Time of the latest datagram."""


class Handshakes:
    """Sessions of a node's peers, as they were when they were last read."""

    def __init__(self) -> None:
        self._attempts: dict[tuple[str, str], _Attempts] = {}

    def silent(
        self, sessions: Sequence[WireguardSession], now: float
    ) -> Iterator[WireguardSession]:
        """Compare sessions with those before; yield those whose peers do not answer handshakes.

        A peer is silent if it got datagrams for `ATTEMPTS_S` after its keys have expired.
        now: time when the sessions were read, in seconds since 1970.
        """
        before, self._attempts = self._attempts, {}
        for session in sessions:
            key = (session.link, session.public_key)
            attempts = _next(before.get(key), session, now)
            self._attempts[key] = attempts
            started_at = max(attempts.first_sent_at, attempts.since + REJECT_AFTER_S)
            if attempts.first_sent_at and attempts.sent_at - started_at >= ATTEMPTS_S:
                yield session


def _next(before: _Attempts | None, session: WireguardSession, now: float) -> _Attempts:
    """Return the datagrams to a peer since its latest handshake, as known now."""
    sent_bytes, handshake_at = session.sent_bytes, session.handshake_at
    if before is None or before.handshake_at != handshake_at or sent_bytes < before.sent_bytes:
        return _Attempts(handshake_at, handshake_at or now, sent_bytes)
    first_sent_at, sent_at = before.first_sent_at, before.sent_at
    if now - sent_at > ATTEMPTS_S:
        first_sent_at = 0.0  # a pause: nothing was sent that could have been answered
    if sent_bytes > before.sent_bytes:
        first_sent_at, sent_at = first_sent_at or now, now
    return _Attempts(handshake_at, before.since, sent_bytes, first_sent_at, sent_at)
