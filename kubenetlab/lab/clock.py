"""Clock of a lab: it starts with the machine's time, and is not affected when that time is set.

The store holds deadlines (of a restart, a deletion, a Job) as times of this clock, so that setting
the machine's clock back does not delay them. Users see times of the machine's clock: the API adds
the difference.
"""

from __future__ import annotations

import time


class Clock:
    """Time in seconds since 1970: that at the start of the lab, advanced by CLOCK_MONOTONIC.

    CLOCK_MONOTONIC is the same for all processes of a machine, so that a restarted agent continues
    with the clock of the previous one.
    """

    def __init__(self, offset_s: float) -> None:
        """Create a clock. `offset_s`: time of day minus CLOCK_MONOTONIC at the start of the lab."""
        self._offset_s = offset_s

    def now(self) -> float:
        """Return the time of the lab, in seconds since 1970."""
        return self._offset_s + time.monotonic()

    @property
    def skew_s(self) -> float:
        """Seconds by which the machine's clock is ahead of the lab's."""
        return time.time() - self.now()
