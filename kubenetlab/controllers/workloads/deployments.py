"""deployment controller: one ReplicaSet per pod template.

It reads Deployments, their ReplicaSets and pods. It creates the ReplicaSet of the current template,
scales it up and the older ones down as the strategy allows, and deletes ReplicaSets beyond
revisionHistoryLimit.
Source: k8s.io/kubernetes pkg/controller/deployment.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import structs

from kubenetlab.api.apps import (
    REVISION_ANNOTATION,
    TEMPLATE_HASH_LABEL,
    Deployment,
    DeploymentStatus,
    ReplicaSet,
    ReplicaSetSpec,
    RollingUpdate,
)
from kubenetlab.api.meta import Condition, LabelSelector, ObjectMeta, timestamp
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Change, Cluster, Kind, deletion
from kubenetlab.controllers.support.children import owner_reference
from kubenetlab.controllers.support.events import event
from kubenetlab.controllers.support.naming import template_hash
from kubenetlab.controllers.support.serials import Serials
from kubenetlab.controllers.workloads import rollout

SOURCE = "deployment-controller"

WATCHES: Final[tuple[Kind, ...]] = (Deployment, ReplicaSet, Pod)


def reconcile(cluster: Cluster, now: float) -> Iterator[Change]:
    serials = Serials(cluster)
    for deployment in cluster.all(Deployment):
        owned = cluster.owned_by(ReplicaSet, deployment)
        hash_value = template_hash(deployment.spec.template)
        newest = next(
            (
                replica_set
                for replica_set in owned
                if replica_set.labels.get(TEMPLATE_HASH_LABEL) == hash_value
            ),
            None,
        )
        yield from _replica_sets(cluster, serials, deployment, owned, newest, hash_value, now)
        status = _status(deployment, owned, newest, now)
        if status != deployment.status:
            yield structs.replace(deployment, status=status)
    yield from serials.changes()


def _replica_sets(
    cluster: Cluster,
    serials: Serials,
    deployment: Deployment,
    owned: Sequence[ReplicaSet],
    newest: ReplicaSet | None,
    hash_value: str,
    now: float,
) -> Iterator[Change]:
    """Yield the next step of a rollout or of scaling."""
    replicas = deployment.spec.replicas
    old = sorted((replica_set for replica_set in owned if replica_set is not newest), key=_revision)
    if deployment.spec.paused and newest is None:
        return
    if deployment.spec.strategy.type == "Recreate" and any(
        cluster.owned_by(Pod, replica_set) for replica_set in old
    ):
        for replica_set in old:
            yield from _scale(cluster, deployment, replica_set, 0, now)
        return
    rolling = deployment.spec.strategy.rolling_update or RollingUpdate()
    surge, unavailable = rollout.limits(replicas, rolling.max_surge, rolling.max_unavailable)
    shares = [_share(replica_set) for replica_set in old]
    share = rollout.new_share(replicas, surge, _share(newest), shares)
    if newest is None:
        created = _new_replica_set(serials, deployment, owned, hash_value, share, now)
        yield created
        yield _scaling_event(cluster, deployment, created.name, 0, share, now)
        return
    latest = max((_revision(replica_set) for replica_set in old), default=0)
    if _revision(newest) < latest:  # rollback to an older template
        newest = _with_revision(newest, latest + 1)
        yield newest
    yield from _scale(cluster, deployment, newest, share, now)
    for replica_set, kept in zip(
        old, rollout.old_shares(replicas, unavailable, _share(newest), shares), strict=True
    ):
        yield from _scale(cluster, deployment, replica_set, kept, now)
    empty = [
        replica_set
        for replica_set in old
        if not replica_set.spec.replicas and not replica_set.status.replicas
    ]
    yield from (
        deletion(replica_set)
        for replica_set in empty[: max(0, len(empty) - deployment.spec.revision_history_limit)]
    )


def _share(replica_set: ReplicaSet | None) -> rollout.RolloutShare:
    return (
        rollout.RolloutShare(replica_set.spec.replicas, replica_set.status.available_replicas)
        if replica_set
        else rollout.RolloutShare(0)
    )


def _revision(replica_set: ReplicaSet) -> int:
    return int(replica_set.metadata.annotations.get(REVISION_ANNOTATION, "0"))


def _with_revision(replica_set: ReplicaSet, revision: int) -> ReplicaSet:
    annotations = {**replica_set.metadata.annotations, REVISION_ANNOTATION: str(revision)}
    return structs.replace(
        replica_set, metadata=structs.replace(replica_set.metadata, annotations=annotations)
    )


def _scale(
    cluster: Cluster, deployment: Deployment, replica_set: ReplicaSet, replicas: int, now: float
) -> Iterator[Change]:
    """Yield the ReplicaSet with `replicas` pods and the event; nothing when it has as many."""
    before = replica_set.spec.replicas
    if before != replicas:
        yield structs.replace(
            replica_set, spec=structs.replace(replica_set.spec, replicas=replicas)
        )
        yield _scaling_event(cluster, deployment, replica_set.name, before, replicas, now)


def _scaling_event(
    cluster: Cluster, deployment: Deployment, name: str, before: int, after: int, now: float
) -> Change:
    message = (
        f"Scaled {'up' if after > before else 'down'} replica set {name} from {before} to {after}"
    )
    return event(cluster, deployment, "Normal", "ScalingReplicaSet", message, SOURCE, now)


def _new_replica_set(
    serials: Serials,
    deployment: Deployment,
    owned: Sequence[ReplicaSet],
    hash_value: str,
    replicas: int,
    now: float,
) -> ReplicaSet:
    template = deployment.spec.template
    labels = {**template.metadata.labels, TEMPLATE_HASH_LABEL: hash_value}
    selector = LabelSelector(
        {**deployment.spec.selector.match_labels, TEMPLATE_HASH_LABEL: hash_value},
        deployment.spec.selector.match_expressions,
    )
    name = f"{deployment.name}-{hash_value}"
    return ReplicaSet(
        ObjectMeta(
            name=name,
            namespace=deployment.namespace,
            labels=labels,
            annotations={REVISION_ANNOTATION: str(max(map(_revision, owned), default=0) + 1)},
            uid=serials.child_uid("ReplicaSet", deployment, name),
            creation_timestamp=timestamp(now),
            generation=1,
            owner_references=(owner_reference(deployment),),
        ),
        ReplicaSetSpec(
            replicas=replicas,
            selector=selector,
            template=structs.replace(
                template, metadata=structs.replace(template.metadata, labels=labels)
            ),
        ),
    )


def _status(
    deployment: Deployment, owned: Sequence[ReplicaSet], newest: ReplicaSet | None, now: float
) -> DeploymentStatus:
    ready = sum(replica_set.status.ready_replicas for replica_set in owned)
    is_available = ready >= deployment.spec.replicas
    condition = Condition(
        "Available",
        "True" if is_available else "False",
        "MinimumReplicasAvailable" if is_available else "MinimumReplicasUnavailable",
        f"Deployment {'has' if is_available else 'does not have'} minimum availability.",
        timestamp(now),
    )
    before = deployment.status.conditions
    return DeploymentStatus(
        replicas=sum(replica_set.status.replicas for replica_set in owned),
        updated_replicas=newest.status.replicas if newest else 0,
        ready_replicas=ready,
        available_replicas=ready,
        unavailable_replicas=max(0, deployment.spec.replicas - ready),
        observed_generation=deployment.metadata.generation,
        conditions=before if before and before[0].status == condition.status else (condition,),
    )
