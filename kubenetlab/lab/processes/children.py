"""Permanent processes of a lab, which init restarts with a back-off when they die."""

from __future__ import annotations

import os
from typing import Final

from kubenetlab.lab.context import Role

BACK_OFF_S: Final = (0.0, 0.1, 0.5, 2.0, 5.0)
"""Delays before the first, second, ... restart of a process, in seconds; the last one is kept."""
RESET_AFTER_S: Final = 60.0
"""Time since the previous failure after which the back-off is reset, in seconds."""


def describe_exit(status: int) -> str:
    """Return how a process ended.

    status: as waitpid() returns it.
    """
    code = os.waitstatus_to_exitcode(status)
    return f"signal {-code}" if code < 0 else f"exit status {code}"


class Child:
    """A permanent process: its role and its restarts. Times are of the monotonic clock."""

    def __init__(self, name: str, role: Role) -> None:
        self.name, self.role = name, role
        self.pid = 0
        """The pid, or 0 while the process does not run."""
        self.due = 0.0
        """Time of the next start."""
        self._failures = 0
        self._last_failure = 0.0

    def schedule(self, now: float) -> float:
        """Record a failure; return the delay before the next start, in seconds."""
        is_repeated = now - self._last_failure < RESET_AFTER_S
        self._failures = self._failures + 1 if is_repeated else 1
        delay_s = BACK_OFF_S[min(self._failures, len(BACK_OFF_S)) - 1]
        self._last_failure, self.pid, self.due = now, 0, now + delay_s
        return delay_s
