"""Cache of the kernel state of every network namespace of the lab.

The cache changes when the agent reads a namespace or has changed it. A namespace is read again when
a new agent takes over, when the kernel refused a change in it, and when a netlink event contradicts
the cache. In addition, all namespaces are read in rotation, a few at a time, to catch what the
kernel does not announce (sysctls, the hairpin mode of a bridge port).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable
from math import ceil
from typing import Final

from kubenetlab.errors import os_error_text
from kubenetlab.hoststate.files import File
from kubenetlab.hoststate.netlink_events import NetlinkEvent, is_contradicted
from kubenetlab.hoststate.object import KERNEL_APPLIERS, Object
from kubenetlab.hoststate.state import Contents, HostState, contents_of, linked_namespaces
from kubenetlab.kernel.file_trees import FileWatch
from kubenetlab.kernel.linux import LinuxKernel
from kubenetlab.kernel.namespaces.sandboxes import Pause
from kubenetlab.kernel.netlink.monitor import Monitor
from kubenetlab.lab.log import log

FULL_SCAN_S: Final = 30.0
"""Period of a full scan in a lab of at most BATCH_SIZE namespaces, in seconds."""
BATCH_SIZE: Final = 20
"""Number of namespaces read per batch of a full scan."""
MIN_BATCH_INTERVAL_S: Final = 5.0
"""Minimum time between two batches: a lab of 1,000 namespaces is scanned every four minutes, which
costs 0.1 % of one processor."""
NO_SCANS: Final = "KUBENETLAB_NO_SCANS"
"""Environment variable of `up` that disables full scans. Used by tests of the event path."""


class ObservedState:
    """Observed objects per namespace, in `contents`."""

    def __init__(
        self,
        kernel: LinuxKernel,
        is_idle: Callable[[], bool],
        on_drift: Callable[[], None],
        on_exit: Callable[[str, Pause], None] = lambda netns, pause: None,
    ) -> None:
        """Create an empty cache.

        is_idle:  returns False while the agent applies changes, when events are expected.
        on_drift: called while idle when an event contradicts the cache.
        on_exit:  called with a sandbox that cannot be read because its pause process is exiting.
        """
        self.contents: dict[str, Contents] = {}
        self.keeps_drift = False
        """True if changes of other processes stay until `mark_shared_stale` (drift: keep)."""
        self._kernel = kernel
        self._is_idle = is_idle
        self._on_drift = on_drift
        self._on_exit = on_exit
        self._monitor: Monitor | None = None
        self._pending: dict[int, list[NetlinkEvent]] = {}
        """Unprocessed events by pid of the pause process."""
        self._stale: set[str] = set()
        """Namespaces to read again."""
        self._lost_events = False
        """True after the kernel has dropped events (ENOBUFS): every namespace may be stale."""
        self._scan_queue: list[str] = []
        """Namespaces that the current full scan has not read yet."""
        self._kept_drift: set[str] = set()
        """Namespaces with changes of other processes that are kept."""
        self._file_watch: FileWatch | None = None
        """Watch of the files of sandboxes, once a sandbox has files."""
        self._next_batch_at = time.monotonic() + FULL_SCAN_S

    @property
    def state(self) -> HostState:
        """The observed objects of all namespaces."""
        return HostState(self.contents)

    def start_monitoring(self) -> None:
        """Subscribe to netlink events of all existing namespaces.

        Without CAP_NET_BROADCAST only full scans find changes of other processes.
        """
        try:
            self._monitor = Monitor()
        except PermissionError:
            log(
                "CAP_NET_BROADCAST is missing: changes of other processes are found by scans, "
                f"after {FULL_SCAN_S:g} s or more"
            )
            return
        self._monitor.follow(self._kernel.sandboxes.pids.values())
        asyncio.get_running_loop().add_reader(self._monitor.fileno(), self._on_readable)

    def monitor(self, pids: Iterable[int]) -> None:
        """Subscribe to netlink events of new namespaces, by the pids of their pause processes."""
        if self._monitor is not None:
            self._monitor.follow(pids)

    def watch_files(self, netns: str, contents: Contents) -> None:
        """Watch the files of a sandbox; without watches full scans find changes."""
        files = [obj for obj in contents.values() if isinstance(obj, File)]
        if not files:
            return
        if self._file_watch is None:
            try:
                self._file_watch = FileWatch()
            except OSError as error:
                log(f"changes of files are found by scans: {os_error_text(error)}")
                return
            asyncio.get_running_loop().add_reader(self._file_watch.fd, self._on_readable)
        self._file_watch.add(netns, self._kernel.files.path(netns), files)

    def forget(self, netns: str) -> None:
        """Drop a namespace that no longer exists."""
        self.contents.pop(netns, None)
        self._stale.discard(netns)

    def record_kept_drift(self, netns: str) -> None:
        """Record that a change of another process stays for now (drift: keep)."""
        if netns not in self._kept_drift:
            self._kept_drift.add(netns)
            log(
                f"{netns}: another process changed something; the change is kept until the next up "
                "or apply (drift: keep); kubenetlab diff shows it"
            )

    def mark_shared_stale(self) -> None:
        """Read all namespaces that are not a pod's own again, and stop keeping drift.

        Shared namespaces may have changed without an event.
        """
        self.mark_stale(netns for netns in self.contents if not netns.startswith("pod/"))
        self._stale.update(self.contents if self._lost_events else self._kept_drift)
        self._lost_events = False
        self._kept_drift = set()

    def record_applied(
        self, netns: str, added: Iterable[Object] = (), *, removed: Iterable[Object]
    ) -> None:
        """Record objects that another process of the lab has applied.

        They are not applied twice when something else in the namespace is refused. A namespace
        that no longer exists is ignored.
        """
        if netns not in self._kernel.sandboxes.pauses:
            return
        removed_keys = {obj.key for obj in removed}
        kept = (obj for key, obj in self.contents.get(netns, {}).items() if key not in removed_keys)
        self.contents[netns] = contents_of((*kept, *added))

    def mark_stale(self, namespaces: Iterable[str]) -> None:
        """Mark namespaces as stale: the next `refresh` reads them again."""
        self._stale.update(namespaces)

    @property
    def is_stale(self) -> bool:
        """True when a namespace has to be read again."""
        self._read_events()
        self._process_events()
        return bool(self._stale & self.contents.keys()) or (
            self._lost_events and not self.keeps_drift
        )

    @property
    def until_next_batch_s(self) -> float:
        """Time until the next batch of the full scan is due, in seconds."""
        return self._next_batch_at - time.monotonic()

    def refresh(self, desired: HostState) -> bool:
        """Read stale namespaces and a due batch of the full scan; return True on any drift."""
        self._read_events()
        self._process_events()
        if self._lost_events and not self.keeps_drift:
            log("netlink events were lost: reading all namespaces")
            self._lost_events = False
            self._stale.update(self.contents)
        if self.until_next_batch_s <= 0:
            self._stale.update(self._next_batch(desired))
        before = {netns: self.contents[netns] for netns in self._stale & self.contents.keys()}
        self._stale = set()
        self.read(desired, before)
        drift = [
            f"{netns}: {line}"
            for netns, contents in before.items()
            for line in _describe_drift(contents, self.contents.get(netns, {}))
        ]
        for line in drift:
            log(line)
        return bool(drift)

    def read(self, desired: HostState, namespaces: Iterable[str]) -> None:
        """Read namespaces from the kernel.

        Rules and programs keep their cached state: the node agents and the app workers report
        those. A namespace that cannot be read is dropped.
        """
        selected = {netns: desired[netns] for netns in namespaces if netns in desired.namespaces}
        pauses = self._kernel.sandboxes.pauses.copy()
        observed = self._kernel.observe(selected, linked_namespaces(desired, selected))
        for netns in selected:
            if netns in observed:
                cached = self.contents.get(netns, {}).values()
                reported = (obj for obj in cached if obj.applier not in KERNEL_APPLIERS)
                contents = contents_of((*observed[netns].values(), *reported))
                # The desired objects themselves take no time to compare later.
                self.contents[netns] = desired[netns] if contents == desired[netns] else contents
            else:
                self.contents.pop(netns, None)
        # The kernel frees a process's namespaces before its pidfd reports the exit: that waits
        # until all processes in its PID namespace are reaped.
        for netns in selected:
            if netns not in observed and netns in pauses:
                self._on_exit(netns, pauses[netns])

    def _next_batch(self, desired: HostState) -> list[str]:
        """Return the next namespaces to scan; those linked to the same peer are read together."""
        batches = max(1, ceil(len(self.contents) / BATCH_SIZE))
        self._next_batch_at = time.monotonic() + max(MIN_BATCH_INTERVAL_S, FULL_SCAN_S / batches)
        if NO_SCANS in os.environ or self.keeps_drift:
            return []
        self._scan_queue = [netns for netns in self._scan_queue if netns in self.contents]
        if not self._scan_queue:
            self._scan_queue = sorted(
                self.contents, key=lambda netns: sorted(linked_namespaces(desired, [netns]))[:1]
            )
        batch, self._scan_queue = self._scan_queue[:BATCH_SIZE], self._scan_queue[BATCH_SIZE:]
        return batch

    def _on_readable(self) -> None:
        self._read_events()
        if self._is_idle() and self.is_stale:
            self._on_drift()

    def _read_events(self) -> None:
        """Queue the events that the kernel has sent."""
        if self._monitor is None:
            return
        events_by_pid, is_lost = self._monitor.read()
        for pid, events in events_by_pid.items():
            self._pending.setdefault(pid, []).extend(events)
        self._lost_events |= is_lost

    def _process_events(self) -> None:
        """Mark namespaces whose events contradict the cache as stale, or keep their drift."""
        self._process_file_events()
        pending, self._pending = self._pending, {}
        if not pending:
            return
        netns_of = {pid: netns for netns, pid in self._kernel.sandboxes.pids.items()}
        for pid, events in pending.items():
            netns = netns_of.get(pid, "")
            if netns in self.contents and is_contradicted(
                netns, events, self.contents[netns], self._kernel.indexes(netns)
            ):
                self._record_drift(netns)

    def _process_file_events(self) -> None:
        """Mark namespaces whose files are not the known ones as stale, or keep their drift."""
        if self._file_watch is None:
            return
        for netns in self._file_watch.read() & self.contents.keys():
            known = {obj for obj in self.contents[netns].values() if isinstance(obj, File)}
            if set(self._kernel.files.read(netns)) != known:
                self._record_drift(netns)

    def _record_drift(self, netns: str) -> None:
        if self.keeps_drift:
            self.record_kept_drift(netns)
        else:
            self._stale.add(netns)


def _describe_drift(before: Contents, after: Contents) -> list[str]:
    """Describe the changes of other processes: one line per removed or modified object."""
    changed = [(obj, after.get(key)) for key, obj in before.items() if after.get(key) != obj]
    parts = [
        (part, {other.key: other for other in now.parts}.get(part.key) if now is not None else None)
        for obj, now in changed
        for part in obj.parts
    ]
    return [
        f"another process removed: {part}"
        if now is None
        else f"another process changed: {part} is now {now}"
        for part, now in parts
        if now != part
    ]
