"""State that the processes of a lab inherit from its init."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kubenetlab.kernel.features.limits import Limit
from kubenetlab.kernel.namespaces.netns_pool import NetnsPoolSource
from kubenetlab.lab import rundir
from kubenetlab.lab.clock import Clock
from kubenetlab.lab.messages.creation import CreationMessage
from kubenetlab.lab.transport.frames import encode

if TYPE_CHECKING:
    from kubenetlab.lab.bootstrap import Bootstrap


class LabContext:
    """Name and directories of a lab, and descriptors that init opened before it isolated itself.

    Every process that init forks inherits them.
    """

    def __init__(
        self,
        lab: str,
        directory: Path,
        node_agent_count: int,
        worker_count: int,
        bootstrap: Bootstrap | None,
        progress: socket.socket,
    ) -> None:
        self.lab = lab
        self.directory = directory
        self.node_agent_count = node_agent_count
        self.worker_count = worker_count
        self.bootstrap = bootstrap
        """Store that `up` planned. Only the first agent uses it; later ones read the store file."""
        self.progress: socket.socket | None = progress
        """Socket for progress messages to `up`; None for every agent but the first."""
        self.netns_pool: NetnsPoolSource | None = None
        """Source of preallocated network namespaces for the first agent."""
        self.outer_proc_fd = -1
        """Descriptor of the /proc that `up` sees: it shows the lab's processes by outer pids."""
        self.run_netns_fd = -1
        """Descriptor of the machine's /run/netns, or -1 if it is not writable."""
        self.limits: Sequence[Limit] = ()
        """Limits of the machine as read by `up`: inside the lab some of them look unlimited."""
        self.listeners: dict[str, socket.socket] = {}
        self.hidden_directories = rundir.hidden_directories()
        """Directories of the machine that containers do not see.

        They are read in `up`, because they depend on its environment variables.
        """
        self.clock = Clock(time.time() - time.monotonic())

    def send_progress(self, message: CreationMessage) -> None:
        """Send a progress message to `up`, unless `close_progress` was called."""
        if self.progress is not None:
            self.progress.sendall(encode(message))

    def close_progress(self) -> None:
        """Close the progress socket: `up` then uses the API like every other client."""
        if self.progress is not None:
            self.progress.close()
            self.progress = None

    def path(self, name: str) -> str:
        """Return the path of a file in the run directory."""
        return str(self.directory / name)


Role = Callable[[LabContext], None]
"""Main function of a process of the lab."""
