"""Cluster: all objects of a lab as one immutable value.

A change returns a new value that shares everything unchanged with the previous one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

from msgspec import Struct, structs

from kubenetlab.api.config import ClusterConfig
from kubenetlab.api.core import Namespace, Node, Service
from kubenetlab.api.discovery import EndpointSlice
from kubenetlab.api.meta import Labels, LabelSelector, Resource, matches_labels
from kubenetlab.api.pods import Pod
from kubenetlab.versioned import VersionedMap

R = TypeVar("R", bound=Resource)
Kind = type[Resource]
Document = Mapping[str, Any]
GivenKey = tuple[str, str, str]
"""(kind, namespace, name), with the kind as `kinds.qualified_kind` returns it."""


class DocumentSource(Struct, frozen=True):
    """File and line of an object's document."""

    file: str
    """Absolute path of the file, or a name in angle brackets such as `<stdin>`."""
    line: int
    """Line at which the object begins."""


class GivenDocument(Struct, frozen=True):
    """Document as a user gave it."""

    document: Document
    source: DocumentSource | None = None


class Delete(NamedTuple):
    """Deletion of an object. Deleting a missing object succeeds."""

    kind: Kind
    namespace: str
    name: str


Change = Resource | Delete


def deletion(obj: Resource) -> Delete:
    """Return the deletion of an object."""
    return Delete(type(obj), obj.namespace, obj.name)


class Cluster:
    """Store of objects by kind, namespace and name, with the indexes of controllers and layers.

    given: documents as users wrote them, including those of kinds that the lab does not model.
    revision: number of changes; it becomes the resourceVersion of a changed object.
    """

    __slots__ = ("_by_kinds", "_cache", "_incremental", "_objects", "given", "revision")

    def __init__(
        self,
        objects: Mapping[Kind, Mapping[tuple[str, str], Resource]] | None = None,
        given: Mapping[GivenKey, GivenDocument] | None = None,
        revision: int = 0,
    ) -> None:
        self._objects: dict[Kind, VersionedMap[tuple[str, str], Any]] = {
            kind: _versioned(by_key) for kind, by_key in (objects or {}).items()
        }
        self._cache: dict[Any, Any] = {}
        """Name → value of `derived` and `renewed`."""
        self._by_kinds: dict[Any, tuple[Kind, ...]] = {}
        """Name of a `derived` value → kinds that it depends on."""
        self._incremental: dict[Any, Any] = {}
        """Name → latest value of `renewed`, in this store or in an earlier one."""
        self.given = _versioned(given or {})
        self.revision = revision

    def all(self, kind: type[R], namespace: str | None = None) -> Sequence[R]:
        """Return the objects of a kind, of one namespace or of all, in order of creation."""
        objects: Sequence[R] = self.derived(
            ("all", kind), lambda: tuple(self.keyed(kind).values()), (kind,)
        )
        if namespace is None:
            return objects
        return [obj for obj in objects if obj.namespace == namespace]

    def get(self, kind: type[R], namespace: str, name: str) -> R | None:
        return self.keyed(kind).get((namespace, name))

    @property
    def config(self) -> ClusterConfig:
        configs = self.all(ClusterConfig)
        return configs[0] if configs else ClusterConfig()

    def pods_on(self, node: str) -> Sequence[Pod]:
        """Return the pods bound to a node, in order of creation."""
        by_node: Mapping[str, Sequence[Pod]] = self.derived(
            "pods by node", lambda: _group(self.all(Pod), lambda pod: pod.spec.node_name), (Pod,)
        )
        return by_node.get(node, ())

    def select(self, namespace: str, selector: LabelSelector | Labels) -> Sequence[Pod]:
        """Return the pods of a namespace that a selector, or the selector of a Service, matches."""
        labels = selector.match_labels if isinstance(selector, LabelSelector) else selector
        if labels:
            by_label = self.derived("pods by label", lambda: _by_label(self.all(Pod)), (Pod,))
            pods: Sequence[Pod] = min(
                (by_label.get((namespace, *pair), ()) for pair in labels.items()), key=len
            )
        else:
            by_namespace = self.derived(
                "pods by namespace",
                lambda: _group(self.all(Pod), lambda pod: pod.namespace),
                (Pod,),
            )
            pods = by_namespace.get(namespace, ())
        matches = (
            selector.matches
            if isinstance(selector, LabelSelector)
            else partial(matches_labels, selector)
        )
        return [pod for pod in pods if matches(pod.labels)]

    def owned_by(self, kind: type[R], owner: Resource) -> Sequence[R]:
        """Return the objects of a kind whose controller is `owner`."""
        by_owner: Mapping[str, Sequence[R]] = self.derived(
            ("owned", kind), lambda: _group(self.all(kind), _controller_uid), (kind,)
        )
        return by_owner.get(owner.uid, ())

    def slices_of(self, service: Service) -> Sequence[EndpointSlice]:
        """Return the EndpointSlices of a Service, including those that a user created."""
        return self.slices_by_service.get(service.key, ())

    @property
    def slices_by_service(self) -> VersionedMap[tuple[str, str], tuple[EndpointSlice, ...]]:
        """Namespace and name of a Service → its EndpointSlices, in order of creation."""
        slices: VersionedMap[tuple[str, str], tuple[EndpointSlice, ...]] = self.renewed(
            "slices by service", self._slices_by_service
        )
        return slices

    def _slices_by_service(self, previous: Any) -> Any:
        """Return the index from the previous one and the EndpointSlices changed since then."""
        changes = self.since("slices by service", (EndpointSlice,))
        if changes is None or previous is None:
            groups = _group(self.all(EndpointSlice), _service_of)
            return VersionedMap((key, tuple(slices)) for key, slices in groups.items())
        updated: dict[tuple[str, str], dict[tuple[str, str], EndpointSlice]] = {}
        for pair in changes[EndpointSlice]:
            for key in {_service_of(piece) for piece in pair if piece is not None}:
                updated.setdefault(key, {piece.key: piece for piece in previous.get(key, ())})
        for before, after in changes[EndpointSlice]:
            if before is not None and (after is None or _service_of(after) != _service_of(before)):
                updated[_service_of(before)].pop(before.key, None)
            if after is not None:
                updated[_service_of(after)][after.key] = after
        return previous.with_changes(
            {key: tuple(slices.values()) or None for key, slices in updated.items()}
        )

    def keyed(self, kind: type[R]) -> VersionedMap[tuple[str, str], R]:
        """Return the objects of a kind by (namespace, name)."""
        return self._objects.get(kind, _NONE)

    def since(
        self, name: Any, kinds: tuple[Kind, ...]
    ) -> Mapping[Kind, Sequence[tuple[Any, Any]]] | None:
        """Return the changes of some kinds since the store of the previous call with this name.

        Each change is a pair of the object before and now; None stands for a missing object. The
        result is None for the first call with a name.
        """

        def build(previous: Any) -> Any:
            objects = {kind: self.keyed(kind) for kind in kinds}
            changes = (
                None
                if previous is None
                else {kind: self.news(kind, previous[0][kind]) for kind in kinds}
            )
            return objects, changes

        changes: Mapping[Kind, Sequence[tuple[Any, Any]]] | None = self.renewed(
            ("since", name), build
        )[1]
        return changes

    def news(self, kind: Kind, before: Mapping[Any, Any]) -> Sequence[tuple[Any, Any]]:
        """Return the changes of a kind since another store, of which `before` is `keyed(kind)`.

        Each change is a pair of the object before and now; None stands for a missing object.
        """
        return tuple(self.keyed(kind).changes_since(before).values())

    def snapshot(self, kinds: Iterable[Kind]) -> tuple[Any, ...]:
        """Return a value for each kind that is identical as long as no object of it changes."""
        return tuple(self._objects.get(kind) for kind in kinds)

    def node(self, name: str) -> Node | None:
        return self.get(Node, "", name)

    def with_changes(self, changes: Iterable[Change]) -> Cluster:
        """Return the store after some changes; the store itself if they change nothing.

        The document of a deleted object is deleted, too; with a namespace all documents in it.
        """
        updated: dict[Kind, dict[tuple[str, str], Resource | None]] = {}
        revision, given = self.revision, self.given
        for change in changes:
            kind, key = (
                (change.kind, (change.namespace, change.name))
                if isinstance(change, Delete)
                else (type(change), change.key)
            )
            updates = updated.setdefault(kind, {})
            current = updates[key] if key in updates else self.keyed(kind).get(key)
            if isinstance(change, Delete):
                if current is not None:
                    revision += 1
                    updates[key] = None
                    given = _without(given, change)
            elif not _is_same(change, current):
                revision += 1
                updates[key] = structs.replace(
                    change,
                    metadata=structs.replace(change.metadata, resource_version=str(revision)),
                )
        if revision == self.revision:
            return self
        return self._successor(
            {kind: self.keyed(kind).with_changes(updates) for kind, updates in updated.items()},
            given,
            revision,
        )

    def with_given(self, documents: Mapping[GivenKey, GivenDocument | None]) -> Cluster:
        """Return the store with some given documents replaced, or removed with None."""
        if all(self.given.get(key) == given for key, given in documents.items()):
            return self
        return self._successor({}, self.given.with_changes(documents), self.revision)

    def source_of(self, obj: Resource) -> DocumentSource | None:
        """Return the file and line of an object's document; None if they are not known."""
        given = self.given.get((obj.kind, obj.namespace, obj.name))
        return given.source if given is not None else None

    def derived(self, name: Any, build: Callable[[], Any], kinds: tuple[Kind, ...] = ()) -> Any:
        """Return a value that depends on this store alone; build it at the first call with a name.

        kinds: kinds that the value depends on. A later store in which they are unchanged keeps it.
        """
        if name not in self._cache:
            self._cache[name] = build()
            if kinds:
                self._by_kinds[name] = kinds
        return self._cache[name]

    def renewed(self, name: Any, build: Callable[[Any], Any]) -> Any:
        """Return a value that is built from its latest value in an earlier store, or from None."""
        if name not in self._cache:
            self._cache[name] = self._incremental[name] = build(self._incremental.get(name))
        return self._cache[name]

    def afresh(self) -> Cluster:
        """Return the same store without cached values.

        A call of its `since` does not affect the changes that other callers get.
        """
        return Cluster(self._objects, self.given, self.revision)

    def _successor(
        self,
        changed: Mapping[Kind, VersionedMap[tuple[str, str], Any]],
        given: VersionedMap[GivenKey, GivenDocument],
        revision: int,
    ) -> Cluster:
        """Return the store that follows this one, with the objects of some kinds replaced."""
        changed = {
            kind: objects for kind, objects in changed.items() if objects is not self.keyed(kind)
        }
        after = Cluster({**self._objects, **changed}, given, revision)
        after._by_kinds = {
            name: kinds
            for name, kinds in self._by_kinds.items()
            if changed.keys().isdisjoint(kinds)
        }
        after._cache = {name: self._cache[name] for name in after._by_kinds}
        after._incremental = dict(self._incremental)
        return after


_NONE: VersionedMap[Any, Any] = VersionedMap()


def _versioned(mapping: Mapping[Any, Any]) -> VersionedMap[Any, Any]:
    return mapping if isinstance(mapping, VersionedMap) else VersionedMap(mapping)


def _without(
    given: VersionedMap[GivenKey, GivenDocument], deleted: Delete
) -> VersionedMap[GivenKey, GivenDocument]:
    """Return the given documents without that of a deleted object, or of objects inside it."""
    deleted_key = (deleted.kind.kind, deleted.namespace, deleted.name)
    if deleted.kind is not Namespace:
        return given.with_changes({deleted_key: None})
    return given.with_changes(
        {key: None for key in given if key[1] == deleted.name or key == deleted_key}
    )


def _is_same(new: Resource, old: Resource | None) -> bool:
    """Return True if two objects differ at most in the resource version.

    The store sets the resource version: a controller that builds an object does not know it.
    """
    if old is None or new == old:
        return old is not None
    meta = structs.replace(new.metadata, resource_version=old.metadata.resource_version)
    return structs.replace(new, metadata=meta) == old


def _service_of(piece: EndpointSlice) -> tuple[str, str]:
    return piece.namespace, piece.service_name


def _controller_uid(obj: Resource) -> str:
    return next((owner.uid for owner in obj.metadata.owner_references if owner.controller), "")


def _by_label(pods: Iterable[Pod]) -> dict[tuple[str, str, str], list[Pod]]:
    """Return the pods by (namespace, key of a label, value of the label)."""
    groups: dict[tuple[str, str, str], list[Pod]] = {}
    for pod in pods:
        for pair in pod.labels.items():
            groups.setdefault((pod.namespace, *pair), []).append(pod)
    return groups


def _group(objects: Iterable[Any], key: Any) -> dict[Any, list[Any]]:
    groups: dict[Any, list[Any]] = {}
    for obj in objects:
        groups.setdefault(key(obj), []).append(obj)
    return groups
