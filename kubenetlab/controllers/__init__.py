"""What Kubernetes adds: controllers turn a store into the store that Kubernetes would make of it.

Each controller is a module with `WATCHES` (the kinds it looks at) and `reconcile(cluster, now)`, which yields objects as they
should be, deletions, and the time at which it wants to be asked again. They know nothing of one another: what one writes, the
next reads, until nobody has anything to add. One with `CONVERGES_IN_ONE_PASS` would add nothing to what it has just written itself.
One with `IN_BURSTS` takes a third argument, how much it may add at a time (None: all), and wakes at once where that was not enough.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final, Protocol

from kubenetlab.api.store import Change, Cluster, Kind
from kubenetlab.controllers import (
    addons,
    daemonsets,
    deployments,
    endpoints,
    endpointslices,
    evictions,
    faults,
    garbage,
    ipam,
    jobs,
    kube_proxy,
    kubelet,
    loadbalancers,
    namespaces,
    nodes,
    replicasets,
    scheduler,
    statefulsets,
)
from kubenetlab.controllers.wake import Wake
from kubenetlab.errors import BugError

MAX_ROUNDS = 30
"""More rounds than any honest chain of controllers needs."""


class Controller(Protocol):
    """What each module of this package is."""

    @property
    def WATCHES(self) -> tuple[Kind, ...]:  # noqa: N802 (a module's constant)
        """The kinds it looks at: while none of them changes, it need not be asked."""

    def reconcile(self, cluster: Cluster, now: float) -> Iterator[Change | Wake]: ...


CONTROLLERS: Final[tuple[Any, ...]] = (
    namespaces, addons, kube_proxy, nodes, faults, deployments, replicasets, statefulsets, daemonsets, jobs, scheduler, evictions, ipam, kubelet, loadbalancers, endpointslices, endpoints, garbage,
)  # fmt: skip
"""In the order of a pod's life. Each is a Controller."""


def run(cluster: Cluster, now: float) -> tuple[Cluster, float | None]:
    """The store once every controller is content, and when to run again although nothing changed (None: never)."""
    return Controllers().run(cluster, now)


BURST: Final = 100
"""Pods that a workload gets at a time in a lab that runs: clients are answered between two bursts.

Source: pkg/controller/replicaset BurstReplicas, which is 500 there.
"""


class Controllers:
    """The controllers with their memory: who sees what it saw the last time is not asked again before the time that it named."""

    def __init__(self, burst: int | None = None) -> None:
        """`burst` bounds how many pods a run makes for each workload; a run that could not make all asks for the next one at once."""
        self._burst = burst
        self._seen: dict[str, tuple[Any, ...]] = {}
        self._wakes: dict[str, float | None] = {}

    def copy(self) -> Controllers:
        """Others with the same memory: for a store that may yet be refused."""
        found = Controllers(self._burst)
        found._seen, found._wakes = dict(self._seen), dict(self._wakes)
        return found

    def run(self, cluster: Cluster, now: float) -> tuple[Cluster, float | None]:
        """The store once every controller is content, and when to run again although nothing changed (None: never).

        Raises BugError, naming the controllers, when they never come to rest.
        """
        due = {name for name, at in self._wakes.items() if at is not None and at <= now}
        paused: set[str] = set()
        for _ in range(MAX_ROUNDS):
            busy = []
            for controller in CONTROLLERS:
                name = controller.__name__.rpartition(".")[2]
                if name in paused:
                    continue
                snapshot = cluster.snapshot(controller.WATCHES)
                is_known = name in self._seen and all(
                    a is b for a, b in zip(self._seen[name], snapshot, strict=True)
                )
                if is_known and name not in due:
                    continue
                results = list(
                    controller.reconcile(cluster, now, self._burst)
                    if hasattr(controller, "IN_BURSTS")
                    else controller.reconcile(cluster, now)
                )
                self._wakes[name] = min(
                    (result.at for result in results if isinstance(result, Wake)), default=None
                )
                after = cluster.with_changes(
                    result for result in results if not isinstance(result, Wake)
                )
                self._seen[name] = snapshot
                due.discard(name)
                if hasattr(controller, "IN_BURSTS") and (self._wakes[name] or math.inf) <= now:
                    paused.add(name)
                if after is not cluster:
                    busy.append(name)
                    cluster = after
                    if getattr(controller, "CONVERGES_IN_ONE_PASS", False):
                        self._seen[name] = cluster.snapshot(controller.WATCHES)
                        cluster.since(name, controller.WATCHES)  # its own words are no news to it
            if not busy:
                return cluster, min(
                    (at for at in self._wakes.values() if at is not None), default=None
                )
        raise BugError(f"the controllers {', '.join(busy)} never come to rest")
