"""Restoration of the objects of an earlier store: what users have changed since is undone.

Objects that controllers own follow from these, and are not compared: a pod of a Deployment that was
deleted meanwhile has been replaced. Pods and namespaces are gone only after a while, so a
restoration can take several calls.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from msgspec import Struct, structs

from kubenetlab.api.config import ClusterConfig
from kubenetlab.api.core import Namespace, Node
from kubenetlab.api.faults import Fault
from kubenetlab.api.kinds import WRITABLE
from kubenetlab.api.lab import NodeSettings
from kubenetlab.api.meta import Resource
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Change, Cluster, GivenKey, Kind
from kubenetlab.controllers.admission.admission import AdmissionRequest, admit
from kubenetlab.controllers.support.termination import deletion_changes

KINDS: Final[tuple[Kind, ...]] = (
    Namespace,
    *(kind for kind in WRITABLE if kind not in (ClusterConfig, Node, Namespace)),
    NodeSettings,
    Fault,
)
"""Kinds that are restored one by one. Nodes follow from the ClusterConfig."""


class Restoration(Struct, frozen=True):
    """Result of one call."""

    cluster: Cluster
    """The store with everything restored that can be restored now."""
    pending: tuple[str, ...] = ()
    """Titles of objects that must be gone first, after which another call restores the rest."""


def restore(cluster: Cluster, former: Cluster, now: float) -> Restoration:
    """Restore the objects that users gave, as they are in a former store of the same lab.

    now: time in seconds since 1970.
    Status, allocated addresses and identities of objects that still exist are kept.
    """
    changes: list[Change] = []
    missing: list[Resource] = []
    pending: list[str] = []
    cursor = former.cursor(KINDS)
    differences = cluster.changes_since(cursor) if cluster.has_changed_since(cursor) else None
    for kind in KINDS if differences is not None else ():
        assert differences is not None
        for before, after in differences[kind]:
            if _is_owned(before) or _is_owned(after):
                continue
            if after is None:
                missing += [before] if before is not None else []
            elif before is None or after.is_terminating or _is_other(before, after):
                changes += deletion_changes(after, now)
                pending += [after.title] * isinstance(after, Pod | Namespace)
            else:
                changes += _restored(before, after)
    restored = cluster.with_changes(changes)
    requests = [
        AdmissionRequest({}, _without_status(obj)) for obj in missing if not isinstance(obj, Fault)
    ]
    config = _former_config(cluster, former)
    admission = admit(restored, [*config, *requests], now)
    if admission.is_refused:  # a namespace or an address is in use until a deletion has ended
        pending += [obj.title for obj in missing] or ["the Cluster document"]
    else:
        faults = [obj for obj in missing if isinstance(obj, Fault)]
        restored = admission.cluster.with_changes(faults)
    waiting = {_given_key(obj) for obj in missing} if admission.is_refused else set()
    return Restoration(_with_given(restored, former, waiting), tuple(pending))


def _is_owned(obj: Resource | None) -> bool:
    """Return True for an object that a controller manages."""
    return obj is not None and any(owner.controller for owner in obj.metadata.owner_references)


def _is_other(before: Resource, after: Resource) -> bool:
    """Return True for an object that was replaced by one whose fields cannot be changed back."""
    return before.metadata.uid != after.metadata.uid and _specification(before) != _specification(
        after
    )


def _specification(obj: Resource) -> dict[str, object]:
    """Return the fields of an object that a manifest determines."""
    fields = {
        name: getattr(obj, name)
        for name in obj.__struct_fields__
        if name not in ("metadata", "status")
    }
    if isinstance(obj, Pod):
        fields["spec"] = structs.replace(obj.spec, node_name="")
    return fields


def _restored(before: Resource, after: Resource) -> Iterator[Resource]:
    """Yield the object with its former content, unless that is equal."""
    meta = structs.replace(
        after.metadata, labels=before.metadata.labels, annotations=before.metadata.annotations
    )
    restored = structs.replace(before, metadata=meta)
    if hasattr(after, "status"):
        restored = structs.replace(restored, status=after.status)
    if isinstance(restored, Pod) and isinstance(after, Pod):
        spec = structs.replace(restored.spec, node_name=after.spec.node_name)
        restored = structs.replace(restored, spec=spec)
    if restored == after:
        return
    if getattr(restored, "spec", None) != getattr(after, "spec", None):
        meta = structs.replace(meta, generation=after.metadata.generation + 1)
    yield structs.replace(restored, metadata=meta)


def _without_status(obj: Resource) -> Resource:
    """Return an object as a manifest would give it, to be created again."""
    fields = {name: getattr(obj, name) for name in obj.__struct_fields__ if name != "status"}
    return type(obj)(**fields)


def _former_config(cluster: Cluster, former: Cluster) -> list[AdmissionRequest]:
    """Return the request for the former Cluster document, if it was changed."""
    if cluster.config == former.config or _specification(cluster.config) == _specification(
        former.config
    ):
        return []
    given = former.given.get(_given_key(former.config))
    return [AdmissionRequest(given.document if given is not None else {}, former.config)]


def _given_key(obj: Resource) -> GivenKey:
    return obj.kind, obj.namespace, obj.name


def _with_given(cluster: Cluster, former: Cluster, waiting: set[GivenKey]) -> Cluster:
    """Return the store with the former documents, except those of objects that are missing."""
    keys = {*cluster.given, *former.given} - waiting
    return cluster.with_given({key: former.given.get(key) for key in keys})
