"""What a lab's processes are born with."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kubenetlab.kernel.features.limits import Limit
from kubenetlab.kernel.namespaces.netns_pool import NetnsPoolSource
from kubenetlab.lab import rundir
from kubenetlab.lab.clock import Clock
from kubenetlab.lab.transport.frames import encode


class LabContext:
    """One lab's name and places, and what its init opened before it left the outside: inherited by every process that it forks."""

    def __init__(
        self,
        lab: str,
        directory: Path,
        node_agents: int,
        workers: int,
        state: Any,
        progress: socket.socket,
    ) -> None:
        self.lab = lab
        self.directory = directory
        self.node_agents = node_agents
        self.workers = workers
        self.state = state
        """What `up` planned; only the first agent uses it, later ones read the store."""
        self.progress: socket.socket | None = progress
        """To `up`: what the first agent is doing. Later agents have none."""
        self.blanks: NetnsPoolSource | None = None
        """Where the first agent gets network namespaces that were made ahead."""
        self.outer_proc = -1
        """The /proc of the namespace that `up` was called in: shows our processes by their numbers there."""
        self.run_netns = -1
        """The machine's /run/netns, or -1 when it cannot be written to."""
        self.limits: Sequence[Limit] = ()
        """The machine's, as `up` saw them: inside some of them look like none."""
        self.listeners: dict[str, socket.socket] = {}
        self.hidden = rundir.hidden_directories()
        """Directories of the machine that programs in a pod do not see, as `up` knows them from its variables."""
        self.clock = Clock(time.time() - time.monotonic())

    def tell_progress(self, **message: Any) -> None:
        """Tell `up` what the agent is doing, as long as it listens."""
        if self.progress is not None:
            self.progress.sendall(encode(message))

    def end_progress(self) -> None:
        """Let go of `up`: from now on it is a client like any other."""
        if self.progress is not None:
            self.progress.close()
            self.progress = None

    def path(self, name: str) -> str:
        return str(self.directory / name)


Role = Callable[[LabContext], None]
"""What a process does with its life."""
