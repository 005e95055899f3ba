"""namespace controller: a namespace that is being deleted takes everything in it along."""

from collections.abc import Iterator
from typing import Final

from kubenetlab.api.apps import Deployment, ReplicaSet
from kubenetlab.api.core import Event, Namespace, Service
from kubenetlab.api.discovery import EndpointSlice
from kubenetlab.api.meta import Resource
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Change, Cluster, Kind, deletion
from kubenetlab.controllers.termination import terminated

_CONTENTS: Final[tuple[type[Resource], ...]] = (Deployment, ReplicaSet, Pod, Service, EndpointSlice, Event)

WATCHES: Final[tuple[Kind, ...]] = (Namespace, *_CONTENTS)


def reconcile(cluster: Cluster, now: float) -> Iterator[Change]:
    for namespace in cluster.all(Namespace):
        if not namespace.is_terminating:
            continue
        contents = [obj for kind in _CONTENTS for obj in cluster.all(kind, namespace.name)]
        for obj in contents:
            yield from terminated(obj, now)
        if not contents:
            yield deletion(namespace)
