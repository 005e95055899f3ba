"""Exponential back-off of everything that failed; a success resets it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

FIRST_S: Final = 0.1
"""Delay before the first retry, in seconds.

The kernel removes the links of a dead namespace within tenths of a second; their names are free
then.
"""
GROWTH: Final = 1.5
"""Factor by which each delay is longer than the one before."""
CEILING_S: Final = 5.0
"""Longest delay, in seconds."""


class Retries:
    """Time of the next attempt of everything that fails, by name."""

    def __init__(self) -> None:
        self._next: dict[str, tuple[float, float]] = {}
        """Name → (delay before the next attempt in seconds, time of that attempt)."""

    def schedule(self, failing: Iterable[str], now: float) -> float | None:
        """Return the time of the next retry; None if nothing fails.

        failing: names of everything that failed in the latest attempt; others are reset.
        now:     time of any clock, in seconds; the result is of the same clock.
        An attempt before its time, because of another event, does not lengthen the delay.
        """
        scheduled: dict[str, tuple[float, float]] = {}
        for name in failing:
            delay_s, at = self._next.get(name, (0.0, now))
            if at <= now:
                delay_s = min(delay_s * GROWTH or FIRST_S, CEILING_S)
                at = now + delay_s
            scheduled[name] = delay_s, at
        self._next = scheduled
        return min((at for _, at in scheduled.values()), default=None)

    def reset(self) -> None:
        """Reset the back-off of everything, because circumstances have changed."""
        self._next = {}
