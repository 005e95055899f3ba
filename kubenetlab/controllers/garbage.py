"""garbage collector: what a vanished owner leaves behind goes too."""

from collections.abc import Iterator
from typing import Final

from kubenetlab.api.apps import Deployment, ReplicaSet
from kubenetlab.api.core import Service
from kubenetlab.api.discovery import EndpointSlice
from kubenetlab.api.lab import Attachment, Observed
from kubenetlab.api.meta import Resource
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Change, Cluster, Kind, deletion
from kubenetlab.controllers.termination import terminated

_OWNERS: Final[tuple[type[Resource], ...]] = (Deployment, ReplicaSet, Service)
_OWNED: Final[tuple[type[Resource], ...]] = (ReplicaSet, Pod, EndpointSlice)

WATCHES: Final[tuple[Kind, ...]] = (Deployment, ReplicaSet, Service, Pod, EndpointSlice, Attachment, Observed)


def reconcile(cluster: Cluster, now: float) -> Iterator[Change]:
    alive = {owner.uid for kind in _OWNERS for owner in cluster.all(kind)}
    for kind in _OWNED:
        for obj in cluster.all(kind):
            owners = obj.metadata.owner_references
            if owners and not any(owner.uid in alive for owner in owners):
                yield from terminated(obj, now)
    pods = {pod.uid for pod in cluster.all(Pod) if not pod.is_finished}
    for attachment in cluster.all(Attachment):
        if attachment.pod_uid not in pods:
            yield deletion(attachment)
    for observed in cluster.all(Observed):
        if observed.pod_uid not in pods:
            yield deletion(observed)
