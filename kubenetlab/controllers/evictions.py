"""taint eviction controller: pods leave a node that has a NoExecute taint which they do not tolerate, or not for longer.

To a node that is not ready or not reachable every pod has five minutes, unless it says otherwise; what is in the node's own network
needs none of the pods', and stays.
Source: k8s.io/kubernetes pkg/controller/tainteviction/taint_eviction.go, plugin/pkg/admission/defaulttolerationseconds (1.33).
"""

from collections.abc import Iterator
from typing import Final

from kubenetlab.api.core import Node, Taint
from kubenetlab.api.meta import seconds
from kubenetlab.api.pods import Pod, Toleration
from kubenetlab.api.store import Change, Cluster, Kind
from kubenetlab.controllers.events import event
from kubenetlab.controllers.nodes import NOT_READY_TAINT
from kubenetlab.controllers.scheduler_filters import tolerates
from kubenetlab.controllers.termination import terminated
from kubenetlab.controllers.wake import Wake

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
            at = _leaves_at(pod, taints)
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
            yield from terminated(pod, now)


def _leaves_at(pod: Pod, taints: list[Taint]) -> float | None:
    """When the pod has to go, in seconds since 1970; None when it may stay."""
    spans: list[int] = []
    since = 0.0
    for taint in taints:
        if pod.spec.host_network and taint.key == NOT_READY_TAINT:
            continue
        fitting = next(
            (
                toleration
                for toleration in (*pod.spec.tolerations, *_DEFAULTS)
                if tolerates([toleration], taint)
            ),
            None,
        )
        if fitting is None:
            return 0.0
        if fitting.toleration_seconds is not None:
            spans.append(max(0, fitting.toleration_seconds))
            since = max(since, seconds(taint.time_added) if taint.time_added else 0.0)
    begun = pod.status.start_time or pod.metadata.creation_timestamp
    return max(since, seconds(begun) if begun else 0.0) + min(spans) if spans else None
