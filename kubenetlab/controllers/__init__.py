"""The controllers of the control plane and of the nodes, as pure functions of the store.

Each controller is a module with two names:

- `WATCHES`: the kinds it reads. While no object of these kinds changes, it does not run.
- `reconcile(cluster, now)`: yields objects in their desired state, deletions, and `Wake`s for
  the times at which it must run again.

Controllers do not call each other: each reads from the store what the others have written. They run
in passes until a pass changes nothing. Neither a controller nor the store remembers anything: what
each controller has seen is a value, `ControllerStates`, that `run` takes and returns.

Optional constants change how a controller runs:

- `INCREMENTAL`: `reconcile` takes an argument `changes`, the changes of the watched kinds since its
  last run (None: it has not run before).
- `CONVERGES_IN_ONE_PASS`: a second run right after the first would change nothing, so the
  controller does not run for its own changes.
- `IN_BATCHES`: `reconcile` takes an argument `batch_limit`, the maximum number of pods it creates
  or deletes for each workload in one run (None: no limit). It yields a `Wake` for `now` when more
  remain.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

from msgspec import structs

from kubenetlab.api.store import Change, Cluster, Kind
from kubenetlab.controllers.cluster import (
    addons,
    cni_agents,
    faults,
    garbage,
    kube_proxy,
    namespaces,
)
from kubenetlab.controllers.kubelet import kubelet
from kubenetlab.controllers.nodes import ipam, nodes
from kubenetlab.controllers.scheduling import evictions, scheduler
from kubenetlab.controllers.services import endpoints, endpointslices, loadbalancers
from kubenetlab.controllers.states import ControllerState, ControllerStates
from kubenetlab.controllers.support.wake import Wake
from kubenetlab.controllers.workloads import (
    daemonsets,
    deployments,
    jobs,
    replicasets,
    statefulsets,
)
from kubenetlab.errors import BugError

__all__ = ["CONTROLLERS", "Controller", "ControllerStates", "Wake", "run", "settle"]

MAX_ROUNDS = 30
"""Maximum number of passes over all controllers before `run` gives up."""


class Controller(Protocol):
    """Interface of each module in `CONTROLLERS`."""

    __name__: str

    @property
    def WATCHES(self) -> tuple[Kind, ...]:  # noqa: N802 (a module's constant)
        """Kinds that the controller reads."""

    def reconcile(self, cluster: Cluster, now: float) -> Iterator[Change | Wake]: ...


CONTROLLERS: Final[tuple[Controller, ...]] = (
    namespaces,
    addons,
    kube_proxy,
    nodes,
    faults,
    deployments,
    replicasets,
    statefulsets,
    daemonsets,
    cni_agents,
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


def run(cluster: Cluster, states: ControllerStates, now: float) -> tuple[Cluster, ControllerStates]:
    """Run the controllers until none of them changes the store.

    states: what the controllers have seen; `ControllerStates()` for new controllers. The store may
    be any other one, such as a branch that is rejected later: nothing is kept but what is returned.

    Return the store, and the states in which the controllers have seen it. `states.wake_at` is the
    time of the next run without a change.
    Raises BugError, naming the controllers, when they do not come to rest.
    """
    by_name = dict(states.by_name)
    due = {name for name, state in by_name.items() if state.is_due(now)}
    paused: set[str] = set()
    for _ in range(MAX_ROUNDS):
        changed = []
        for controller in CONTROLLERS:
            name = _name_of(controller)
            state = by_name.get(name)
            is_needed = name in due or state is None or cluster.has_changed_since(state.seen)
            if name in paused or not is_needed:
                continue
            due.discard(name)
            before = cluster
            cluster, by_name[name] = _reconcile(controller, cluster, state, now, states.batch_limit)
            if cluster is not before:
                changed.append(name)
            if hasattr(controller, "IN_BATCHES") and by_name[name].is_due(now):
                paused.add(name)  # the rest of the batch belongs to the next run
        if not changed:
            return cluster, structs.replace(states, by_name=by_name)
    raise BugError(f"the controllers {', '.join(changed)} do not come to rest")


def settle(cluster: Cluster, now: float) -> Cluster:
    """Run new controllers until none of them changes the store, and return it.

    Raises BugError when the controllers do not come to rest.
    """
    return run(cluster, ControllerStates(), now)[0]


def _reconcile(
    controller: Controller,
    cluster: Cluster,
    state: ControllerState | None,
    now: float,
    batch_limit: int | None,
) -> tuple[Cluster, ControllerState]:
    """Run one controller once; return the store with its changes, and the controller's state."""
    options: dict[str, object] = {}
    if hasattr(controller, "IN_BATCHES"):
        options["batch_limit"] = batch_limit
    if hasattr(controller, "INCREMENTAL"):
        options["changes"] = cluster.changes_since(state.seen) if state is not None else None
    results = list(controller.reconcile(cluster, now, **options))
    after = cluster.with_changes(result for result in results if not isinstance(result, Wake))
    # What a controller has just written need not be read by itself if it converges at once.
    seen = after if hasattr(controller, "CONVERGES_IN_ONE_PASS") else cluster
    wakes = (result.at for result in results if isinstance(result, Wake))
    return after, ControllerState(seen.cursor(controller.WATCHES), min(wakes, default=None))


def _name_of(controller: Controller) -> str:
    """Return the last part of a controller's module name."""
    return str(controller.__name__.rpartition(".")[2])
