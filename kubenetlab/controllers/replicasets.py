"""replicaset controller: as many pods as asked for, each made from the template.

Source: k8s.io/kubernetes pkg/controller/replicaset, pkg/controller/controller_utils.go (ActivePods ranking).
"""

from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import structs

from kubenetlab.api.apps import ReplicaSet, ReplicaSetStatus
from kubenetlab.api.lab import Ledger
from kubenetlab.api.meta import ObjectMeta, timestamp
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Change, Cluster, Kind
from kubenetlab.controllers.admission import make_uid
from kubenetlab.controllers.deployments import owner_reference
from kubenetlab.controllers.naming import child_name
from kubenetlab.controllers.termination import terminated

WATCHES: Final[tuple[Kind, ...]] = (ReplicaSet, Pod)


def reconcile(cluster: Cluster, now: float) -> Iterator[Change]:
    ledger = cluster.get(Ledger, "", "ledger") or Ledger()
    serials = dict(ledger.pod_serials)
    for replica_set in cluster.all(ReplicaSet):
        owned = [pod for pod in cluster.owned_by(Pod, replica_set) if not pod.is_finished]
        active = [pod for pod in owned if not pod.is_terminating]
        wanted = replica_set.spec.replicas
        taken = {pod.name for pod in owned}
        for _ in range(wanted - len(active)):
            name, serials[replica_set.uid] = child_name(replica_set.name, serials.get(replica_set.uid, 0), taken, replica_set.namespace)
            taken.add(name)
            yield _new_pod(replica_set, name, now)
        for pod in _ranked_for_removal(active)[: max(0, len(active) - wanted)]:
            yield from terminated(pod, now)
        status = _status(replica_set, active)
        if status != replica_set.status:
            yield structs.replace(replica_set, status=status)
    if serials != ledger.pod_serials:
        alive = {replica_set.uid for replica_set in cluster.all(ReplicaSet)}
        yield structs.replace(ledger, pod_serials={uid: serial for uid, serial in serials.items() if uid in alive})


def _new_pod(replica_set: ReplicaSet, name: str, now: float) -> Pod:
    template = replica_set.spec.template
    meta = ObjectMeta(
        name=name,
        namespace=replica_set.namespace,
        labels=template.metadata.labels,
        annotations=template.metadata.annotations,
        uid=make_uid("Pod", replica_set.uid, name),
        creation_timestamp=timestamp(now),
        owner_references=(owner_reference(replica_set),),
    )
    return Pod(meta, template.spec)


def _ranked_for_removal(pods: Sequence[Pod]) -> list[Pod]:
    """The pods in the order in which a scale-down takes them: unscheduled, not running, not ready, crowded nodes, newest."""
    crowd: dict[str, int] = {}
    for pod in pods:
        crowd[pod.spec.node_name] = crowd.get(pod.spec.node_name, 0) + 1
    newest_first = sorted(pods, key=lambda pod: pod.metadata.creation_timestamp or "", reverse=True)
    return sorted(
        newest_first, key=lambda pod: (bool(pod.spec.node_name), pod.status.phase == "Running", pod.is_ready, -crowd[pod.spec.node_name])
    )


def _status(replica_set: ReplicaSet, active: Sequence[Pod]) -> ReplicaSetStatus:
    ready = sum(pod.is_ready for pod in active)
    return ReplicaSetStatus(
        replicas=len(active),
        fully_labeled_replicas=len(active),
        ready_replicas=ready,
        available_replicas=ready,
        observed_generation=replica_set.metadata.generation,
    )
