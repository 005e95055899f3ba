"""Peers of WireGuard that do not answer handshakes."""

from __future__ import annotations

import pytest

from kubenetlab.datapath.agents.handshakes import ATTEMPTS_S, REJECT_AFTER_S, Handshakes
from kubenetlab.hoststate.encryption.wireguard_sessions import WireguardSession

NOW = 1_000_000.0
STEP_S = 2.0


def session(handshake_at: float, sent_bytes: int, key: str = "k") -> WireguardSession:
    return WireguardSession("wg0", key, "172.18.0.3", 51820, handshake_at, 0, sent_bytes)


def first_silent_s(
    handshake_s: float | None,
    traffic: range,
    answers: range = range(0),
    pause: range = range(0),
) -> float | None:
    """Return when the peer first counts as silent, in seconds after NOW; None if it never does.

    handshake_s: time of its latest handshake, relative to NOW; None: there was none.
    traffic: seconds in which datagrams are sent to it. answers: those in which it answers
    handshakes. pause: those in which the handshakes are not read.
    """
    handshakes, sent_bytes = Handshakes(), 1000
    handshake_at = NOW + handshake_s if handshake_s is not None else 0.0
    for second in range(0, 1200, int(STEP_S)):
        now = NOW + second
        if second in traffic:
            sent_bytes += 148
            if second in answers:
                handshake_at = now
        if second in pause:
            continue
        if list(handshakes.silent([session(handshake_at, sent_bytes)], now)):
            return float(second)
    return None


ALWAYS = range(1200)


@pytest.mark.parametrize(
    ("handshake_s", "traffic", "expected"),
    [
        (None, ALWAYS, REJECT_AFTER_S + ATTEMPTS_S),
        (0.0, ALWAYS, REJECT_AFTER_S + ATTEMPTS_S),
        (-100.0, ALWAYS, REJECT_AFTER_S + ATTEMPTS_S - 100),
        (-1000.0, ALWAYS, ATTEMPTS_S + 2 * STEP_S),
        (None, range(0), None),
        (-1000.0, range(0), None),
        (-1000.0, range(300, 310), None),
        (-1000.0, range(300, 1200), 300 + ATTEMPTS_S + STEP_S),
    ],
    ids=[
        "never reached",
        "reached until now",
        "reached before",
        "reached long ago",
        "never used",
        "not used any more",
        "three lost handshakes",
        "used again, without answers",
    ],
)
def test_a_peer_is_silent_if_it_gets_datagrams_long_after_its_keys_have_expired(
    handshake_s: float | None, traffic: range, expected: float | None
) -> None:
    """Without traffic there are no handshakes, and nothing is known about the peer."""
    found = first_silent_s(handshake_s, traffic)
    if expected is None:
        assert found is None
    else:
        assert found is not None
        assert abs(found - expected) <= STEP_S


def test_a_peer_that_answers_now_and_then_is_not_silent() -> None:
    """WireGuard makes new keys every two minutes, and at the first datagram after a pause."""
    assert first_silent_s(0.0, ALWAYS, answers=range(0, 1200, 120)) is None
    traffic = range(0, 1200, 300)
    assert first_silent_s(0.0, traffic, answers=traffic) is None


def test_a_look_after_a_pause_is_the_first_one() -> None:
    """A process that was stopped for minutes does not know when datagrams were sent."""
    found = first_silent_s(-1000.0, ALWAYS, pause=range(10, 600))
    assert found is not None
    assert found >= 600 + STEP_S


def test_a_peer_is_healthy_again_after_a_handshake_and_without_traffic() -> None:
    handshakes = Handshakes()

    def silent(handshake_at: float, sent_bytes: int, second: float) -> bool:
        sessions = [session(handshake_at, sent_bytes), session(NOW, 0, "another")]
        found = list(handshakes.silent(sessions, NOW + second))
        assert {each.public_key for each in found} <= {"k"}
        return bool(found)

    answers = [silent(0.0, second, second) for second in range(240)]
    assert answers[-1]
    assert answers.index(True) > REJECT_AFTER_S
    assert silent(0.0, 239, 242)
    assert not silent(0.0, 239, 260)
    assert [silent(0.0, 240 + second, 260 + second) for second in range(20)][-1]
    assert not silent(NOW + 280, 1000, 281)
    assert list(handshakes.silent([], NOW + 282)) == []
    assert not silent(0.0, 2000, 283)


def test_a_new_peer_with_the_same_key_starts_anew() -> None:
    """The link was deleted and made again: its counters begin with 0."""
    handshakes = Handshakes()
    for second in range(240):
        list(handshakes.silent([session(0.0, 100 * second)], NOW + second))
    for second in range(240, 400):
        sessions = [session(0.0, second)]
        assert list(handshakes.silent(sessions, NOW + second)) == []
