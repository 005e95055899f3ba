"""Wanted: what should be in the kernel and in the other processes, as it follows from the store."""

from __future__ import annotations

from collections.abc import Mapping

from kubenetlab.api.store import Cluster
from kubenetlab.datapath import basis, plan, plan_probes
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.datapath.probes import ProbeSpec
from kubenetlab.hoststate.state import HostState
from kubenetlab.lab import machine


class DesiredState:
    """Planned anew only where the store is another one, and then what has changed."""

    def __init__(self) -> None:
        self.state = HostState()
        self._memo = PlanCache()
        self._cluster: Cluster | None = None
        self._basis: tuple[object, ...] | None = None
        """Of the store that was planned."""
        self._probes: Mapping[str, tuple[ProbeSpec, ...]] | None = {}

    def follow(self, cluster: Cluster) -> None:
        """From now on this is the store."""
        found, self._cluster = basis(cluster), cluster
        if self._basis is None or any(
            now is not then for now, then in zip(found, self._basis, strict=True)
        ):
            self.state = plan(cluster, machine.decisions(cluster), self._memo)
            self._probes, self._basis = None, found

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
