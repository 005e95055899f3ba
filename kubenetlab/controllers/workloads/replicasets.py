"""replicaset controller, and the replication controller: as many pods as `replicas` requests.

They read ReplicaSets, ReplicationControllers and pods. They create pods from the template, adopt
matching pods without an owner, and delete surplus pods, the least useful first.
Source: k8s.io/kubernetes pkg/controller/replicaset, pkg/controller/controller_utils.go
(ActivePods ranking).
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from msgspec import structs

from kubenetlab.api.apps import ReplicaSet, ReplicaSetStatus, ReplicationController
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Change, Cluster, Kind
from kubenetlab.controllers.admission.admission import make_uid
from kubenetlab.controllers.support.children import (
    adopt_pod,
    create_pod,
    delete_pod,
    new_pod,
    unowned_pods,
)
from kubenetlab.controllers.support.naming import child_name
from kubenetlab.controllers.support.serials import Serials
from kubenetlab.controllers.support.wake import Wake

SOURCE = "replicaset-controller"

WATCHES: Final[tuple[Kind, ...]] = (ReplicaSet, ReplicationController, Pod)

IN_BATCHES = True

Replicated = ReplicaSet | ReplicationController


def reconcile(
    cluster: Cluster, now: float, batch_limit: int | None = None
) -> Iterator[Change | Wake]:
    """Yield the creation of missing pods and the deletion of surplus pods, limited per run."""
    serials = Serials(cluster)
    sets: Iterable[Replicated] = (*cluster.all(ReplicaSet), *cluster.all(ReplicationController))
    for replica_set in sets:
        adoptable = unowned_pods(cluster, replica_set, replica_set.spec.selector)
        yield from (adopt_pod(pod, replica_set) for pod in adoptable)
        owned = [
            *(pod for pod in cluster.owned_by(Pod, replica_set) if not pod.is_finished),
            *adoptable,
        ]
        active = [pod for pod in owned if not pod.is_terminating]
        desired = replica_set.spec.replicas
        taken = {pod.name for pod in owned}
        missing = desired - len(active)
        if batch_limit is not None and missing > batch_limit:
            missing = batch_limit
            yield Wake(now)
        for _ in range(missing):
            name, serials[replica_set] = child_name(
                replica_set.name, serials[replica_set], taken, replica_set.namespace
            )
            taken.add(name)
            pod = new_pod(
                replica_set,
                replica_set.spec.template,
                name,
                make_uid("Pod", replica_set.uid, name),
                now,
                {},
            )
            yield from create_pod(cluster, replica_set, pod, SOURCE, now)
        if not adoptable:
            excess = max(0, len(active) - desired)
            if batch_limit is not None and excess > batch_limit:
                excess = batch_limit
                yield Wake(now)
            for pod in _ranked_for_removal(active)[:excess] if excess else ():
                yield from delete_pod(cluster, replica_set, pod, SOURCE, now)
        status = _status(replica_set, active)
        if status != replica_set.status:
            yield structs.replace(replica_set, status=status)
    yield from serials.changes()


def _ranked_for_removal(pods: Sequence[Pod]) -> list[Pod]:
    """Return the pods in the order in which a scale-down deletes them.

    First pods without a node, then pods that are not running, not ready, on the node with the most
    pods of the set, and created last.
    """
    pods_on_node: dict[str, int] = {}
    for pod in pods:
        pods_on_node[pod.spec.node_name] = pods_on_node.get(pod.spec.node_name, 0) + 1
    newest_first = sorted(pods, key=lambda pod: pod.metadata.creation_timestamp or "", reverse=True)
    return sorted(
        newest_first,
        key=lambda pod: (
            bool(pod.spec.node_name),
            pod.status.phase == "Running",
            pod.is_ready,
            -pods_on_node[pod.spec.node_name],
        ),
    )


def _status(replica_set: Replicated, active: Sequence[Pod]) -> ReplicaSetStatus:
    ready = sum(pod.is_ready for pod in active)
    return ReplicaSetStatus(
        replicas=len(active),
        fully_labeled_replicas=len(active),
        ready_replicas=ready,
        available_replicas=ready,
        observed_generation=replica_set.metadata.generation,
    )
