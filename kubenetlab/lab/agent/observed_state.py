"""Sight: what exists in each namespace, as far as it has been made, seen or told.

A namespace is read when a new agent takes over, when Linux refused something in it, and when what the kernel tells contradicts what
is known of it. Besides, all are read in turn, a few at a time, for what the kernel does not tell (settings, a port's hairpin mode).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable
from math import ceil

from kubenetlab.hoststate.netlink_events import NetlinkEvent, contradict
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.state import Contents, HostState, contents_of, peer_ends
from kubenetlab.kernel.linux import LinuxKernel
from kubenetlab.kernel.namespaces.sandboxes import Pause
from kubenetlab.kernel.netlink.monitor import Monitor
from kubenetlab.lab.log import log

PASS_S = 30.0
"""How long it takes until everything has been read once, in a lab of at most SLICE namespaces."""
SLICE = 20
"""So many namespaces are read at a time."""
SHORTEST_S = 5.0
"""The time between two slices: a lab of 1,000 namespaces is read once in four minutes, for a thousandth of a processor."""
NO_PASSES = "KUBENETLAB_NO_PASSES"
"""In the environment of `up`: only what the kernel tells counts. For tests of exactly that."""


class ObservedState:
    """The agent's eyes. `known` changes where something is looked at, and where the agent has made something."""

    def __init__(
        self,
        kernel: LinuxKernel,
        is_at_rest: Callable[[], bool],
        on_doubt: Callable[[], None],
        on_exit: Callable[[str, Pause], None] = lambda netns, pause: None,
    ) -> None:
        """`is_at_rest` is false while something is being made, and not all of it is known yet; `on_doubt` is called when at rest only.

        on_exit: called with a sandbox that cannot be read any more because its pause process is exiting.
        """
        self.known: dict[str, Contents] = {}
        self._kernel = kernel
        self._is_at_rest = is_at_rest
        self._on_doubt = on_doubt
        self._on_exit = on_exit
        self._monitor: Monitor | None = None
        self._told: dict[int, list[NetlinkEvent]] = {}
        self._doubtful: set[str] = set()
        self._is_deaf = False
        """True when the kernel had more to tell than it could keep for us."""
        self._turn: list[str] = []
        """Who is still to be read in this pass."""
        self.is_keeping = False
        """True when what somebody else changes is to stay, until `doubt_shared`."""
        self._kept: set[str] = set()
        self._next_slice_at = time.monotonic() + PASS_S

    def open(self) -> None:
        """Hears from now on what the kernel tells of the namespaces that are there; where that is not allowed, only looking is left."""
        try:
            self._monitor = Monitor()
        except PermissionError:
            log(
                f"without CAP_NET_BROADCAST nobody tells what others change: it is found by looking, in {PASS_S:g} s or more"
            )
            return
        self._monitor.follow(self._kernel.sandboxes.pids.values())
        asyncio.get_running_loop().add_reader(self._monitor.fileno(), self._hear)

    def made(self, pids: Iterable[int]) -> None:
        """There are new namespaces."""
        if self._monitor is not None:
            self._monitor.follow(pids)

    def forget(self, netns: str) -> None:
        self.known.pop(netns, None)
        self._doubtful.discard(netns)

    def note_kept(self, netns: str) -> None:
        """Somebody else has changed something there, and it stays for now."""
        if netns not in self._kept:
            self._kept.add(netns)
            log(
                f"{netns}: somebody changed something, and it stays so until the next up or apply (drift: keep); kubenetlab diff shows it"
            )

    def doubt_shared(self) -> None:
        """What is not one pod's alone may have changed unheard; and no longer is anything kept as somebody else has left it."""
        self.doubt(netns for netns in self.known if not netns.startswith("pod/"))
        self._doubtful.update(self.known if self._is_deaf else self._kept)
        self._is_deaf = False
        self._kept = set()

    def note(
        self, netns: str, made: Iterable[Object] = (), *, instead_of: Iterable[Object]
    ) -> None:
        """What another hand has made is known at once: should anything else there be refused, it is not made a second time.

        Of a namespace that went meanwhile nothing is known.
        """
        if netns not in self._kernel.sandboxes.pauses:
            return
        gone = {obj.key for obj in instead_of}
        others = (obj for key, obj in self.known.get(netns, {}).items() if key not in gone)
        self.known[netns] = contents_of((*others, *made))

    def doubt(self, namespaces: Iterable[str]) -> None:
        """What is known of these may not be so any more."""
        self._doubtful.update(namespaces)

    @property
    def has_doubts(self) -> bool:
        """True when something has been told, or is feared, that asks for a look."""
        self._read()
        self._judge()
        return bool(self._doubtful & self.known.keys()) or (self._is_deaf and not self.is_keeping)

    @property
    def next_slice_s(self) -> float:
        """Seconds until some are to be read again."""
        return self._next_slice_at - time.monotonic()

    def refresh(self, desired: HostState) -> bool:
        """Looks where that is needed: at what contradicts, at what is doubtful, and at those whose turn it is.

        True when something was not as it had been known.
        """
        self._read()
        self._judge()
        if self._is_deaf and not self.is_keeping:
            log("the kernel told more than could be heard: everything is read")
            self._is_deaf = False
            self._doubtful.update(self.known)
        if self.next_slice_s <= 0:
            self._doubtful.update(self._slice(desired))
        before = {netns: self.known[netns] for netns in self._doubtful & self.known.keys()}
        self._doubtful = set()
        self.look_at(desired, before)
        found = [
            f"{netns}: {line}"
            for netns, contents in before.items()
            for line in _differences(contents, self.known.get(netns, {}))
        ]
        for line in found:
            log(line)
        return bool(found)

    def look_at(self, desired: HostState, namespaces: Iterable[str]) -> None:
        """Reads namespaces again. Rules and programs are told by others: they stay as they were known."""
        wanted = {netns: desired[netns] for netns in namespaces if netns in desired.namespaces}
        pauses = self._kernel.sandboxes.pauses.copy()
        seen = self._kernel.observe(wanted, peer_ends(desired, wanted))
        for netns in wanted:
            if netns in seen:
                told = (obj for obj in self.known.get(netns, {}).values() if obj.hand != "netlink")
                self.known[netns] = contents_of((*seen[netns].values(), *told))
            else:
                self.known.pop(netns, None)
        # The namespaces of a process go before its pidfd reports its exit, which waits until all processes in them are reaped.
        for netns in wanted:
            if netns not in seen and netns in pauses:
                self._on_exit(netns, pauses[netns])

    def _slice(self, desired: HostState) -> list[str]:
        """Whose turn it is; those whose links lead to the same namespace come together."""
        self._next_slice_at = time.monotonic() + max(
            SHORTEST_S, PASS_S / max(1, ceil(len(self.known) / SLICE))
        )
        if NO_PASSES in os.environ or self.is_keeping:
            return []
        self._turn = [netns for netns in self._turn if netns in self.known]
        self._turn = self._turn or sorted(
            self.known, key=lambda netns: sorted(peer_ends(desired, [netns]))[:1]
        )
        now, self._turn = self._turn[:SLICE], self._turn[SLICE:]
        return now

    def _hear(self) -> None:
        self._read()
        if self._is_at_rest() and self.has_doubts:
            self._on_doubt()

    def _read(self) -> None:
        """Takes in what has been told."""
        if self._monitor is None:
            return
        told, is_lost = self._monitor.read()
        for pid, notices in told.items():
            self._told.setdefault(pid, []).extend(notices)
        self._is_deaf |= is_lost

    def _judge(self) -> None:
        """Finds what contradicts what is known."""
        told, self._told = self._told, {}
        by_pid = (
            {pid: netns for netns, pid in self._kernel.sandboxes.pids.copy().items()}
            if told
            else {}
        )
        for pid, notices in told.items():
            netns = by_pid.get(pid, "")
            if netns in self.known and contradict(
                netns, notices, self.known[netns], self._kernel.indexes(netns)
            ):
                if self.is_keeping:
                    self.note_kept(netns)
                else:
                    self._doubtful.add(netns)


def _differences(before: Contents, after: Contents) -> list[str]:
    """What somebody else has done, object by object."""
    changed = [(obj, after.get(key)) for key, obj in before.items() if after.get(key) != obj]
    parts = [
        (part, {other.key: other for other in now.parts}.get(part.key) if now is not None else None)
        for obj, now in changed
        for part in obj.parts
    ]
    return [
        f"somebody took away: {part}" if now is None else f"somebody changed: {part} is now {now}"
        for part, now in parts
        if now != part
    ]
