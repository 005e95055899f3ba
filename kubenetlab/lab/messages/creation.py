"""Messages of a new lab's processes to the `up` that is waiting for the lab."""

from __future__ import annotations

from kubenetlab.kernel.processes.identity import ProcessId
from kubenetlab.lab.transport.protocol import Message


class InitStarted(Message, frozen=True):
    """Init runs, and ends together with `up` from now on."""

    process: ProcessId
    """Init, as seen in the PID namespace of `up`."""


class PhaseStarted(Message, frozen=True):
    """The agent has begun a phase of its work."""

    phase: str
    total: int = 0
    """Number of namespaces to make; 0 if nothing is counted."""


class NamespaceMade(Message, frozen=True):
    """The agent has completed a namespace."""

    netns: str
    count: int
    """Number of completed namespaces."""


class LabBuilt(Message, frozen=True):
    """Everything was built."""

    namespaces: int
    """Number of namespaces."""
    reasons: tuple[str, ...]
    """Reasons for choices that the agent made."""


class CreationFailed(Message, frozen=True):
    """The lab cannot be built."""

    error: str
    kind: str
    """Name of the exception's class in `errors`."""
    trace: str
    """Traceback, for debugging."""


Progress = PhaseStarted | NamespaceMade
CreationMessage = InitStarted | Progress | LabBuilt | CreationFailed
