"""Routes that daemons add to the kernel: the lab is ready when they exist."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from msgspec import Struct

from kubenetlab import names
from kubenetlab.hoststate.daemons import Daemon
from kubenetlab.hoststate.state import HostState
from kubenetlab.kernel.namespaces.sandboxes import Sandboxes
from kubenetlab.kernel.routes import destinations
from kubenetlab.lab.agent.clients.daemon_client import DaemonClient, daemons_of

CHECK_INTERVAL_S: Final = 0.02
"""Time between two checks of a daemon that has just been started or reloaded, in seconds."""
LATE_INTERVAL_S: Final = 0.5
"""Time between two checks of a daemon that is late, in seconds."""
LATE_AFTER_S: Final = 10.0
"""Time after which a daemon that has not added its routes counts as failed, in seconds."""
FAILED_AFTER: Final = 3
"""Number of exits in a row after which a daemon counts as failed."""
SHOWN: Final = 3
"""Maximum number of routes that a message names."""


class DaemonState(Struct, frozen=True):
    """State of a daemon that is not ready, for users."""

    daemon: str
    """Name and sandbox: `bird of node/worker`."""
    is_failed: bool
    """True if it will not become ready by itself."""
    reason: str


class ProvidedRoutes:
    """The sandboxes in which a daemon has not added all of its routes yet."""

    def __init__(
        self,
        daemons: DaemonClient,
        sandboxes: Sandboxes,
        kernel_lock: asyncio.Lock,
        desired: Callable[[], HostState],
        on_change: Callable[[], None],
    ) -> None:
        """Begin without expectations.

        on_change: called when the result of `unready` may have changed.
        """
        self._daemons = daemons
        self._sandboxes = sandboxes
        self._kernel_lock = kernel_lock
        self._desired = desired
        self._on_change = on_change
        self._pending: dict[str, float] = {}
        """Sandbox → time of its latest change, by the monotonic clock."""
        self._missing: dict[str, dict[str, tuple[str, ...]]] = {}
        """Sandbox → daemon → destinations without a route."""
        self._task: asyncio.Task[None] | None = None

    def check(self, netns: str) -> None:
        """Check a sandbox whose daemons have changed until all of its routes exist."""
        self._pending[netns] = time.monotonic()
        self._missing.pop(netns, None)
        self._on_change()
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    def check_all(self) -> None:
        """Check every sandbox with such daemons: routes may have gone, as with a lost session."""
        for netns, contents in self._desired().namespaces.items():
            is_router = netns.startswith((names.NODES, names.ROUTER))
            if is_router and any(each.provides for each in daemons_of(contents)):
                self.check(netns)

    def missing(self, netns: str, desired: HostState | None = None) -> dict[str, tuple[str, ...]]:
        """Read the routes of a sandbox; return the destinations without a route by daemon.

        desired: state whose daemons should provide routes; by default that of the lab.
        """
        contents = (desired or self._desired())[netns]
        daemons = [each for each in daemons_of(contents) if each.provides]
        if not daemons:
            return {}
        try:
            existing = destinations(self._sandboxes, netns)
        except (KeyError, FileNotFoundError, ProcessLookupError):
            return {}  # the sandbox is gone
        return {
            each.name: lacking
            for each in daemons
            if (lacking := tuple(route for route in each.provides if route not in existing))
        }

    def unready(self) -> Iterator[DaemonState]:
        """Yield the daemons that are not ready."""
        now = time.monotonic()
        for netns, since in self._pending.items():
            for daemon in daemons_of(self._desired()[netns]):
                # Until the first check, every route counts as missing.
                missing = self._missing.get(netns, {daemon.name: daemon.provides}).get(daemon.name)
                status = self._daemons.status(netns, daemon.name)
                title = f"{daemon.name} of {netns}"
                if not self._daemons.is_up(daemon):
                    is_failed = status is not None and status.failures >= FAILED_AFTER
                    reason = (status.failure if status is not None else "") or "it is starting"
                    yield DaemonState(title, is_failed, reason)
                elif missing:
                    yield DaemonState(
                        title, now - since >= LATE_AFTER_S, _describe(daemon, missing)
                    )

    async def _run(self) -> None:
        """Check the pending sandboxes until no daemon is unready."""
        while self._pending:
            async with self._kernel_lock:
                self._missing = {netns: self.missing(netns) for netns in self._pending}
            before = len(self._pending)
            self._pending = {
                netns: since
                for netns, since in self._pending.items()
                if self._missing.get(netns) != {} or not self._are_up(netns)
            }
            late = [since for since in self._pending.values() if self._is_late(since)]
            if len(self._pending) < before or late:
                self._on_change()
            if self._pending:
                is_late = len(late) == len(self._pending)
                await asyncio.sleep(LATE_INTERVAL_S if is_late else CHECK_INTERVAL_S)

    def _are_up(self, netns: str) -> bool:
        return all(map(self._daemons.is_up, daemons_of(self._desired()[netns])))

    def _is_late(self, since: float) -> bool:
        return time.monotonic() - since >= LATE_AFTER_S


def _describe(daemon: Daemon, missing: Iterable[str]) -> str:
    """Return the routes that a daemon has not added, as a reason for users."""
    names = list(missing)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (
        f"{len(names)} of {len(daemon.provides)} routes are missing: "
        f"{', '.join(names[:SHOWN])}{more}"
    )
