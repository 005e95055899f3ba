"""Processes that init has forked into pods, and exits that the agent has not stored yet.

The client that requests a process gives it a name, `run`, that is unique in the lab's life. It can
therefore match an exit that is reported before the answer to the request. The exit of a container's
own process is kept until the agent acknowledges it, so that it is not lost with a killed agent.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct

from kubenetlab.kernel.processes.identity import ProcessId
from kubenetlab.lab.transport.json_frames import Message


class PodProcess(Struct):
    """A process that init has forked into a pod and has not reaped, so that its pid is its own."""

    run: str
    pid: int
    role: str
    sandbox: ProcessId
    """The pause process of the pod."""
    arguments: Mapping[str, Any]
    """Arguments of the role, as the client sent them."""
    client: int = -1
    """Descriptor of the connection that requested a probe's command; -1 for other processes."""

    @property
    def container(self) -> tuple[str, str]:
        """The container that the process belongs to, as (sandbox, container)."""
        return self.arguments["netns"], self.arguments["container"]

    @property
    def is_probe(self) -> bool:
        """True for the command of a probe or hook, beside the container's own process."""
        return bool(self.arguments.get("beside"))

    def description(self) -> Message:
        """Return the description of the process in answers and events."""
        netns, container = self.container
        return {
            "run": self.run,
            "role": self.role,
            "netns": netns,
            "sandbox": self.sandbox,
            "container": container,
            "attempt": self.arguments.get("attempt", 0),
            "is_probe": self.is_probe,
        }


class PodProcesses:
    """The processes that run in pods, and the exits that no agent has acknowledged."""

    def __init__(self) -> None:
        self._by_pid: dict[int, PodProcess] = {}
        self._exits: dict[str, Message] = {}
        """Events by run, in the order in which they happened."""

    def add(self, process: PodProcess) -> None:
        """Track a process that has just been started."""
        self._by_pid[process.pid] = process

    def __contains__(self, pid: int) -> bool:
        return pid in self._by_pid

    def of_container(self, netns: str, container: str) -> PodProcess:
        """Return a container's own process. Raises ProcessLookupError if there is none."""
        for process in self._by_pid.values():
            if process.container == (netns, container) and not process.is_probe:
                return process
        raise ProcessLookupError(f"container {container} is not running")

    def record_exit(self, pid: int, status: int, at: float) -> Message | None:
        """Drop a process and return the event of its exit; None if it was not forked into a pod.

        status: as waitpid() returns it. at: seconds since the epoch.
        """
        process = self._by_pid.pop(pid, None)
        if process is None:
            return None
        event = {"event": "exited", **process.description(), "status": status, "at": at}
        if not process.is_probe:
            self._exits[process.run] = event
        return event

    def acknowledge(self, runs: Iterable[str]) -> None:
        """Drop exits that the agent has stored or does not need."""
        for run in runs:
            self._exits.pop(run, None)

    def listing(self) -> Message:
        """Return all processes and all exits that are not acknowledged."""
        return {
            "processes": [
                {**process.description(), "pid": process.pid} for process in self._by_pid.values()
            ],
            "exits": list(self._exits.values()),
        }

    def abandon(self, client: int) -> list[PodProcess]:
        """Kill the probe commands of a closed connection, and return them.

        No other client knows of them or reads their output.
        """
        abandoned = [
            process
            for process in self._by_pid.values()
            if process.is_probe and process.client == client
        ]
        for process in abandoned:
            process.client = -1  # the next connection may get the same descriptor
            os.kill(process.pid, signal.SIGKILL)
        return abandoned

    def signal(self, run: str, number: int) -> bool:
        """Send a signal to a process; return False if it has been reaped already."""
        process = next((process for process in self._by_pid.values() if process.run == run), None)
        if process is None:
            return False
        os.kill(process.pid, signal.Signals(number))
        return True
