"""taint eviction controller: deletes pods that do not tolerate a NoExecute taint of their node.

It reads nodes and pods, and marks a pod for deletion at once or when its tolerationSeconds have
passed. Every pod tolerates a node that is not ready or not reachable for five minutes unless its
spec says otherwise. Pods in the node's own network need no pod network, and stay.
Source: k8s.io/kubernetes pkg/controller/tainteviction/taint_eviction.go,
plugin/pkg/admission/defaulttolerationseconds (1.33).
"""

from collections.abc import Iterator
from typing import Final

from kubenetlab.api.core import Node, Taint
from kubenetlab.api.meta import seconds
from kubenetlab.api.pods import Pod, Toleration
from kubenetlab.api.store import Change, Cluster, Kind
from kubenetlab.controllers.nodes.nodes import NOT_READY_TAINT
from kubenetlab.controllers.scheduling.scheduler_filters import tolerates
from kubenetlab.controllers.support.events import event
from kubenetlab.controllers.support.termination import deletion_changes
from kubenetlab.controllers.support.wake import Wake

WATCHES: Final[tuple[Kind, ...]] = (Node, Pod)

SOURCE = "taint-eviction-controller"
DEFAULT_TOLERATION_S = 300
_DEFAULTS: Final = tuple(
    Toleration(key, "Exists", effect="NoExecute", toleration_seconds=DEFAULT_TOLERATION_S)
    for key in (NOT_READY_TAINT, "node.kubernetes.io/unreachable")
)


def reconcile(cluster: Cluster, now: float) -> Iterator[Change | Wake]:
    for node in cluster.all(Node):
        taints = [taint for taint in node.spec.taints if taint.effect == "NoExecute"]
        for pod in cluster.pods_on(node.name) if taints else ():
            if pod.is_terminating or pod.is_finished:
                continue
            at = _evicted_at(pod, taints)
            if at is None:
                continue
            if now < at:
                yield Wake(at)
                continue
            yield event(
                cluster,
                pod,
                "Normal",
                "TaintManagerEviction",
                f"Marking for deletion Pod {pod.full_name}",
                SOURCE,
                now,
            )
            yield from deletion_changes(pod, now)


def _evicted_at(pod: Pod, taints: list[Taint]) -> float | None:
    """Return the time of the pod's eviction in seconds since 1970; None when it may stay."""
    limits_s: list[int] = []
    since = 0.0
    for taint in taints:
        if pod.spec.host_network and taint.key == NOT_READY_TAINT:
            continue
        toleration = next(
            (
                candidate
                for candidate in (*pod.spec.tolerations, *_DEFAULTS)
                if tolerates([candidate], taint)
            ),
            None,
        )
        if toleration is None:
            return 0.0
        if toleration.toleration_seconds is not None:
            limits_s.append(max(0, toleration.toleration_seconds))
            since = max(since, seconds(taint.time_added) if taint.time_added else 0.0)
    started = pod.status.start_time or pod.metadata.creation_timestamp
    return max(since, seconds(started) if started else 0.0) + min(limits_s) if limits_s else None
