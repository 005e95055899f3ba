"""Deletion of objects.

Pods and namespaces first become terminating and are removed when their controller has finished;
all other objects are removed at once.
"""

from collections.abc import Iterator

from msgspec import structs

from kubenetlab.api.core import Namespace
from kubenetlab.api.meta import Resource, timestamp
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Change, deletion


def deletion_changes(obj: Resource, now: float) -> Iterator[Change]:
    """Yield the changes that `kubectl delete` makes to one object."""
    if not isinstance(obj, (Pod, Namespace)):
        yield deletion(obj)
    elif not obj.is_terminating:
        grace = obj.spec.termination_grace_period_seconds if isinstance(obj, Pod) else None
        meta = structs.replace(
            obj.metadata, deletion_timestamp=timestamp(now), deletion_grace_period_seconds=grace
        )
        yield structs.replace(obj, metadata=meta)
