"""kubelet: keeps the status of each pod on a node up to date and ends terminating pods.

It reads pods, nodes, attachments and the runtime statuses that the nodes report. It writes pod
statuses (pod_status.py), their events (pod_events.py) and the records of terminations, and deletes
pods that have stopped.
Source: k8s.io/kubernetes pkg/kubelet/kubelet.go (syncPod), 1.33.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from msgspec import structs

from kubenetlab.api.core import Node
from kubenetlab.api.environment import ConfigMap, Secret
from kubenetlab.api.faults import Fault
from kubenetlab.api.lab import Attachment, NetworkFacts, PodRuntimeStatus, Termination
from kubenetlab.api.object_map import Changes
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Change, Cluster, Kind, deletion
from kubenetlab.controllers.kubelet.containers import next_start, should_run
from kubenetlab.controllers.kubelet.killing import kills_after_hooks, pending_kills, record_kills
from kubenetlab.controllers.kubelet.pod_events import (
    network_not_ready_events,
    status_events,
    unhealthy_events,
)
from kubenetlab.controllers.kubelet.pod_status import pod_status
from kubenetlab.controllers.kubelet.stopping import advance_termination, has_stopped
from kubenetlab.controllers.nodes.ipam import network
from kubenetlab.controllers.support.wake import Wake

WATCHES: Final[tuple[Kind, ...]] = (
    NetworkFacts,
    Node,
    Pod,
    Attachment,
    PodRuntimeStatus,
    ConfigMap,
    Secret,
    Fault,
)
CONVERGES_IN_ONE_PASS: Final = True
INCREMENTAL: Final = True

_CLUSTER_WIDE: Final[tuple[Kind, ...]] = (NetworkFacts, ConfigMap, Secret, Fault)
"""Kinds of which one object may concern every pod."""


def reconcile(
    cluster: Cluster, now: float, *, changes: Changes | None = None
) -> Iterator[Change | Wake]:
    for pod in _affected(cluster, changes):
        if pod.is_finished and not pod.is_terminating:
            continue
        runtime = runtime_status_of(cluster, pod)
        if _can_be_removed(cluster, pod, runtime, now):
            yield deletion(pod)
        elif pod.spec.node_name:
            yield from _sync(cluster, pod, runtime, now)


def _can_be_removed(
    cluster: Cluster, pod: Pod, runtime: PodRuntimeStatus | None, now: float
) -> bool:
    """Return True when nothing is left of a terminating pod, or its node has been removed.

    A pod that was bound to a node that never existed stays Pending.
    """
    if not pod.spec.node_name:
        return pod.is_terminating
    if cluster.node(pod.spec.node_name) is None and pod.status.start_time is not None:
        return True
    if not pod.is_terminating:
        return False
    return runtime is None or not runtime.sandbox_pid or has_stopped(pod, runtime, now)


def _sync(
    cluster: Cluster, pod: Pod, runtime: PodRuntimeStatus | None, now: float
) -> Iterator[Change | Wake]:
    """Yield a pod's new status, its events, and Wakes for its timers."""
    if pod.is_terminating and runtime is not None:
        yield from advance_termination(cluster, pod, runtime, now)
    node = cluster.node(pod.spec.node_name)
    if node is None:
        return
    kills = kills_after_hooks(cluster, pod, runtime)
    status = pod_status(cluster, pod, node, runtime, kills, now)
    containers = (*status.init_container_statuses, *status.container_statuses)
    if runtime is not None and (kills or pending_kills(cluster, pod)):
        attempts = {
            container.name: container.restart_count
            for container in containers
            if should_run(container)
        }
        yield from record_kills(cluster, pod, runtime, kills, attempts, now)
    if status != pod.status:
        yield structs.replace(pod, status=status)
        yield from status_events(cluster, pod, runtime, status, now)
    yield from unhealthy_events(cluster, pod, runtime, now)
    yield from (Wake(at) for container in containers if (at := next_start(container)) is not None)
    if not pod.spec.host_network:
        yield from network_not_ready_events(cluster, pod, now)


def _affected(cluster: Cluster, changes: Changes | None) -> Iterable[Pod]:
    """Return the pods that may have changed since the last run.

    These are pods that have changed themselves, or whose node, attachment or runtime status has,
    and pods that wait for a time. In the first run, and after a change that may concern every pod,
    it is all pods.
    """
    if (
        changes is None
        or any(changes[kind] for kind in _CLUSTER_WIDE)
        or not network(cluster).has_network
    ):
        return cluster.all(Pod)
    keys = {obj.key for obj in changes.objects(Pod, Attachment, PodRuntimeStatus)}
    keys |= {pod.key for node in changes.objects(Node) for pod in cluster.pods_on(node.name)}
    keys |= {termination.key for termination in cluster.all(Termination) if termination.killed}
    keys |= cluster.index(Pod, _awaiting_timers)
    return [pod for pod in cluster.all(Pod) if pod.key in keys]


def _awaiting_timers(pods: Iterable[Pod]) -> set[tuple[str, str]]:
    """Return namespace and name of the pods that wait for a time."""
    return {pod.key for pod in pods if _awaits_timer(pod)}


def _awaits_timer(pod: Pod) -> bool:
    """Return True for a pod that is terminating or has a container in back-off."""
    return pod.is_terminating or any(
        next_start(status) is not None for status in pod.container_statuses
    )


def runtime_status_of(cluster: Cluster, pod: Pod) -> PodRuntimeStatus | None:
    """Return the runtime status of exactly this pod.

    Return None when there is none yet, or only that of an older pod with the same name.
    """
    status = cluster.get(PodRuntimeStatus, pod.namespace, pod.name)
    return status if status is not None and status.pod_uid == pod.uid else None
