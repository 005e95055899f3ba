"""Wanted: what should be in the kernel and in the other processes, as it follows from the store."""

from __future__ import annotations

from collections.abc import Mapping

from kubenetlab.api.store import Cluster
from kubenetlab.datapath import plan, plan_probes
from kubenetlab.datapath.memo import Memo
from kubenetlab.datapath.probes import ProbeSpec
from kubenetlab.hoststate.state import HostState
from kubenetlab.lab import machine


class Wanted:
    """Planned anew only where the store is another one, and then what has changed."""

    def __init__(self) -> None:
        self.state = HostState()
        self.probes: Mapping[str, tuple[ProbeSpec, ...]] = {}
        self._memo = Memo()
        self._cluster: Cluster | None = None

    def follow(self, cluster: Cluster) -> None:
        """From now on this is the store."""
        if cluster is not self._cluster:
            decisions = machine.decisions(cluster)
            self.state = plan(cluster, decisions, self._memo)
            self.probes = plan_probes(cluster, decisions, self._memo)
            self._cluster = cluster

    def forget(self, departed: set[str]) -> None:
        """What was computed for namespaces that are gone is not needed any more."""
        gone = departed | {netns.removeprefix("node/") for netns in departed}
        self._memo.forget(lambda key: isinstance(key, tuple) and key[1] in gone)
