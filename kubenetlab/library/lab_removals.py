"""Removal of labs by commands in the background."""

from __future__ import annotations

import warnings
from typing import Final

from kubenetlab.errors import KubenetlabError
from kubenetlab.library.lab_warning import LabWarning
from kubenetlab.library.process import StartedCommand, remove_at_end

MAX_RUNNING: Final = 2
"""Maximum number of labs that are being removed while tests run."""


class LabRemovals:
    """Labs that are being removed.

    The command server removes them, too, when this process ends, until their removal has succeeded.
    """

    def __init__(self) -> None:
        self._running: dict[str, StartedCommand] = {}
        """Lab → command that removes it."""
        self._failed: dict[str, str] = {}
        """Lab that could not be removed → reason."""

    def start(self, lab: str) -> None:
        """Start to remove a lab. Wait for earlier removals if there are many."""
        self._collect()
        while len(self._running) >= MAX_RUNNING:
            self._end(next(iter(self._running)))
        self._running[lab] = StartedCommand(["down", "--lab", lab])

    def wait_for(self, lab: str) -> None:
        """Wait until the removal of a lab has ended, so that another one can have its name."""
        if lab in self._running:
            self._end(lab)

    def finish(self) -> list[str]:
        """Wait for all removals; try those that have failed again. Return the labs that are left.

        Each of them is a warning. Ctrl-C, for example, also interrupts removals.
        """
        while self._running:
            self._end(next(iter(self._running)))
        again, self._failed = self._failed, {}
        for lab in again:
            self._running[lab] = StartedCommand(["down", "--lab", lab])
            self._end(lab)
        for lab, reason in self._failed.items():
            warnings.warn(f"cannot remove lab {lab}: {reason}", LabWarning, stacklevel=2)
        return list(self._failed)

    def _collect(self) -> None:
        """Record the results of the removals that have ended."""
        for lab in [lab for lab, command in self._running.items() if command.has_ended()]:
            self._end(lab)

    def _end(self, lab: str) -> None:
        """Wait for a removal, and record its result."""
        try:
            with self._running.pop(lab) as command:
                command.completed().require(0)
        except KubenetlabError as error:
            self._failed[lab] = str(error)
        else:
            remove_at_end(lab, is_gone=True)
