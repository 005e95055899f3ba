"""garbage collector: what a vanished owner leaves behind goes too, and what nobody asks for any more.

Source: k8s.io/kubernetes pkg/controller/garbagecollector; cmd/kube-apiserver --event-ttl (1 hour).
"""

from collections.abc import Iterator
from typing import Final

from msgspec import structs

from kubenetlab.api.core import Event
from kubenetlab.api.kinds import NAMESPACED, SERVED, find_kind
from kubenetlab.api.lab import AllocationState, Attachment, PodRuntimeStatus, Termination
from kubenetlab.api.meta import OwnerReference, Resource, seconds, timestamp
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Change, Cluster, Kind, deletion
from kubenetlab.controllers.termination import terminated
from kubenetlab.controllers.wake import Wake

EVENT_TTL_S = 3600.0
MIN_EVENTS: Final = 2_000
EVENTS_PER_POD: Final = 10
"""There are at most as many events as the larger of the two allows; a pod that comes up has six. Kubernetes has no such bound."""
KEPT_FRACTION: Final = 0.75
"""Part of the bound that is left when it was exceeded: not each new event shall cost an old one."""

WATCHES: Final[tuple[Kind, ...]] = (*SERVED, Attachment, PodRuntimeStatus, Termination)


def reconcile(cluster: Cluster, now: float) -> Iterator[Change | Wake]:
    yield from _orphans(cluster, now)
    pods = {pod.uid for pod in cluster.all(Pod) if not pod.is_finished}
    for attachment in cluster.all(Attachment):
        if attachment.pod_uid not in pods:
            yield deletion(attachment)
    for observed in cluster.all(PodRuntimeStatus):
        if observed.pod_uid not in pods:
            yield deletion(observed)
    for termination in cluster.all(Termination):
        if termination.pod_uid not in pods:
            yield deletion(termination)
    yield from _old_events(cluster, now)


def _orphans(cluster: Cluster, now: float) -> Iterator[Change]:
    """What has lost its owners, and the counters of owners that are gone. While nothing goes, only what is new may be without one."""
    news = cluster.since("garbage", SERVED)
    if news is None or any(_is_gone(*pair) for kind in SERVED for pair in news[kind]):
        suspects = [obj for kind in NAMESPACED for obj in cluster.all(kind)]
        alive = {owner.uid for kind in SERVED for owner in cluster.all(kind)}
        ledger = cluster.get(AllocationState, "", "ledger")
        if ledger is not None and not alive.issuperset(ledger.serials):
            yield structs.replace(
                ledger,
                serials={uid: serial for uid, serial in ledger.serials.items() if uid in alive},
            )
    else:
        suspects = [obj for kind in NAMESPACED for _, obj in news[kind]]
    for obj in suspects:
        owners = obj.metadata.owner_references
        if owners and not any(_is_alive(cluster, obj, owner) for owner in owners):
            yield from terminated(obj, now)


def _is_gone(before: Resource | None, after: Resource | None) -> bool:
    return before is not None and (after is None or after.uid != before.uid)


def _is_alive(cluster: Cluster, obj: Resource, owner: OwnerReference) -> bool:
    """True when the one with the owner's name is the owner itself, of the object's namespace or of none."""
    kind = find_kind(owner.kind)
    found = (
        cluster.get(kind, obj.namespace if kind.is_namespaced else "", owner.name)
        if kind is not None
        else None
    )
    return found is not None and found.uid == owner.uid


def _old_events(cluster: Cluster, now: float) -> Iterator[Change | Wake]:
    """Times are compared as they are written: RFC 3339 in UTC sorts by time."""
    latest = timestamp(now - EVENT_TTL_S)
    oldest = ""
    for event in cluster.all(Event):
        stamp = event.last_timestamp or ""
        if stamp <= latest:
            yield deletion(event)
        elif not oldest or stamp < oldest:
            oldest = stamp
    if oldest:
        yield Wake(seconds(oldest) + EVENT_TTL_S)
    most = max(MIN_EVENTS, EVENTS_PER_POD * len(cluster.all(Pod)))
    if len(cluster.all(Event)) > most:
        by_time = sorted(cluster.all(Event), key=lambda event: event.last_timestamp or "")
        yield from (
            deletion(event) for event in by_time[: len(by_time) - int(KEPT_FRACTION * most)]
        )
