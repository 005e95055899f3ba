"""Protocol of the app workers: built-in programs of containers."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from kubenetlab.api.lab import ContainerReport
from kubenetlab.hoststate.programs import ListenPort, ProgramOptions
from kubenetlab.kernel.processes.identity import ProcessId
from kubenetlab.lab.transport.protocol import Done, Message, Request
from kubenetlab.programs.kube_proxy_events import SyncEvent
from kubenetlab.programs.support.http import PodIdentity

RunSelection = int | Literal["latest", "previous"]
"""Selection of a run: its attempt number, the latest run, or the one before it."""


class ProgramPod(Struct, frozen=True):
    """The pod, node or external host in whose namespaces a program runs."""

    identity: PodIdentity
    versions: tuple[int, ...]
    """IP versions of its addresses, the primary one first."""
    hosts: str
    """Content of /etc/hosts."""
    resolv_conf: str
    """Content of /etc/resolv.conf."""


class RunReport(Message, frozen=True):
    """State of a run of a container; as an event, that the run has ended.

    Reports of containers that are processes of their own have this form as well.
    """

    netns: str
    """Sandbox of the pod."""
    sandbox: ProcessId
    """Pause process of the pod."""
    container: str
    outcome: ContainerReport
    run: str = ""
    """Name of the process whose exit init keeps until it is acknowledged; else empty."""


class StartProgram(Request[RunReport], frozen=True):
    """Start a program, or change the options and ports of a running one."""

    netns: str
    sandbox: ProcessId
    container: str
    attempt: int
    program: str
    """Name of the module in `programs/`."""
    options: ProgramOptions
    listeners: tuple[ListenPort, ...]
    pod: ProgramPod
    is_stopping: bool = False
    """True after SIGTERM, until the program exits."""


class ProgramNotified(Message, frozen=True):
    """Result of NotifyProgram."""

    is_running: bool
    """False if the program does not run; it has not received the events then."""


class NotifyProgram(Request[ProgramNotified], frozen=True):
    """Pass events of the lab to a program."""

    netns: str
    container: str
    events: tuple[SyncEvent, ...]


class StopProgram(Request[Done], frozen=True):
    """End a program; success if it does not run."""

    netns: str
    container: str


class ForgetSandbox(Request[Done], frozen=True):
    """End the programs of a sandbox that is gone; their logs are kept for a while."""

    netns: str


class LogLines(Message, frozen=True):
    """Part of a program's log."""

    lines: list[str]
    end: int
    """Number of lines that the program has written."""


class NoLog(Message, frozen=True):
    """The app worker has no log of the program."""


class ReadLog(Request[LogLines | NoLog], frozen=True):
    """Return the lines of a run behind the first `after` lines."""

    netns: str
    container: str
    selection: RunSelection
    after: int


class Ping(Request[Done], frozen=True):
    """Reply, which follows all events that were sent before."""


class WorkerStarted(Message, frozen=True):
    """Event, the first one of a connection: the runs of which the app worker knows."""

    runs: tuple[RunReport, ...]


AppWorkerRequest = StartProgram | NotifyProgram | StopProgram | ForgetSandbox | ReadLog | Ping
AppWorkerEvent = WorkerStarted | RunReport
