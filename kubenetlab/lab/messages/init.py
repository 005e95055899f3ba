"""Protocol of init: processes in pods, started on request; for daemons see daemons.py.

Its clients are the agent, for the containers' own processes, and the node agents, for the commands
of probes and hooks. Pids in requests and replies are those of the lab's PID namespace.
"""

from __future__ import annotations

from kubenetlab.kernel.processes.identity import ProcessId
from kubenetlab.lab.messages.daemons import DaemonRequest, DaemonStatus
from kubenetlab.lab.transport.protocol import Done, Message, Request
from kubenetlab.programs.command import CommandOptions


class Command(Message, frozen=True):
    """A real command of a container."""

    options: CommandOptions
    hosts: str
    """Content of /etc/hosts."""
    resolv_conf: str
    """Content of /etc/resolv.conf."""
    hostname: str
    environment: dict[str, str]


class CoreDns(Message, frozen=True):
    """The built-in CoreDNS."""


class PodProcess(Message, frozen=True):
    """A process in a pod."""

    run: str
    """Name of the process, chosen by the client that requested it."""
    program: str
    """Name of the module in `programs/`."""
    netns: str
    """Sandbox of the pod."""
    sandbox: ProcessId
    """Pause process of the pod."""
    container: str
    attempt: int = 0
    is_probe: bool = False
    """True for the command of a probe or hook, beside the container's own process."""
    pid: int = 0
    """Not valid after its exit."""


class Started(Message, frozen=True):
    """The process of a request was started."""

    pid: int


class StartContainer(Request[Started], frozen=True):
    """Start a container's own process."""

    run: str
    netns: str
    sandbox: ProcessId
    container: str
    attempt: int
    program: Command | CoreDns


class ExecuteInContainer(Request[Started], frozen=True):
    """Start a command of a probe or hook, which ends with the client's connection."""

    run: str
    """Name of the process and of its log."""
    netns: str
    container: str
    """Container whose own process the command joins."""
    argv: tuple[str, ...]


class SignalSent(Message, frozen=True):
    """Result of SendSignal."""

    is_running: bool
    """False if the process has exited already."""


class SendSignal(Request[SignalSent], frozen=True):
    """Send a signal to a process: init reaps it, so the pid cannot be that of another one."""

    run: str
    signal: int


class ProcessExited(Message, frozen=True):
    """Event: a process has exited."""

    process: PodProcess
    status: int
    """Wait status of waitpid(2)."""
    at: float
    """Time of the exit, in seconds since 1970."""
    oom_limit: int = 0
    """Memory limit that the container exceeded, in bytes; 0 if it did not."""


class ProcessList(Message, frozen=True):
    """Processes that run, and exits that no client has acknowledged."""

    processes: tuple[PodProcess, ...]
    exits: tuple[ProcessExited, ...]


class ListProcesses(Request[ProcessList], frozen=True):
    """List the processes and exits that a new agent has missed."""


class AcknowledgeExits(Request[Done], frozen=True):
    """Drop exits that the agent has stored or does not need."""

    runs: tuple[str, ...]


InitRequest = (
    StartContainer
    | ExecuteInContainer
    | SendSignal
    | ListProcesses
    | AcknowledgeExits
    | DaemonRequest
)
InitEvent = ProcessExited | DaemonStatus
