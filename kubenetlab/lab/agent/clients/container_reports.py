"""Reports of containers that have started or ended: filter them, batch them, pass them on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kubenetlab.kernel.processes.identity import ProcessId
from kubenetlab.lab.messages.app_worker import RunReport
from kubenetlab.lab.transport.batcher import Batcher

OnReports = Callable[[Sequence[RunReport]], None]
"""Called with the reports of one iteration of the event loop."""
SandboxOf = Callable[[str], ProcessId | None]
"""Return the pause process that holds a sandbox now."""


class ContainerReports:
    """Latest known state of every container, by (sandbox, container).

    A report that a run has started may arrive after the report that the same run has ended; it is
    dropped then. Reports of a former sandbox are dropped even if a new one has the same name.
    """

    def __init__(self, on_reports: OnReports, sandbox_of: SandboxOf) -> None:
        self._on_reports = on_reports
        self._sandbox_of = sandbox_of
        self._batcher = Batcher(self._deliver)
        self.running: dict[tuple[str, str], int] = {}
        """(sandbox, container) → attempt that is running."""
        self._ended: dict[tuple[str, str], int] = {}
        """(sandbox, container) → latest attempt that has ended."""
        self._delivered: list[str] = []
        """Runs whose exits were passed on since the last `take_delivered`."""

    def add(self, report: RunReport) -> bool:
        """Pass a report on at the end of the loop iteration; return False if it is dropped."""
        if not self._is_current(report):
            return False
        key, attempt = (report.netns, report.container), report.outcome.attempt
        if report.outcome.state == "running":
            if attempt <= self._ended.get(key, -1):
                return False
            self.running[key] = attempt
        else:
            self._ended[key] = max(attempt, self._ended.get(key, -1))
            if self.running.get(key, attempt + 1) <= attempt:
                del self.running[key]
        self._batcher.add(report)
        return True

    def take_delivered(self) -> list[str]:
        """Return the runs whose exits were passed on since the last call."""
        delivered, self._delivered = self._delivered, []
        return delivered

    def forget(self, netns: str) -> None:
        """Drop the containers of a sandbox."""
        for states in (self.running, self._ended):
            for key in [key for key in states if key[0] == netns]:
                del states[key]

    def _deliver(self, reports: Sequence[RunReport]) -> None:
        # A sandbox may have exited in the iteration in which its last reports arrived.
        self._on_reports([report for report in reports if self._is_current(report)])
        self._delivered += [report.run for report in reports if report.run]

    def _is_current(self, report: RunReport) -> bool:
        """Return False if the sandbox has gone; a successor has another pause process."""
        return self._sandbox_of(report.netns) == report.sandbox
