"""Events: what happened to an object. Repeated events are counted in one object.

Source: k8s.io/client-go tools/record/events_cache.go.
"""

from typing import Literal

from msgspec import structs

from kubenetlab.api.core import Event, EventSource, ObjectReference
from kubenetlab.api.meta import ObjectMeta, Resource, timestamp
from kubenetlab.api.store import Cluster
from kubenetlab.controllers.admission.admission import make_uid
from kubenetlab.controllers.support.naming import suffix


def event(
    cluster: Cluster,
    obj: Resource,
    kind: Literal["Normal", "Warning"],
    reason: str,
    message: str,
    source: str,
    now: float,
) -> Event:
    """Return the event to store: a new one, or the existing one with its count raised."""
    namespace, name = _key(obj, reason, message)
    known = cluster.get(Event, namespace, name)
    stamp = timestamp(now)
    if known is not None:
        return structs.replace(known, count=known.count + 1, last_timestamp=stamp)
    return Event(
        metadata=ObjectMeta(
            name=name, namespace=namespace, uid=make_uid("Event", name), creation_timestamp=stamp
        ),
        involved_object=ObjectReference(
            obj.kind, obj.namespace, obj.name, obj.uid, obj.api_version
        ),
        type=kind,
        reason=reason,
        message=message,
        source=EventSource(source),
        first_timestamp=stamp,
        last_timestamp=stamp,
    )


def is_recorded(cluster: Cluster, obj: Resource, reason: str, message: str) -> bool:
    """Return True when the same event exists already.

    Used for events whose cause persists, which would otherwise be counted in every pass.
    """
    return cluster.get(Event, *_key(obj, reason, message)) is not None


def _key(obj: Resource, reason: str, message: str) -> tuple[str, str]:
    return (
        obj.namespace or "default",
        f"{obj.name}.{suffix(obj.kind, obj.uid, reason, message, length=16)}",
    )
