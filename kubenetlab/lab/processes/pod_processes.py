"""Processes that init has forked into pods, and exits that the agent has not stored yet.

The client that requests a process gives it a name, `run`, that is unique in the lab's life. It can
therefore match an exit that is reported before the answer to the request. The exit of a container's
own process is kept until the agent acknowledges it, so that it is not lost with a killed agent.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable

from msgspec import Struct

from kubenetlab.lab.messages.init import PodProcess, ProcessExited, ProcessList
from kubenetlab.programs.command import CommandOptions


class TrackedProcess(Struct):
    """A process that init has forked into a pod and has not reaped, so that its pid is its own."""

    process: PodProcess
    options: CommandOptions | None = None
    """Options of a container with a real command, for the commands of its probes."""
    client: int = -1
    """Descriptor of the connection that requested a probe's command; -1 for other processes."""


class PodProcesses:
    """The processes that run in pods, and the exits that no agent has acknowledged."""

    def __init__(self) -> None:
        self._by_pid: dict[int, TrackedProcess] = {}
        self._exits: dict[str, ProcessExited] = {}
        """Events by run, in the order in which they happened."""

    def add(self, tracked: TrackedProcess) -> None:
        """Track a process that has just been started."""
        self._by_pid[tracked.process.pid] = tracked

    def __contains__(self, pid: int) -> bool:
        return pid in self._by_pid

    def of_container(self, netns: str, container: str) -> TrackedProcess:
        """Return a container's own process. Raises ProcessLookupError if there is none."""
        for tracked in self._by_pid.values():
            process = tracked.process
            if (process.netns, process.container) == (netns, container) and not process.is_probe:
                return tracked
        raise ProcessLookupError(f"container {container} is not running")

    def take_exited(self, pid: int) -> PodProcess | None:
        """Drop a process that has exited, and return it; None if it was not forked into a pod."""
        tracked = self._by_pid.pop(pid, None)
        return tracked.process if tracked is not None else None

    def record_exit(self, event: ProcessExited) -> None:
        """Keep the exit of a container's own process until it is acknowledged."""
        if not event.process.is_probe:
            self._exits[event.process.run] = event

    def acknowledge(self, runs: Iterable[str]) -> None:
        """Drop exits that the agent has stored or does not need."""
        for run in runs:
            self._exits.pop(run, None)

    def listing(self) -> ProcessList:
        """Return all processes and all exits that are not acknowledged."""
        return ProcessList(
            tuple(tracked.process for tracked in self._by_pid.values()),
            tuple(self._exits.values()),
        )

    def abandon(self, client: int) -> list[PodProcess]:
        """Kill the probe commands of a closed connection, and return them.

        No other client knows of them or reads their output.
        """
        abandoned = [
            tracked
            for tracked in self._by_pid.values()
            if tracked.process.is_probe and tracked.client == client
        ]
        for tracked in abandoned:
            tracked.client = -1  # the next connection may get the same descriptor
            os.kill(tracked.process.pid, signal.SIGKILL)
        return [tracked.process for tracked in abandoned]

    def signal(self, run: str, number: int) -> bool:
        """Send a signal to a process; return False if it has been reaped already."""
        for tracked in self._by_pid.values():
            if tracked.process.run == run:
                os.kill(tracked.process.pid, signal.Signals(number))
                return True
        return False
