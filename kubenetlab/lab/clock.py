"""The lab's clock: it begins as the machine's and then counts seconds, whatever is done to the machine's.

Deadlines (of a restart, a deletion, a Job) are kept in the store as times, and compared with this clock: setting the machine's back
delays nothing. What users see are times of the machine's clock; the API adds the difference.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any


class Clock:
    """Seconds since 1970, as of the start of the lab, and as many as have passed since on CLOCK_MONOTONIC.

    That clock is the same for all processes of a machine: every agent of a lab goes on where the one before was.
    """

    def __init__(self, offset_s: float) -> None:
        """`offset_s` is what CLOCK_MONOTONIC lacks of the time of day, at the start of the lab."""
        self._offset_s = offset_s

    def now(self) -> float:
        """Return the time of the lab."""
        return self._offset_s + time.monotonic()

    @property
    def skew_s(self) -> float:
        """How far the machine's clock is ahead of the lab's."""
        return time.time() - self.now()

    def of_lab(self, reports: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return reports of other processes with the lab's time in place of the machine's, for those that have one."""
        skew_s = self.skew_s
        return [
            {**report, "at": report["at"] - skew_s} if "at" in report else report
            for report in reports
        ]
