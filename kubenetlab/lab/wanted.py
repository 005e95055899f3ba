"""Wanted: what should be in the kernel and in the other processes, as it follows from the store."""

from __future__ import annotations

from collections.abc import Mapping

from kubenetlab.api.core import Event
from kubenetlab.api.kinds import STORED
from kubenetlab.api.lab import NodeReport, Observed
from kubenetlab.api.store import Cluster
from kubenetlab.datapath import plan, plan_probes
from kubenetlab.datapath.memo import Memo
from kubenetlab.datapath.probes import ProbeSpec
from kubenetlab.hoststate.state import HostState
from kubenetlab.lab import machine

_LOOKED_AT = tuple(kind for kind in STORED if kind not in (Event, NodeReport, Observed))
"""What the plan follows from: news are first for the controllers, and often change nothing that anybody else looks at."""


class Wanted:
    """Planned anew only where the store is another one, and then what has changed."""

    def __init__(self) -> None:
        self.state = HostState()
        self._memo = Memo()
        self._cluster: Cluster | None = None
        self._seen: tuple[object, ...] | None = None
        """What was in the store that was planned, of the kinds that matter."""
        self._probes: Mapping[str, tuple[ProbeSpec, ...]] | None = {}

    def follow(self, cluster: Cluster) -> None:
        """From now on this is the store."""
        seen, self._cluster = cluster.snapshot(_LOOKED_AT), cluster
        if self._seen is None or any(now is not then for now, then in zip(seen, self._seen, strict=True)):
            self.state = plan(cluster, machine.decisions(cluster), self._memo)
            self._probes, self._seen = None, seen

    def probes(self) -> Mapping[str, tuple[ProbeSpec, ...]]:
        """What is asked in each sandbox; planned when somebody wants to know, for namespaces can be made before."""
        if self._probes is None:
            assert self._cluster is not None
            self._probes = plan_probes(self._cluster, machine.decisions(self._cluster), self._memo)
        return self._probes

    def forget(self, departed: set[str]) -> None:
        """What was computed for namespaces that are gone is not needed any more."""
        gone = departed | {netns.removeprefix("node/") for netns in departed}
        self._memo.forget(lambda key: isinstance(key, tuple) and key[1] in gone)
