"""The processes of a lab that are always there, as init keeps them: when to start one again that has died."""

from __future__ import annotations

from typing import Final

from kubenetlab.lab.context import Role

BACK_OFF_S: Final = (0.0, 0.1, 0.5, 2.0, 5.0)
"""Delay before a process that died is started again, by the number of its deaths."""
QUIET_S: Final = 60.0
"""Time without a death after which the back-off begins anew, in seconds."""


class Child:
    """One of these processes: how to fork it, and how it has fared. Times are seconds of the monotonic clock."""

    def __init__(self, name: str, role: Role) -> None:
        self.name, self.role = name, role
        self.pid = 0
        """0 while it does not run."""
        self.due = 0.0
        """When it is to be started."""
        self._deaths = 0
        self._last_death = 0.0

    def schedule(self, now: float) -> float:
        """Record that it has died; return the delay before its next start, in seconds."""
        self._deaths = self._deaths + 1 if now - self._last_death < QUIET_S else 1
        delay_s = BACK_OFF_S[min(self._deaths, len(BACK_OFF_S)) - 1]
        self._last_death, self.pid, self.due = now, 0, now + delay_s
        return delay_s
