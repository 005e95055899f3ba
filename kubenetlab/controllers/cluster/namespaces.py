"""namespace controller: empties and removes namespaces that are being deleted.

It reads namespaces and all namespaced objects. It deletes every object of a terminating
namespace, and then the namespace itself.
"""

from collections.abc import Iterator
from typing import Final

from kubenetlab.api.core import Namespace
from kubenetlab.api.kinds import NAMESPACED
from kubenetlab.api.store import Change, Cluster, Kind, deletion
from kubenetlab.controllers.support.termination import deletion_changes

WATCHES: Final[tuple[Kind, ...]] = (Namespace, *NAMESPACED)


def reconcile(cluster: Cluster, now: float) -> Iterator[Change]:
    for namespace in cluster.all(Namespace):
        if not namespace.is_terminating:
            continue
        contents = [obj for kind in NAMESPACED for obj in cluster.all(kind, namespace.name)]
        for obj in contents:
            yield from deletion_changes(obj, now)
        if not contents:
            yield deletion(namespace)
