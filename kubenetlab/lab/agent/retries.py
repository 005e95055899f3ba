"""When to try again what has failed: soon at first, then less and less often, and soon again after a success."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

FIRST_S: Final = 0.1
"""The kernel takes the links of a dead namespace away within tenths of a second; names that are needed are free then."""
GROWTH: Final = 1.5
CEILING_S: Final = 5.0


class Retries:
    """The next attempt of everything that fails, each by a name of its own."""

    def __init__(self) -> None:
        self._next: dict[str, tuple[float, float]] = {}
        """Name → (delay before the next attempt in seconds, time of that attempt)."""

    def schedule(self, failing: Iterable[str], now: float) -> float | None:
        """Return when something is to be tried again; None when nothing fails.

        failing: all that has failed in the latest attempt; the back-off of everything else begins anew.
        now:     seconds, of whatever clock the result is to be of.
        An attempt before its time, because something else happened, does not lengthen the delay.
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
        """Begin the back-off of everything anew: circumstances have changed."""
        self._next = {}
