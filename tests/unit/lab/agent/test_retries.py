"""Back-off of what has failed."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from kubenetlab.lab.agent.retries import CEILING_S, FIRST_S, GROWTH, Retries


def test_delays_grow_up_to_a_ceiling() -> None:
    """Each failure under the same name lengthens the next delay."""
    retries, now, delays = Retries(), 100.0, []
    for _ in range(20):
        at = retries.schedule(["node/a"], now)
        assert at is not None
        delays.append(at - now)
        now = at
    assert abs(delays[0] - FIRST_S) < 1e-9
    assert all(
        abs(later - min(earlier * GROWTH, CEILING_S)) < 1e-9 for earlier, later in pairwise(delays)
    )
    assert abs(delays[-1] - CEILING_S) < 1e-9


def test_a_success_resets_the_back_off() -> None:
    """Other names that still fail keep their delay."""
    retries, now = Retries(), 0.0
    for _ in range(10):
        now = retries.schedule(["node/a", "node/b"], now) or 0.0
    assert retries.schedule(["node/b"], now) == now + CEILING_S
    now += CEILING_S
    assert retries.schedule(["node/a", "node/b"], now) == now + FIRST_S
    assert retries.schedule([], now) is None
    retries.schedule(["node/b"], now)
    retries.reset()
    assert retries.schedule(["node/b"], now) == now + FIRST_S


def test_an_attempt_before_its_time_does_not_lengthen_the_delay() -> None:
    """Events may cause many attempts a second; they must not postpone the next regular one."""
    retries = Retries()
    first = retries.schedule(["node/a"], 0.0)
    assert [retries.schedule(["node/a"], FIRST_S * part / 10) for part in range(10)] == [first] * 10


@given(st.lists(st.tuples(st.sets(st.sampled_from("abc")), st.floats(0, 10)), max_size=30))
def test_everything_that_fails_is_retried_within_the_ceiling(
    history: list[tuple[set[str], float]],
) -> None:
    """This holds for every history of failures and successes."""
    retries, now = Retries(), 0.0
    for failing, passed_s in history:
        now += passed_s
        at = retries.schedule(failing, now)
        assert (at is None) == (not failing)
        assert at is None or now < at <= now + CEILING_S
