"""kubelet: what each pod's status says, from what was seen of it on its node; containers.py says how each container is.

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
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Change, Cluster, Kind, deletion
from kubenetlab.controllers.containers import next_start, should_run
from kubenetlab.controllers.ipam import network
from kubenetlab.controllers.killing import awaited, kills_after_hooks, record_kills
from kubenetlab.controllers.pod_events import (
    network_not_ready_events,
    status_events,
    unhealthy_events,
)
from kubenetlab.controllers.pod_status import pod_status
from kubenetlab.controllers.stopping import advance_termination, has_stopped
from kubenetlab.controllers.wake import Wake

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

_FOR_ALL: Final[tuple[Kind, ...]] = (NetworkFacts, ConfigMap, Secret, Fault)


def reconcile(cluster: Cluster, now: float) -> Iterator[Change | Wake]:
    for pod in _affected(cluster):
        if pod.is_finished and not pod.is_terminating:
            continue
        if not pod.spec.node_name:
            if pod.is_terminating:
                yield deletion(pod)
            continue
        node = cluster.node(pod.spec.node_name)
        seen = observed_of(cluster, pod)
        has_left = (
            node is None and pod.status.start_time is not None
        )  # with its node; on one that never was it stays Pending
        if has_left or (pod.is_terminating and (seen is None or not seen.sandbox_pid)):
            yield deletion(pod)
            continue
        if pod.is_terminating and seen is not None:
            if has_stopped(pod, seen, now):
                yield deletion(pod)
                continue
            yield from advance_termination(cluster, pod, seen, now)
        if node is None:
            continue
        kills = kills_after_hooks(cluster, pod, seen)
        status = pod_status(cluster, pod, node, seen, kills, now)
        known = (*status.init_container_statuses, *status.container_statuses)
        if seen is not None and (kills or awaited(cluster, pod)):
            attempts = {one.name: one.restart_count for one in known if should_run(one)}
            yield from record_kills(cluster, pod, seen, kills, attempts, now)
        if status != pod.status:
            yield structs.replace(pod, status=status)
            yield from status_events(cluster, pod, seen, status, now)
        yield from unhealthy_events(cluster, pod, seen, now)
        yield from (Wake(at) for container in known if (at := next_start(container)) is not None)
        if not pod.spec.host_network and not network(cluster).has_network:
            yield from network_not_ready_events(cluster, pod, now)


def _affected(cluster: Cluster) -> Iterable[Pod]:
    """The pods for which something has changed since they were looked at: themselves, their node, what was seen of them; and those that wait
    for a time. At first, and when something has changed that may concern any, all."""
    news = cluster.since("kubelet", WATCHES)
    if news is None or any(news[kind] for kind in _FOR_ALL) or not network(cluster).has_network:
        return cluster.all(Pod)
    keys = {
        obj.key
        for kind in (Pod, Attachment, PodRuntimeStatus)
        for pair in news[kind]
        for obj in pair
        if obj is not None
    }
    keys |= {
        pod.key
        for pair in news[Node]
        for node in pair
        if node is not None
        for pod in cluster.pods_on(node.name)
    }
    keys |= {termination.key for termination in cluster.all(Termination) if termination.killed}
    keys |= cluster.derived(
        "pods that wait", lambda: {pod.key for pod in cluster.all(Pod) if _waits(pod)}, (Pod,)
    )
    return [pod for pod in cluster.all(Pod) if pod.key in keys]


def _waits(pod: Pod) -> bool:
    """True for one that is going, or of which a container is to be started again after a time."""
    return pod.is_terminating or any(
        next_start(status) is not None for status in pod.container_statuses
    )


def observed_of(cluster: Cluster, pod: Pod) -> PodRuntimeStatus | None:
    """What was seen of this very pod; None for news of an older one of the same name."""
    found = cluster.get(PodRuntimeStatus, pod.namespace, pod.name)
    return found if found is not None and found.pod_uid == pod.uid else None
