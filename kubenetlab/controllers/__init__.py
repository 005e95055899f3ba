"""The controllers of the control plane and of the nodes, as pure functions of the store.

Each controller is a module with two names:

- `WATCHES`: the kinds it reads. While no object of these kinds changes, it does not run.
- `reconcile(cluster, now)`: yields objects in their desired state, deletions, and `Wake`s for
  the times at which it must run again.

Controllers do not call each other: each reads from the store what the others have written. They run
in passes until a pass changes nothing. Two optional constants change how a controller runs:

- `CONVERGES_IN_ONE_PASS`: a second run right after the first would change nothing, so the
  controller does not run for its own changes.
- `IN_BATCHES`: `reconcile` takes a third argument, the maximum number of pods it creates or deletes
  for each workload in one run (None: no limit). It yields a `Wake` for `now` when more remain.
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

__all__ = ["CONTROLLERS", "Controller", "Controllers", "Wake", "run"]

MAX_ROUNDS = 30
"""Maximum number of passes over all controllers before `Controllers.run` gives up."""


class Controller(Protocol):
    """Interface of each module in `CONTROLLERS`."""

    @property
    def WATCHES(self) -> tuple[Kind, ...]:  # noqa: N802 (a module's constant)
        """Kinds that the controller reads."""

    def reconcile(self, cluster: Cluster, now: float) -> Iterator[Change | Wake]: ...


CONTROLLERS: Final[tuple[Any, ...]] = (
    namespaces,
    addons,
    kube_proxy,
    nodes,
    faults,
    deployments,
    replicasets,
    statefulsets,
    daemonsets,
    jobs,
    scheduler,
    evictions,
    ipam,
    kubelet,
    loadbalancers,
    endpointslices,
    endpoints,
    garbage,
)
"""All controllers, in the order of a pod's life. Each is a `Controller`."""


def run(cluster: Cluster, now: float) -> tuple[Cluster, float | None]:
    """Run new controllers until none of them changes the store.

    Return the store, and the time of the next `Wake` in seconds since 1970 (None: no `Wake`).
    Raises BugError when the controllers do not come to rest.
    """
    return Controllers().run(cluster, now)


BATCH_LIMIT: Final = 100
"""Maximum number of pods created or deleted per workload and run in a running lab.

The agent answers clients between two bursts.
Source: k8s.io/kubernetes pkg/controller/replicaset (BurstReplicas, which is 500 there).
"""


class Controllers:
    """The controllers with the snapshots that they saw last.

    A controller runs again only when an object that it watches has changed or its `Wake` is due.
    """

    def __init__(self, burst: int | None = None) -> None:
        """Create controllers that have not seen any store.

        burst: maximum number of pods created or deleted per workload and run; None for no limit.
        """
        self._burst = burst
        self._seen: dict[str, tuple[Any, ...]] = {}
        self._wakes: dict[str, float | None] = {}

    def copy(self) -> Controllers:
        """Return a copy that can run on a store which may still be rejected."""
        copy = Controllers(self._burst)
        copy._seen, copy._wakes = dict(self._seen), dict(self._wakes)
        return copy

    def run(self, cluster: Cluster, now: float) -> tuple[Cluster, float | None]:
        """Run the controllers until none of them changes the store.

        Return the store, and the time of the next `Wake` in seconds since 1970 (None: no `Wake`).
        Raises BugError, naming the controllers, when they do not come to rest.
        """
        due = {name for name, at in self._wakes.items() if at is not None and at <= now}
        paused: set[str] = set()
        for _ in range(MAX_ROUNDS):
            changed = []
            for controller in CONTROLLERS:
                name = _name_of(controller)
                if name in paused or not (name in due or self._has_changes(controller, cluster)):
                    continue
                due.discard(name)
                before, cluster = cluster, self._reconcile(controller, cluster, now)
                if cluster is not before:
                    changed.append(name)
                if hasattr(controller, "IN_BATCHES") and (self._wakes[name] or math.inf) <= now:
                    paused.add(name)  # the rest of the burst belongs to the next run
            if not changed:
                wakes = (at for at in self._wakes.values() if at is not None)
                return cluster, min(wakes, default=None)
        raise BugError(f"the controllers {', '.join(changed)} do not come to rest")

    def _has_changes(self, controller: Any, cluster: Cluster) -> bool:
        """Return True when an object that the controller watches has changed since its last run."""
        seen = self._seen.get(_name_of(controller))
        snapshot = cluster.snapshot(controller.WATCHES)
        return seen is None or any(a is not b for a, b in zip(seen, snapshot, strict=True))

    def _reconcile(self, controller: Any, cluster: Cluster, now: float) -> Cluster:
        """Run one controller once and return the store with its changes."""
        name = _name_of(controller)
        arguments = (self._burst,) if hasattr(controller, "IN_BATCHES") else ()
        results = list(controller.reconcile(cluster, now, *arguments))
        self._wakes[name] = min(
            (result.at for result in results if isinstance(result, Wake)), default=None
        )
        self._seen[name] = cluster.snapshot(controller.WATCHES)
        after = cluster.with_changes(result for result in results if not isinstance(result, Wake))
        if after is not cluster and getattr(controller, "CONVERGES_IN_ONE_PASS", False):
            self._seen[name] = after.snapshot(controller.WATCHES)
            after.since(name, controller.WATCHES)  # moves its cursor past its own changes
        return after


def _name_of(controller: Any) -> str:
    """Return the last part of a controller's module name."""
    return str(controller.__name__.rpartition(".")[2])
