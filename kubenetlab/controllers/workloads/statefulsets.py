"""statefulset controller: numbered pods with stable names.

It reads StatefulSets and pods. It creates pods in ascending and deletes them in descending order of
their ordinals; a deleted pod is replaced by one of the same name with a new address. With
OrderedReady each step waits until the previous pod is ready. With Parallel all pods are created and
deleted at once, but pods of an old template are still replaced one by one.
Source: k8s.io/kubernetes
pkg/controller/statefulset/{stateful_set_control.go,stateful_set_utils.go}.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import structs

from kubenetlab.api.apps import (
    CONTROLLER_REVISION_LABEL,
    POD_INDEX_LABEL,
    STATEFUL_POD_LABEL,
    StatefulSet,
    StatefulSetStatus,
)
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Change, Cluster, Kind
from kubenetlab.controllers.support.children import create_pod, delete_pod, new_pod
from kubenetlab.controllers.support.naming import template_hash
from kubenetlab.controllers.support.serials import Serials

SOURCE = "statefulset-controller"

WATCHES: Final[tuple[Kind, ...]] = (StatefulSet, Pod)


def reconcile(cluster: Cluster, now: float) -> Iterator[Change]:
    serials = Serials(cluster)
    for stateful_set in cluster.all(StatefulSet):
        pods = {pod.name: pod for pod in cluster.owned_by(Pod, stateful_set)}
        revision = f"{stateful_set.name}-{template_hash(stateful_set.spec.template)}"
        yield from _adjust_pods(cluster, stateful_set, pods, revision, serials, now)
        status = _status(
            stateful_set, [pod for pod in pods.values() if not pod.is_terminating], revision
        )
        if status != stateful_set.status:
            yield structs.replace(stateful_set, status=status)
    yield from serials.changes()


def _adjust_pods(
    cluster: Cluster,
    stateful_set: StatefulSet,
    pods: dict[str, Pod],
    revision: str,
    serials: Serials,
    now: float,
) -> Iterator[Change]:
    """Yield the steps that are possible now, up to the first one that must be waited for."""
    spec = stateful_set.spec
    is_ordered = spec.pod_management_policy == "OrderedReady"
    names = [f"{stateful_set.name}-{spec.ordinals.start + index}" for index in range(spec.replicas)]
    for name in names:
        pod = pods.get(name)
        if pod is not None and pod.is_finished and not pod.is_terminating:
            yield from delete_pod(cluster, stateful_set, pod, SOURCE, now)
        if pod is None:
            yield from create_pod(
                cluster, stateful_set, _pod(stateful_set, name, revision, serials, now), SOURCE, now
            )
        if is_ordered and (pod is None or pod.is_terminating or not pod.is_ready):
            return
    for pod in sorted(
        (pod for name, pod in pods.items() if name not in names), key=_ordinal, reverse=True
    ):
        if not pod.is_terminating:
            yield from delete_pod(cluster, stateful_set, pod, SOURCE, now)
        if is_ordered:
            return
    yield from _update(
        cluster, stateful_set, [pods[name] for name in names if name in pods], revision, now
    )


def _update(
    cluster: Cluster, stateful_set: StatefulSet, pods: Sequence[Pod], revision: str, now: float
) -> Iterator[Change]:
    """Yield the deletion of the next pod of an old template.

    Pods are replaced from the highest ordinal down to the partition, each when all pods with higher
    ordinals are ready.
    """
    strategy = stateful_set.spec.update_strategy
    if strategy.type == "OnDelete":
        return
    lowest = stateful_set.spec.ordinals.start + strategy.rolling_update.partition
    for pod in sorted(pods, key=_ordinal, reverse=True):
        if _ordinal(pod) < lowest or pod.is_terminating:
            return
        if pod.labels.get(CONTROLLER_REVISION_LABEL) != revision:
            yield from delete_pod(cluster, stateful_set, pod, SOURCE, now)
            return
        if not pod.is_ready:
            return


def _pod(stateful_set: StatefulSet, name: str, revision: str, serials: Serials, now: float) -> Pod:
    labels = {
        STATEFUL_POD_LABEL: name,
        POD_INDEX_LABEL: name.rpartition("-")[2],
        CONTROLLER_REVISION_LABEL: revision,
    }
    uid = serials.child_uid("Pod", stateful_set, name)
    spec = stateful_set.spec
    return new_pod(
        stateful_set,
        spec.template,
        name,
        uid,
        now,
        labels,
        hostname=name,
        subdomain=spec.service_name,
    )


def _ordinal(pod: Pod) -> int:
    return int(pod.name.rpartition("-")[2])


def _status(stateful_set: StatefulSet, active: Sequence[Pod], revision: str) -> StatefulSetStatus:
    ready = sum(pod.is_ready for pod in active)
    updated = sum(pod.labels.get(CONTROLLER_REVISION_LABEL) == revision for pod in active)
    is_done = updated == len(active) == stateful_set.spec.replicas and ready == updated
    current = revision if is_done else stateful_set.status.current_revision or revision
    return StatefulSetStatus(
        replicas=len(active),
        ready_replicas=ready,
        available_replicas=ready,
        current_replicas=sum(
            pod.labels.get(CONTROLLER_REVISION_LABEL) == current for pod in active
        ),
        updated_replicas=updated,
        current_revision=current,
        update_revision=revision,
        observed_generation=stateful_set.metadata.generation,
    )
