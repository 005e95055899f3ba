"""Daemons of nodes: init starts them on request, and restarts them when they end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from msgspec import structs

from kubenetlab.kernel.namespaces.own_directories import logs_of
from kubenetlab.lab.context import Role
from kubenetlab.lab.log import write_text
from kubenetlab.lab.messages.daemons import (
    DaemonList,
    DaemonReloaded,
    DaemonStatus,
    ListDaemons,
    StartDaemon,
    StopDaemon,
)
from kubenetlab.lab.processes.children import Child, describe_exit
from kubenetlab.lab.processes.output import Outputs
from kubenetlab.lab.processes.spawner import Spawner
from kubenetlab.lab.transport.protocol import Done, Handler, Message

STABLE_S: Final = 10.0
"""Duration of a run after which a daemon counts as working again, in seconds."""
KILL_AFTER_S: Final = 2.0
"""Time allowed for a daemon to end after SIGTERM, in seconds."""


class DaemonRoles(Protocol):
    """Role of a daemon's process; see roles.py."""

    def daemon_role(self, request: StartDaemon) -> Role:
        """Return the role that executes a daemon."""


class _Daemon:
    """A daemon: what it runs, its restarts, and its latest exit."""

    def __init__(self, request: StartDaemon, child: Child) -> None:
        self.request = request
        self.child = child
        self.started_at = 0.0
        """Time of the latest start, by the monotonic clock; 0 before the first one."""
        self.failures = 0
        self.failure = ""

    @property
    def status(self) -> DaemonStatus:
        request = self.request
        return DaemonStatus(
            request.netns,
            request.sandbox,
            request.name,
            request.argv,
            request.revision,
            self.child.pid,
            self.failures,
            self.failure,
        )


class Daemons:
    """The daemons of all sandboxes, by (sandbox, name)."""

    def __init__(self, spawner: Spawner, outputs: Outputs, roles: DaemonRoles) -> None:
        """Begin without daemons."""
        self._spawner = spawner
        self._outputs = outputs
        self._roles = roles
        self._daemons: dict[tuple[str, str], _Daemon] = {}
        self._stopping: dict[int, tuple[tuple[str, str], float]] = {}
        """Process of a daemon that was stopped → its key, and the time at which it is killed."""
        self.on_change: Callable[[Message], None] = lambda event: None
        """Called with the state of a daemon that has started or ended."""

    @property
    def handlers(self) -> Iterator[Handler[[int]]]:
        """Handlers of the requests of this protocol; their argument is the client."""
        yield StartDaemon.handled_by(self._start_requested)
        yield DaemonReloaded.handled_by(self._reloaded)
        yield StopDaemon.handled_by(self._stop_requested)
        yield ListDaemons.handled_by(self._list)

    @property
    def due(self) -> Iterator[float]:
        """Times at which `start_due` has something to do, by the monotonic clock."""
        yield from (kill_at for _, kill_at in self._stopping.values())
        for key, daemon in self._daemons.items():
            if not daemon.child.pid and not self._is_stopping(key):
                yield daemon.child.due

    def has_process(self, pid: int) -> bool:
        """Return True for the process of a daemon."""
        return pid in self._stopping or self._of_process(pid) is not None

    def start_due(self) -> None:
        """Start the daemons whose back-off is over; kill those that do not end."""
        now = time.monotonic()
        for pid, (key, kill_at) in list(self._stopping.items()):
            if kill_at <= now:
                os.kill(pid, signal.SIGKILL)
                self._stopping[pid] = key, now + KILL_AFTER_S
        for key, daemon in list(self._daemons.items()):
            if not daemon.child.pid and daemon.child.due <= now and not self._is_stopping(key):
                self._start(daemon)

    def report_exit(self, pid: int, status: int) -> None:
        """Schedule the restart of a daemon that has ended; ignore other processes.

        status: as waitpid() returns it.
        """
        self._stopping.pop(pid, None)
        if (daemon := self._of_process(pid)) is not None:
            self._outputs.drain(pid)
            self._failed(daemon, f"ended ({describe_exit(status)})")

    def _start_requested(self, request: StartDaemon, client: int) -> Done:
        self._stop(request.netns, request.name)
        daemon = _Daemon(request, Child(request.name, self._roles.daemon_role(request)))
        self._daemons[request.netns, request.name] = daemon
        self.start_due()  # unless a process of the same name has not ended yet
        return Done()

    def _reloaded(self, request: DaemonReloaded, client: int) -> Done:
        daemon = self._daemons.get((request.netns, request.name))
        if daemon is None:
            raise ProcessLookupError(f"{request.netns} has no daemon {request.name}")
        daemon.request = structs.replace(daemon.request, revision=request.revision)
        if request.signal and daemon.child.pid:
            os.kill(daemon.child.pid, request.signal)
        return Done()

    def _stop_requested(self, request: StopDaemon, client: int) -> Done:
        self._stop(request.netns, request.name)
        return Done()

    def _list(self, request: ListDaemons, client: int) -> DaemonList:
        return DaemonList(tuple(daemon.status for daemon in self._daemons.values()))

    def _of_process(self, pid: int) -> _Daemon | None:
        return next((each for each in self._daemons.values() if each.child.pid == pid), None)

    def _is_stopping(self, key: tuple[str, str]) -> bool:
        """Return True while a stopped process of a daemon has not ended."""
        return any(other == key for other, _ in self._stopping.values())

    def _stop(self, netns: str, name: str) -> None:
        daemon = self._daemons.pop((netns, name), None)
        if daemon is not None and (pid := daemon.child.pid):
            os.kill(pid, signal.SIGTERM)
            self._stopping[pid] = (netns, name), time.monotonic() + KILL_AFTER_S

    def _start(self, daemon: _Daemon) -> None:
        request, child = daemon.request, daemon.child
        options = request.restart_options if daemon.started_at else ()
        role = self._roles.daemon_role(structs.replace(request, argv=(*request.argv, *options)))
        logs = logs_of(request.tree)
        try:
            os.makedirs(logs, 0o700, exist_ok=True)
            log = f"{logs}/{request.name}.log"
            child.pid = self._spawner.spawn_in_pod(
                request.name, role, request.sandbox, log, has_times=False
            )
        except ProcessLookupError:
            del self._daemons[request.netns, request.name]  # the sandbox is gone
        except OSError as error:
            self._failed(daemon, f"cannot be started ({error.strerror})")
        else:
            daemon.started_at = time.monotonic()
            self.on_change(daemon.status)

    def _failed(self, daemon: _Daemon, failure: str) -> None:
        now = time.monotonic()
        if now - daemon.started_at >= STABLE_S:
            daemon.failures = 0
        daemon.failures += 1
        daemon.failure = failure
        delay_s = daemon.child.schedule(now)
        write_text(
            f"{daemon.request.netns}: daemon {daemon.request.name} {failure}; "
            f"next start in {delay_s:.1f} s"
        )
        self.on_change(daemon.status)
