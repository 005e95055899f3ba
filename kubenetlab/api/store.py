"""Cluster: all objects of a lab as one immutable value.

A change returns a new value that shares everything unchanged with the previous one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Final, NamedTuple, TypeVar, TypeVarTuple, Unpack

from msgspec import Struct, structs

from kubenetlab.api.config import ClusterConfig
from kubenetlab.api.core import Namespace, Node, Service
from kubenetlab.api.discovery import EndpointSlice
from kubenetlab.api.json_types import JsonMapping
from kubenetlab.api.meta import Labels, LabelSelector, Resource, matches_labels
from kubenetlab.api.object_map import Changes, Cursor, ObjectKey, ObjectMap
from kubenetlab.api.object_map import Kind as Kind
from kubenetlab.api.pods import Pod
from kubenetlab.versioned import VersionedMap

R = TypeVar("R", bound=Resource)
K = TypeVar("K")
T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")
Document = JsonMapping
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


class Cluster(Struct, frozen=True, eq=False):
    """Store of objects by kind, namespace and name, with the indexes of controllers and layers.

    A store remembers nothing of its readers. A reader that wants the changes since its last look
    holds a `cursor`; a function that computes something from its former result is given that
    result by its caller (`controllers.ControllerStates`, `datapath.plan_cache.PlanCache`).
    """

    objects: Mapping[Kind, ObjectMap[Any]] = {}
    """Objects by kind. Kinds without objects may be missing. Any: the key is the type of the
    objects, which Mapping cannot express; see `by_key`."""
    given: VersionedMap[GivenKey, GivenDocument] = VersionedMap()
    """Documents as users wrote them, including those of kinds that the lab does not model."""
    revision: int = 0
    """Number of changes; it becomes the resourceVersion of a changed object."""
    slices_by_service: VersionedMap[tuple[str, str], tuple[EndpointSlice, ...]] = VersionedMap()
    """Namespace and name of a Service → its EndpointSlices, by name."""

    @classmethod
    def of(
        cls,
        objects: Mapping[Kind, Mapping[ObjectKey, Resource]],
        given: Mapping[GivenKey, GivenDocument],
        revision: int,
    ) -> Cluster:
        """Return a store of these objects and documents, which derives from no other store."""
        maps = {kind: ObjectMap(by_key) for kind, by_key in objects.items()}
        return cls(
            maps,
            VersionedMap(given),
            revision,
            _with_slices(VersionedMap(), _NONE, maps.get(EndpointSlice, _NONE)),
        )

    def by_key(self, kind: type[R]) -> ObjectMap[R]:
        """Return the objects of a kind by (namespace, name)."""
        return self.objects.get(kind, _NONE)

    def all(self, kind: type[R], namespace: str | None = None) -> Sequence[R]:
        """Return the objects of a kind, of one namespace or of all, in order of creation."""
        objects = self.by_key(kind).objects
        if namespace is None:
            return objects
        return [obj for obj in objects if obj.namespace == namespace]

    def get(self, kind: type[R], namespace: str, name: str) -> R | None:
        return self.by_key(kind).get((namespace, name))

    def index(
        self,
        kind: type[R],
        build: Callable[[tuple[R, ...], Unpack[Arguments]], T],
        *arguments: *Arguments,
    ) -> T:
        """Return `build(objects, *arguments)` for all objects of a kind.

        It is computed once for each version of these objects. build: a pure function, defined at
        the top level of a module.
        """
        return self.by_key(kind).index(build, *arguments)

    @property
    def config(self) -> ClusterConfig:
        configs = self.all(ClusterConfig)
        return configs[0] if configs else ClusterConfig()

    @property
    def labels_of_namespaces(self) -> Mapping[str, Labels]:
        """Labels of each namespace."""
        return self.index(Namespace, _labels_by_name)

    def pods_on(self, node: str) -> Sequence[Pod]:
        """Return the pods bound to a node, in order of creation."""
        return self.index(Pod, _by_node).get(node, ())

    def select(self, namespace: str, selector: LabelSelector | Labels) -> Sequence[Pod]:
        """Return the pods of a namespace that a selector, or the selector of a Service, matches."""
        labels = selector.match_labels if isinstance(selector, LabelSelector) else selector
        of_namespace = self.index(Pod, _by_namespace).get(namespace)
        if of_namespace is None:
            return []
        pods: Sequence[Pod] = of_namespace.pods
        if labels:
            by_label = of_namespace.by_label
            pods = min((by_label.get(pair, ()) for pair in labels.items()), key=len)
        matches = (
            selector.matches
            if isinstance(selector, LabelSelector)
            else partial(matches_labels, selector)
        )
        return [pod for pod in pods if matches(pod.labels)]

    def owned_by(self, kind: type[R], owner: Resource) -> Sequence[R]:
        """Return the objects of a kind whose controller is `owner`."""
        by_owner: Mapping[str, Sequence[R]] = self.index(kind, _by_controller)
        return by_owner.get(owner.uid, ())

    def slices_of(self, service: Service) -> Sequence[EndpointSlice]:
        """Return the EndpointSlices of a Service, including those that a user created."""
        return self.slices_by_service.get(service.key, ())

    def cursor(self, kinds: Iterable[Kind]) -> Cursor:
        """Return the position of a reader that has seen the objects of some kinds in this store."""
        return Cursor({kind: self.by_key(kind) for kind in kinds})

    def changes_since(self, cursor: Cursor) -> Changes:
        """Return the changes that lead from the store of a cursor to this one, for its kinds.

        Any store can give the cursor: an earlier one, a later one, or another branch. Only recent
        changes are remembered; for an old cursor all objects are compared.
        """
        return Changes(
            {
                kind: tuple(self.by_key(kind).changes_since(seen).values())
                for kind, seen in cursor.seen.items()
            }
        )

    def has_changed_since(self, cursor: Cursor) -> bool:
        """Return True if an object of the cursor's kinds has changed, was added or removed."""
        return any(self.by_key(kind) is not seen for kind, seen in cursor.seen.items())

    def node(self, name: str) -> Node | None:
        return self.get(Node, "", name)

    def with_changes(self, changes: Iterable[Change]) -> Cluster:
        """Return the store after some changes; the store itself if they change nothing.

        The document of a deleted object is deleted, too; with a namespace all documents in it.
        """
        updated: dict[Kind, dict[ObjectKey, Resource | None]] = {}
        revision, given = self.revision, self.given
        for change in changes:
            kind, key = (
                (change.kind, (change.namespace, change.name))
                if isinstance(change, Delete)
                else (type(change), change.key)
            )
            updates = updated.setdefault(kind, {})
            current = updates[key] if key in updates else self.by_key(kind).get(key)
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
        objects = {
            **self.objects,
            **{
                kind: self.by_key(kind).with_changes(updates)
                for kind, updates in updated.items()
                if updates
            },
        }
        slices = _with_slices(
            self.slices_by_service,
            self.by_key(EndpointSlice),
            objects.get(EndpointSlice, _NONE),
        )
        return Cluster(objects, given, revision, slices)

    def with_given(self, documents: Mapping[GivenKey, GivenDocument | None]) -> Cluster:
        """Return the store with some given documents replaced, or removed with None."""
        if all(self.given.get(key) == given for key, given in documents.items()):
            return self
        return structs.replace(self, given=self.given.with_changes(documents))

    def source_of(self, obj: Resource) -> DocumentSource | None:
        """Return the file and line of an object's document; None if they are not known."""
        given = self.given.get((obj.kind, obj.namespace, obj.name))
        return given.source if given is not None else None


_NONE: Final[ObjectMap[Any]] = ObjectMap()
"""Objects of a kind of which there are none."""


def _with_slices(
    slices_by_service: VersionedMap[tuple[str, str], tuple[EndpointSlice, ...]],
    before: ObjectMap[EndpointSlice],
    after: ObjectMap[EndpointSlice],
) -> VersionedMap[tuple[str, str], tuple[EndpointSlice, ...]]:
    """Return the slices of each Service after changes of slices, in order of their names."""
    updated: dict[tuple[str, str], dict[str, EndpointSlice]] = {}
    for pair in after.changes_since(before).values():
        for piece in pair:
            if piece is not None and (service := _service_of(piece)) not in updated:
                known = slices_by_service.get(service, ())
                updated[service] = {old.name: old for old in known}
        old, new = pair
        if old is not None:
            updated[_service_of(old)].pop(old.name)
        if new is not None:
            updated[_service_of(new)][new.name] = new
    return slices_by_service.with_changes(
        {
            service: tuple(pieces[name] for name in sorted(pieces)) or None
            for service, pieces in updated.items()
        }
    )


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


def _by_node(pods: Iterable[Pod]) -> dict[str, list[Pod]]:
    return _group(pods, lambda pod: pod.spec.node_name)


class _NamespacePods:
    """Pods of one namespace."""

    def __init__(self, pods: Sequence[Pod]) -> None:
        self.pods = pods

    @cached_property
    def by_label(self) -> Mapping[tuple[str, str], Sequence[Pod]]:
        """Pods by (key of a label, its value); computed at the first use."""
        groups: dict[tuple[str, str], list[Pod]] = {}
        for pod in self.pods:
            for pair in pod.labels.items():
                groups.setdefault(pair, []).append(pod)
        return groups


def _by_namespace(pods: Iterable[Pod]) -> dict[str, _NamespacePods]:
    groups = _group(pods, lambda pod: pod.metadata.namespace)
    return {namespace: _NamespacePods(of_namespace) for namespace, of_namespace in groups.items()}


def _labels_by_name(namespaces: Iterable[Namespace]) -> dict[str, Labels]:
    return {namespace.name: namespace.labels for namespace in namespaces}


def _by_controller(objects: Iterable[R]) -> dict[str, list[R]]:
    """Return objects by the uid of their controller; empty for objects without one."""
    return _group(objects, _controller_uid)


def _controller_uid(obj: Resource) -> str:
    return next((owner.uid for owner in obj.metadata.owner_references if owner.controller), "")


def _group(objects: Iterable[R], key: Callable[[R], K]) -> dict[K, list[R]]:
    groups: dict[K, list[R]] = {}
    for obj in objects:
        groups.setdefault(key(obj), []).append(obj)
    return groups
