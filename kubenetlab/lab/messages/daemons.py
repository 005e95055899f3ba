"""Protocol of init: daemons of nodes, which it restarts until the agent stops them."""

from __future__ import annotations

from kubenetlab.kernel.processes.identity import ProcessId
from kubenetlab.lab.transport.protocol import Done, Message, Request


class StartDaemon(Request[Done], frozen=True):
    """Start a daemon, in place of one with the same name in the same sandbox.

    A program that cannot be executed is an exit of the daemon, not a failure of the request.
    """

    netns: str
    sandbox: ProcessId
    """Pause process of the sandbox; the daemon ends with it."""
    name: str
    argv: tuple[str, ...]
    revision: str
    """Digest of the files that the daemon reads when it starts."""
    tree: str
    """Directory with the files of the sandbox."""
    hosts: str
    """Content of /etc/hosts."""
    resolv_conf: str
    """Content of /etc/resolv.conf."""
    restart_options: tuple[str, ...] = ()
    """Further arguments when it is started again after its end."""


class DaemonReloaded(Request[Done], frozen=True):
    """Record that a daemon has read its files again; send it a signal to do so."""

    netns: str
    name: str
    revision: str
    signal: int = 0
    """Number of the signal; 0 if the daemon was told otherwise."""


class StopDaemon(Request[Done], frozen=True):
    """Stop a daemon, if there is one of this name."""

    netns: str
    name: str


class DaemonStatus(Message, frozen=True):
    """Event and part of a reply: the state of a daemon."""

    netns: str
    sandbox: ProcessId
    name: str
    argv: tuple[str, ...]
    revision: str
    pid: int
    """Pid in the lab's PID namespace; 0 while the daemon does not run."""
    failures: int
    """Number of exits without a long run between them."""
    failure: str = ""
    """Description of the latest exit."""


class DaemonList(Message, frozen=True):
    """All daemons."""

    daemons: tuple[DaemonStatus, ...]


class ListDaemons(Request[DaemonList], frozen=True):
    """List the daemons that a former agent has started."""


DaemonRequest = StartDaemon | DaemonReloaded | StopDaemon | ListDaemons
