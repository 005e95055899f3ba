"""Log files of containers that are processes of their own."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Final

from kubenetlab.lab import rundir
from kubenetlab.lab.messages.app_worker import RunSelection
from kubenetlab.lab.runtime import container_logs
from kubenetlab.lab.runtime.container_logs import LogPart

ENDED_LOGS: Final = 256
"""Maximum number of log files that are kept of containers whose sandbox is gone."""


class LogFiles:
    """The log files in a lab's run directory, by (sandbox, container)."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._attempts: dict[tuple[str, str], int] = {}
        """(sandbox, container) → attempt that writes the log, or wrote it last."""
        self._ended: deque[tuple[str, str]] = deque()
        """Containers whose sandbox is gone, the oldest first."""

    def path(self, netns: str, container: str) -> Path:
        """Return the path of a container's log file."""
        return self._directory / rundir.container_log(netns, container)

    def has_log(self, netns: str, container: str) -> bool:
        """Return True if a container has a log file."""
        return self.path(netns, container).exists()

    def begin_run(self, netns: str, container: str, attempt: int) -> None:
        """Put the log of the previous run aside; an attempt that is repeated goes on in its log.

        Raises OSError.
        """
        if attempt > self._attempts.get((netns, container), -1):
            container_logs.begin_run(self.path(netns, container))
        self.record_run(netns, container, attempt)

    def record_run(self, netns: str, container: str, attempt: int) -> None:
        """Record which attempt a log is of."""
        self._attempts[netns, container] = attempt

    def append(self, netns: str, container: str, text: str) -> None:
        """Append a text to a log. Raises OSError."""
        with open(self.path(netns, container), "a") as file:
            file.write(text)

    def read(
        self, netns: str, container: str, which: RunSelection, after: int, *, is_going_on: bool
    ) -> LogPart | None:
        """Return the part of a run's log behind `after`; None if that run has no log file."""
        key, path = (netns, container), self.path(netns, container)
        is_previous = which == "previous" or (
            which != "latest" and which < self._attempts.get(key, which)
        )
        if is_previous:
            path = container_logs.previous(path)
        try:
            return container_logs.read(path, after, is_going_on=is_going_on)
        except FileNotFoundError:
            return None

    def forget(self, netns: str) -> None:
        """Keep the logs of a sandbox that is gone until ENDED_LOGS newer ones are kept."""
        ended = [key for key in self._attempts if key[0] == netns]
        self._ended.extend(ended)
        while len(self._ended) > ENDED_LOGS:
            container_logs.remove(self.path(*self._ended.popleft()))
        for key in ended:
            del self._attempts[key]
