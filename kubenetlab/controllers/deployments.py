"""deployment controller: one ReplicaSet per template; the newest has the replicas, the others fade.

A changed template gets its whole new ReplicaSet first; the old pods go when the new ones are ready.
Source: k8s.io/kubernetes pkg/controller/deployment.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import structs

from kubenetlab.api.apps import REVISION_ANNOTATION, TEMPLATE_HASH_LABEL, Deployment, DeploymentStatus, ReplicaSet, ReplicaSetSpec
from kubenetlab.api.meta import Condition, LabelSelector, ObjectMeta, OwnerReference, Resource, timestamp
from kubenetlab.api.store import Change, Cluster, Kind
from kubenetlab.controllers.events import event
from kubenetlab.controllers.naming import template_hash
from kubenetlab.controllers.serials import Serials

SOURCE = "deployment-controller"

WATCHES: Final[tuple[Kind, ...]] = (Deployment, ReplicaSet)


def reconcile(cluster: Cluster, now: float) -> Iterator[Change]:
    serials = Serials(cluster)
    for deployment in cluster.all(Deployment):
        owned = cluster.owned_by(ReplicaSet, deployment)
        hashed = template_hash(deployment.spec.template)
        newest = next((replica_set for replica_set in owned if replica_set.labels.get(TEMPLATE_HASH_LABEL) == hashed), None)
        yield from _replica_sets(cluster, serials, deployment, owned, newest, hashed, now)
        status = _status(deployment, owned, newest, now)
        if status != deployment.status:
            yield structs.replace(deployment, status=status)
    yield from serials.changes()


def owner_reference(owner: Resource) -> OwnerReference:
    return OwnerReference(owner.api_version, owner.kind, owner.name, owner.uid, controller=True, block_owner_deletion=True)


def _replica_sets(
    cluster: Cluster,
    serials: Serials,
    deployment: Deployment,
    owned: Sequence[ReplicaSet],
    newest: ReplicaSet | None,
    hashed: str,
    now: float,
) -> Iterator[Change]:
    replicas = deployment.spec.replicas
    if newest is None:
        made = _new_replica_set(serials, deployment, owned, hashed, now)
        yield made
        message = f"Scaled up replica set {made.name} from 0 to {replicas}"
        yield event(cluster, deployment, "Normal", "ScalingReplicaSet", message, SOURCE, now)
        return
    if newest.spec.replicas != replicas:
        yield from _scaled(cluster, deployment, newest, replicas, now)
    if newest.status.ready_replicas >= replicas:
        for old in owned:
            if old is not newest and old.spec.replicas:
                yield from _scaled(cluster, deployment, old, 0, now)


def _scaled(cluster: Cluster, deployment: Deployment, replica_set: ReplicaSet, replicas: int, now: float) -> Iterator[Change]:
    """The ReplicaSet with another number of pods, and word of it."""
    yield structs.replace(replica_set, spec=structs.replace(replica_set.spec, replicas=replicas))
    verb = "up" if replicas > replica_set.spec.replicas else "down"
    message = f"Scaled {verb} replica set {replica_set.name} from {replica_set.spec.replicas} to {replicas}"
    yield event(cluster, deployment, "Normal", "ScalingReplicaSet", message, SOURCE, now)


def _new_replica_set(serials: Serials, deployment: Deployment, owned: Sequence[ReplicaSet], hashed: str, now: float) -> ReplicaSet:
    template = deployment.spec.template
    labels = {**template.metadata.labels, TEMPLATE_HASH_LABEL: hashed}
    selector = LabelSelector(
        {**deployment.spec.selector.match_labels, TEMPLATE_HASH_LABEL: hashed}, deployment.spec.selector.match_expressions
    )
    name = f"{deployment.name}-{hashed}"
    return ReplicaSet(
        ObjectMeta(
            name=name,
            namespace=deployment.namespace,
            labels=labels,
            annotations={REVISION_ANNOTATION: str(len(owned) + 1)},
            uid=serials.child_uid("ReplicaSet", deployment, name),
            creation_timestamp=timestamp(now),
            generation=1,
            owner_references=(owner_reference(deployment),),
        ),
        ReplicaSetSpec(
            replicas=deployment.spec.replicas,
            selector=selector,
            template=structs.replace(template, metadata=structs.replace(template.metadata, labels=labels)),
        ),
    )


def _status(deployment: Deployment, owned: Sequence[ReplicaSet], newest: ReplicaSet | None, now: float) -> DeploymentStatus:
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
