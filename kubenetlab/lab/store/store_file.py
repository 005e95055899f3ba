"""The store on disk: written before the kernel is touched, so that an agent that comes back knows what was meant.

The whole of it is replaced by rename. Of a large store what changes in between is appended to a journal beside it, line by line; a line
that was cut off, and lines that belong to another store, count for nothing. The file before the last one, and its journal, are kept as
a snapshot: the lab goes on from it when the store cannot be read (recovery.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from kubenetlab.api.kinds import STORED
from kubenetlab.api.meta import Resource
from kubenetlab.api.store import Cluster, Delete, GivenDocument, GivenKey, Kind, deletion
from kubenetlab.errors import StoreError
from kubenetlab.kernel.files import append_line, replace_file
from kubenetlab.lab.store.readable import FAILURES, unreadable_documents, unreadable_objects

MAX_LINE_OBJECTS: Final = 200
"""What changes more than that is written as a whole."""
MAX_JOURNAL_BYTES: Final = 1024 * 1024
MIN_STORE_BYTES: Final = 256 * 1024
"""A smaller store is written as a whole each time: that takes a millisecond."""

_KINDS: Final = {kind.kind: kind for kind in STORED}
_Given = tuple[str, str, str, GivenDocument | None]
"""Key of a document, and the document; None for one that is gone."""


class _Saved(Struct):
    revision: int
    objects: dict[str, msgspec.Raw]
    given: list[_Given]


class _Line(Struct):
    base: int
    """The revision of the store to which it belongs."""
    revision: int
    objects: dict[str, list[msgspec.Raw]]
    gone: list[tuple[str, str, str]]
    given: list[_Given]


class UnstorableError(StoreError):
    """Changes that the next agent could not read."""

    def __init__(self, message: str, readable: Cluster) -> None:
        """`readable` is the store with the former state of everything that cannot be read."""
        super().__init__(message)
        self.readable = readable


def save(cluster: Cluster, path: Path) -> None:
    """Write the whole store; the file that it replaces becomes the snapshot. Raises OSError."""
    objects = {kind.kind: msgspec.Raw(msgspec.json.encode(cluster.all(kind))) for kind in STORED}
    saved = _Saved(
        cluster.revision, objects, [(*key, document) for key, document in cluster.given.items()]
    )
    if replace_file(path, msgspec.json.encode(saved), former=snapshot_of(path)):
        with suppress(OSError):  # the snapshot is older without it
            journal_of(path).rename(journal_of(snapshot_of(path)))
    journal_of(path).unlink(missing_ok=True)


def require_readable(cluster: Cluster, before: Cluster) -> None:
    """Raise UnstorableError, naming every object and field, where what differs from another store could not be loaded."""
    _require_readable(
        cluster, before, list(_changes(before, cluster)), list(_given(before, cluster))
    )


def _require_readable(
    cluster: Cluster, before: Cluster, changes: list[Resource | Delete], given: list[_Given]
) -> None:
    faults: list[str] = []
    former: list[Resource | Delete] = []
    for obj, fault in unreadable_objects(
        change for change in changes if not isinstance(change, Delete)
    ):
        faults.append(f"{obj.title}: {fault}")
        former.append(before.get(type(obj), obj.namespace, obj.name) or deletion(obj))
    former_given: dict[GivenKey, GivenDocument | None] = {}
    for key, fault in unreadable_documents(
        [((kind, namespace, name), document) for kind, namespace, name, document in given]
    ):
        faults.append(f"document of {key[0]} {'/'.join(filter(None, key[1:]))}: {fault}")
        former_given[key] = before.given.get(key)
    if faults:
        readable = cluster.with_changes(former).with_given(former_given)
        raise UnstorableError(f"cannot be stored: {'; '.join(faults)}", readable)


def load(path: Path, *, is_lenient: bool = False) -> Cluster:
    """Return the store of a file and its journal.

    is_lenient: end at the first line of the journal that cannot be read, instead of refusing the store for it.
    Raises StoreError, naming the file and the reason, when there is no usable store.
    """
    with _reading(path):
        saved = msgspec.json.decode(path.read_bytes(), type=_Saved)
        objects = {kind: {obj.key: obj for obj in _decoded(kind, saved)} for kind in STORED}
    given = {
        (kind, namespace, name): document
        for kind, namespace, name, document in saved.given
        if document is not None
    }
    revision = saved.revision
    try:
        with _reading(journal_of(path)):
            for line in _lines(journal_of(path)):
                if line.base == saved.revision:
                    _follow(line, objects, given)
                    revision = line.revision
    except StoreError:
        if not is_lenient:
            raise
    return Cluster(objects, given, revision)


def _decoded(kind: Kind, saved: _Saved) -> list[Resource]:
    if kind.kind not in saved.objects:
        return []
    objects: list[Resource] = msgspec.json.decode(
        saved.objects[kind.kind],
        type=list[kind],  # type: ignore[valid-type]
    )
    return objects


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn every way in which a file can be unreadable into a StoreError that names it."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    except (*FAILURES, KeyError) as error:
        raise StoreError(f"{path}: {error}") from error


def snapshot_of(path: Path) -> Path:
    """Return the path of the store that was replaced last."""
    return path.with_suffix(f".previous{path.suffix}")


def journal_of(path: Path) -> Path:
    """Where the changes are that a store's file does not have."""
    return path.with_suffix(".journal")


class StoreFile:
    """Keeps the file of a store and its journal."""

    def __init__(self, path: Path, written: Cluster | None) -> None:
        """`written` is what the file has as a whole, where that is known."""
        self._path = path
        self._base = written
        self.written = written or Cluster()
        """What the file and the journal hold."""

    def adopt(self, cluster: Cluster) -> Cluster:
        """Take a store as the one that the file holds, and return it; the next change is written with the whole of it."""
        self._base, self.written = None, cluster
        return cluster

    def save(self, cluster: Cluster) -> bool:
        """Write what is not written yet; True when there was something.

        Raises UnstorableError, having written nothing, for what could not be loaded again, and OSError.
        """
        if cluster is self.written:
            return False
        before = self.written
        changes, given = list(_changes(before, cluster)), list(_given(before, cluster))
        _require_readable(cluster, before, changes, given)
        if not self._append(cluster, changes, given):
            save(cluster, self._path)
            self._base = cluster
        self.written = cluster
        return True

    def _append(
        self, cluster: Cluster, changes: list[Resource | Delete], given: list[_Given]
    ) -> bool:
        """False where the whole store is to be written."""
        if self._base is None or self._path.stat().st_size < MIN_STORE_BYTES:
            return False
        if len(changes) + len(given) > MAX_LINE_OBJECTS:
            return False
        objects: dict[str, list[msgspec.Raw]] = {}
        for obj in changes:
            if not isinstance(obj, Delete):
                objects.setdefault(obj.kind, []).append(msgspec.Raw(msgspec.json.encode(obj)))
        gone = [
            (obj.kind.kind, obj.namespace, obj.name) for obj in changes if isinstance(obj, Delete)
        ]
        line = msgspec.json.encode(
            _Line(self._base.revision, cluster.revision, objects, gone, given)
        )
        return append_line(journal_of(self._path), line, MAX_JOURNAL_BYTES)


def _changes(before: Cluster, after: Cluster) -> Iterator[Resource | Delete]:
    """Objects that are not the very same ones; before one that was made anew it is told that the former is gone."""
    for kind in STORED:
        for old, new in after.news(kind, before.keyed(kind)):
            if old is not None and (new is None or new.uid != old.uid):
                yield deletion(old)
            if new is not None:
                yield new


def _given(before: Cluster, after: Cluster) -> Iterator[_Given]:
    yield from ((*key, document) for key, (_, document) in after.given.news(before.given).items())


def _lines(journal: Path) -> Iterator[_Line]:
    """Yield the lines of a journal; one without an end was being written when its writer died."""
    try:
        text = journal.read_bytes()
    except FileNotFoundError:
        return
    for line in text.split(b"\n")[:-1]:
        yield msgspec.json.decode(line, type=_Line)


def _follow(
    line: _Line,
    objects: dict[Kind, dict[tuple[str, str], Resource]],
    given: dict[GivenKey, GivenDocument],
) -> None:
    """Apply a line of the journal as a whole, or raise."""
    gone = [(_KINDS[name], (namespace, own)) for name, namespace, own in line.gone]
    changed: list[Resource] = [
        msgspec.json.decode(raw, type=_KINDS[name])
        for name, several in line.objects.items()
        for raw in several
    ]
    for kind, key in gone:
        objects[kind].pop(key, None)
    for obj in changed:
        objects[type(obj)][obj.key] = obj
    for name, namespace, own, document in line.given:
        if document is None:
            given.pop((name, namespace, own), None)
        else:
            given[name, namespace, own] = document
