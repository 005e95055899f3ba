"""Cluster: all objects of a lab as one immutable value; a change gives a new value that shares what did not change."""

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
"""(kind, namespace, name); the kind as `kinds.qualified_kind` has it"""


class DocumentSource(Struct, frozen=True):
    """File and line of a document."""

    file: str
    """Path of its file as an absolute one; a name in angle brackets, such as `<stdin>`, is no file."""
    line: int
    """Line at which the object begins."""


class GivenDocument(Struct, frozen=True):
    """A document as a user gave it."""

    document: Document
    source: DocumentSource | None = None


class Delete(NamedTuple):
    """The wish that an object be gone; deleting what is gone is success."""

    kind: Kind
    namespace: str
    name: str


Change = Resource | Delete


def deletion(obj: Resource) -> Delete:
    """The wish that this object be gone."""
    return Delete(type(obj), obj.namespace, obj.name)


class Cluster:
    """The store: objects by kind, namespace and name, with the indexes that controllers and layers ask for.

    `given` holds the documents as users wrote them, by (kind, namespace, name), those of kinds the lab does not model too.
    `revision` counts changes and becomes the resourceVersion of what was changed.
    """

    __slots__ = ("_indexes", "_lasting", "_objects", "_renewed", "given", "revision")

    def __init__(
        self,
        objects: Mapping[Kind, Mapping[tuple[str, str], Resource]] | None = None,
        given: Mapping[GivenKey, GivenDocument] | None = None,
        revision: int = 0,
    ) -> None:
        self._objects: dict[Kind, VersionedMap[tuple[str, str], Any]] = {
            kind: _versioned(found) for kind, found in (objects or {}).items()
        }
        self._indexes: dict[Any, Any] = {}
        self._lasting: dict[Any, tuple[Kind, ...]] = {}
        """Of those that follow from some kinds alone, these."""
        self._renewed: dict[Any, Any] = {}
        self.given = _versioned(given or {})
        self.revision = revision

    def all(self, kind: type[R], namespace: str | None = None) -> Sequence[R]:
        """Every object of a kind, in the order in which they came; of one namespace, or of all."""
        every: Sequence[R] = self.derived(
            ("all", kind), lambda: tuple(self.keyed(kind).values()), (kind,)
        )
        return every if namespace is None else [obj for obj in every if obj.namespace == namespace]

    def get(self, kind: type[R], namespace: str, name: str) -> R | None:
        return self.keyed(kind).get((namespace, name))

    @property
    def config(self) -> ClusterConfig:
        configs = self.all(ClusterConfig)
        return configs[0] if configs else ClusterConfig()

    def pods_on(self, node: str) -> Sequence[Pod]:
        """The pods bound to a node, in the order in which they came."""
        by_node = self.derived(
            "pods by node", lambda: _group(self.all(Pod), lambda pod: pod.spec.node_name), (Pod,)
        )
        found: Sequence[Pod] = by_node.get(node, ())
        return found

    def select(self, namespace: str, selector: LabelSelector | Labels) -> Sequence[Pod]:
        """The pods of a namespace that a selector matches; a plain mapping is Service's old form of a selector."""
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
        """The objects of a kind whose controller is `owner`."""
        by_owner = self.derived(
            ("owned", kind), lambda: _group(self.all(kind), _controller_uid), (kind,)
        )
        found: Sequence[R] = by_owner.get(owner.uid, ())
        return found

    def slices_of(self, service: Service) -> Sequence[EndpointSlice]:
        """The EndpointSlices that belong to a Service, whoever made them."""
        return self.slices_by_service.get(service.key, ())

    @property
    def slices_by_service(self) -> VersionedMap[tuple[str, str], tuple[EndpointSlice, ...]]:
        """Namespace and name of a Service → its slices, in the order in which they came."""
        found: VersionedMap[tuple[str, str], tuple[EndpointSlice, ...]] = self.renewed(
            "slices by service", self._slices_by_service
        )
        return found

    def _slices_by_service(self, former: Any) -> Any:
        news = self.since("slices by service", (EndpointSlice,))
        if news is None or former is None:
            groups = _group(self.all(EndpointSlice), _service_of)
            return VersionedMap((key, tuple(pieces)) for key, pieces in groups.items())
        touched: dict[tuple[str, str], dict[tuple[str, str], EndpointSlice]] = {}
        for pair in news[EndpointSlice]:
            for key in {_service_of(piece) for piece in pair if piece is not None}:
                touched.setdefault(key, {piece.key: piece for piece in former.get(key, ())})
        for before, after in news[EndpointSlice]:
            if before is not None and (after is None or _service_of(after) != _service_of(before)):
                touched[_service_of(before)].pop(before.key, None)
            if after is not None:
                touched[_service_of(after)][after.key] = after
        return former.with_changes(
            {key: tuple(pieces.values()) or None for key, pieces in touched.items()}
        )

    def keyed(self, kind: type[R]) -> VersionedMap[tuple[str, str], R]:
        """Namespace and name → object."""
        return self._objects.get(kind, _NONE)

    def since(
        self, name: Any, kinds: tuple[Kind, ...]
    ) -> Mapping[Kind, Sequence[tuple[Any, Any]]] | None:
        """What has changed from the store in which the same was asked the last time, as pairs of before and now, None for what was not
        or is not there. None the first time: then everything is new."""

        def build(former: Any) -> Any:
            now = {kind: self.keyed(kind) for kind in kinds}
            return now, None if former is None else {
                kind: self.news(kind, former[0][kind]) for kind in kinds
            }

        found: Mapping[Kind, Sequence[tuple[Any, Any]]] | None = self.renewed(
            ("since", name), build
        )[1]
        return found

    def news(self, kind: Kind, before: Mapping[Any, Any]) -> Sequence[tuple[Any, Any]]:
        """How the objects of a kind differ from those that another store had `keyed`: pairs of before and now, None for what was not or
        is not there."""
        return tuple(self.keyed(kind).news(before).values())

    def snapshot(self, kinds: Iterable[Kind]) -> tuple[Any, ...]:
        """Something that is the same object, kind by kind, as long as no object of that kind changes."""
        return tuple(self._objects.get(kind) for kind in kinds)

    def node(self, name: str) -> Node | None:
        return self.get(Node, "", name)

    def with_changes(self, changes: Iterable[Change]) -> Cluster:
        """The store after the changes; itself when none of them changes anything.

        What was given goes with its object; with a namespace all that was given in it, of whatever kind.
        """
        touched: dict[Kind, dict[tuple[str, str], Resource | None]] = {}
        revision, given = self.revision, self.given
        for change in changes:
            kind, key = (
                (change.kind, (change.namespace, change.name))
                if isinstance(change, Delete)
                else (type(change), change.key)
            )
            others = touched.setdefault(kind, {})
            current = others[key] if key in others else self.keyed(kind).get(key)
            if isinstance(change, Delete):
                if current is not None:
                    revision += 1
                    others[key] = None
                    given = _without(given, change)
            elif not _is_same(change, current):
                revision += 1
                others[key] = structs.replace(
                    change,
                    metadata=structs.replace(change.metadata, resource_version=str(revision)),
                )
        if revision == self.revision:
            return self
        return self._followed(
            {kind: self.keyed(kind).with_changes(others) for kind, others in touched.items()},
            given,
            revision,
        )

    def with_given(self, documents: Mapping[GivenKey, GivenDocument | None]) -> Cluster:
        """Return the store with some documents as given replaced; None takes one away."""
        if all(self.given.get(key) == given for key, given in documents.items()):
            return self
        return self._followed({}, self.given.with_changes(documents), self.revision)

    def source_of(self, obj: Resource) -> DocumentSource | None:
        """Return where an object's document stands; None where no document says so."""
        given = self.given.get((obj.kind, obj.namespace, obj.name))
        return given.source if given is not None else None

    def derived(self, name: Any, build: Callable[[], Any], kinds: tuple[Kind, ...] = ()) -> Any:
        """What follows from this store alone, computed when it is first asked for by its name.

        With `kinds` it follows from objects of those alone: a store in which none of them has changed takes it over.
        """
        if name not in self._indexes:
            self._indexes[name] = build()
            if kinds:
                self._lasting[name] = kinds
        return self._indexes[name]

    def renewed(self, name: Any, build: Callable[[Any], Any]) -> Any:
        """The same, built from what it was in the store before, or from None."""
        if name not in self._indexes:
            self._indexes[name] = self._renewed[name] = build(self._renewed.get(name))
        return self._indexes[name]

    def afresh(self) -> Cluster:
        """The same store, of which nothing has been asked: to ask it takes no news away from others."""
        return Cluster(self._objects, self.given, self.revision)

    def _followed(
        self,
        changed: Mapping[Kind, VersionedMap[tuple[str, str], Any]],
        given: VersionedMap[GivenKey, GivenDocument],
        revision: int,
    ) -> Cluster:
        """The store after this one, with other objects of some kinds."""
        changed = {kind: found for kind, found in changed.items() if found is not self.keyed(kind)}
        after = Cluster({**self._objects, **changed}, given, revision)
        after._lasting = {
            name: kinds for name, kinds in self._lasting.items() if changed.keys().isdisjoint(kinds)
        }
        after._indexes = {name: self._indexes[name] for name in after._lasting}
        after._renewed = dict(self._renewed)
        return after


_NONE: VersionedMap[Any, Any] = VersionedMap()


def _versioned(found: Mapping[Any, Any]) -> VersionedMap[Any, Any]:
    return found if isinstance(found, VersionedMap) else VersionedMap(found)


def _without(
    given: VersionedMap[GivenKey, GivenDocument], gone: Delete
) -> VersionedMap[GivenKey, GivenDocument]:
    if gone.kind is not Namespace:
        return given.with_changes({(gone.kind.kind, gone.namespace, gone.name): None})
    return given.with_changes(
        {
            key: None
            for key in given
            if key[1] == gone.name or key == (gone.kind.kind, gone.namespace, gone.name)
        }
    )


def _is_same(new: Resource, old: Resource | None) -> bool:
    """True when nothing differs but the resource version: that is the store's own, and who makes an object anew does not know it."""
    if old is None or new == old:
        return old is not None
    meta = structs.replace(new.metadata, resource_version=old.metadata.resource_version)
    return structs.replace(new, metadata=meta) == old


def _service_of(piece: EndpointSlice) -> tuple[str, str]:
    return piece.namespace, piece.service_name


def _controller_uid(obj: Resource) -> str:
    return next((owner.uid for owner in obj.metadata.owner_references if owner.controller), "")


def _by_label(pods: Iterable[Pod]) -> dict[tuple[str, str, str], list[Pod]]:
    """(namespace, label, its value) → pods."""
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
