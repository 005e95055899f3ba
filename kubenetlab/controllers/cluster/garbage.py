"""garbage collector: removes objects whose owners are gone, and old events.

It reads all objects and the lab's records of pods (attachments, runtime statuses, terminations).
It deletes objects none of whose owners exists, records of pods that no longer exist, and events
that are too old or too many.
Source: k8s.io/kubernetes pkg/controller/garbagecollector; cmd/kube-apiserver --event-ttl (1 hour).
"""

from collections.abc import Iterable, Iterator
from typing import Final

from msgspec import structs

from kubenetlab.api.batch import Job
from kubenetlab.api.core import Event
from kubenetlab.api.kinds import NAMESPACED, SERVED, find_kind
from kubenetlab.api.lab import (
    AllocationState,
    Attachment,
    JobTracking,
    PodRuntimeStatus,
    Termination,
)
from kubenetlab.api.meta import OwnerReference, Resource, seconds, timestamp
from kubenetlab.api.object_map import Changes
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Change, Cluster, Kind, deletion
from kubenetlab.controllers.support.termination import deletion_changes
from kubenetlab.controllers.support.wake import Wake

EVENT_TTL_S = 3600.0
"""Lifetime of an event after its last occurrence, in seconds."""
MIN_EVENTS: Final = 2_000
EVENTS_PER_POD: Final = 10
"""Maximum number of events: the larger of MIN_EVENTS and EVENTS_PER_POD for each pod.

A pod that starts has six events. Kubernetes has no such limit.
"""
KEPT_FRACTION: Final = 0.75
"""Fraction of the limit that is kept when it is exceeded, so that purges are rare."""

_RECORDS: Final[tuple[type[Attachment | PodRuntimeStatus | Termination], ...]] = (
    Attachment,
    PodRuntimeStatus,
    Termination,
)
"""Records of pods, each by the pod's uid."""

WATCHES: Final[tuple[Kind, ...]] = (*SERVED, AllocationState, *_RECORDS)
INCREMENTAL: Final = True


def reconcile(
    cluster: Cluster, now: float, *, changes: Changes | None = None
) -> Iterator[Change | Wake]:
    has_deletions = changes is None or any(
        _is_gone(*pair) for kind in SERVED for pair in changes[kind]
    )
    yield from _orphans(cluster, now, None if has_deletions else changes)
    if changes is None or has_deletions or changes[AllocationState]:
        yield from _unused_serials(cluster)
    if changes is None or has_deletions or _concern_records(changes):
        yield from _records_without_pods(cluster)
    if trackings := cluster.all(JobTracking):
        jobs = {job.uid for job in cluster.all(Job)}
        yield from (deletion(tracking) for tracking in trackings if tracking.job_uid not in jobs)
    yield from _old_events(cluster, now)


def _concern_records(changes: Changes) -> bool:
    """Return True if a record of a pod may have become useless."""
    return any(changes[kind] for kind in _RECORDS) or any(
        pod is not None and pod.is_finished for _, pod in changes[Pod]
    )


def _records_without_pods(cluster: Cluster) -> Iterator[Change]:
    """Yield the deletion of records of pods that are gone or have ended for good."""
    pods = {pod.uid for pod in cluster.all(Pod) if not pod.is_finished}
    for kind in _RECORDS:
        for record in cluster.all(kind):
            if record.pod_uid not in pods:
                yield deletion(record)


def _orphans(cluster: Cluster, now: float, changes: Changes | None) -> Iterator[Change]:
    """Yield the deletion of objects whose owners are gone.

    changes: changes without deletions; only new objects can then lack an owner. None: any object
    can.
    """
    suspects = (
        [obj for kind in NAMESPACED for obj in cluster.all(kind)]
        if changes is None
        else [obj for kind in NAMESPACED for _, obj in changes[kind] if obj is not None]
    )
    for obj in suspects:
        owners = obj.metadata.owner_references
        if owners and not any(_is_alive(cluster, obj, owner) for owner in owners):
            yield from deletion_changes(obj, now)


def _unused_serials(cluster: Cluster) -> Iterator[Change]:
    """Yield the deletion of the serials of owners that are gone."""
    allocations = cluster.get(AllocationState, "", "ledger")
    if allocations is None:
        return
    used = {
        uid: serial
        for uid, serial in allocations.serials.items()
        if any(uid in cluster.index(kind, _uids) for kind in SERVED)
    }
    if len(used) != len(allocations.serials):
        yield structs.replace(allocations, serials=used)


def _uids(objects: Iterable[Resource]) -> frozenset[str]:
    return frozenset(obj.uid for obj in objects)


def _is_gone(before: Resource | None, after: Resource | None) -> bool:
    return before is not None and (after is None or after.uid != before.uid)


def _is_alive(cluster: Cluster, obj: Resource, owner: OwnerReference) -> bool:
    """Return True when the object with the owner's name is the owner itself, by its uid."""
    kind = find_kind(owner.kind)
    candidate = (
        cluster.get(kind, obj.namespace if kind.is_namespaced else "", owner.name)
        if kind is not None
        else None
    )
    return candidate is not None and candidate.uid == owner.uid


def _old_events(cluster: Cluster, now: float) -> Iterator[Change | Wake]:
    """Yield the deletion of events that are too old or too many, and the time of the next expiry.

    Times are compared as text: RFC 3339 in UTC sorts by time.
    """
    expired_before = timestamp(now - EVENT_TTL_S)
    oldest = ""
    for event in cluster.all(Event):
        stamp = event.last_timestamp or ""
        if stamp <= expired_before:
            yield deletion(event)
        elif not oldest or stamp < oldest:
            oldest = stamp
    if oldest:
        yield Wake(seconds(oldest) + EVENT_TTL_S)
    limit = max(MIN_EVENTS, EVENTS_PER_POD * len(cluster.all(Pod)))
    if len(cluster.all(Event)) > limit:
        by_time = sorted(cluster.all(Event), key=lambda event: event.last_timestamp or "")
        yield from (
            deletion(event) for event in by_time[: len(by_time) - int(KEPT_FRACTION * limit)]
        )
