"""Store file of a lab: the desired state on disk, written before the kernel is changed.

A restarted agent reads it. The file is replaced as a whole by rename. Changes of a large store are
appended to a journal beside it, one line each. An incomplete last line, and lines that belong to
another version of the file, are ignored. The previous file and its journal are kept as a snapshot,
for the case that the store cannot be read (recovery.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import GenericAlias
from typing import Final

import msgspec
from msgspec import Struct

from kubenetlab import __version__
from kubenetlab.api.kinds import STORED
from kubenetlab.api.meta import Resource
from kubenetlab.api.store import Cluster, Delete, GivenDocument, GivenKey, Kind, deletion
from kubenetlab.errors import StoreError
from kubenetlab.kernel.files import append_line, replace_file
from kubenetlab.lab.store.formats import FORMAT, migrate, read_format
from kubenetlab.lab.store.readable import FAILURES, unreadable_documents, unreadable_objects

MAX_LINE_OBJECTS: Final = 200
"""Maximum number of objects in a journal line; larger changes write the whole store."""
MAX_JOURNAL_BYTES: Final = 1024 * 1024
MIN_STORE_BYTES: Final = 256 * 1024
"""Size below which a store has no journal: writing it as a whole takes a millisecond."""

_KINDS: Final = {kind.kind: kind for kind in STORED}
_Given = tuple[str, str, str, GivenDocument | None]
"""Kind, namespace and name of a document, and the document; None for a deleted one."""


class _Saved(Struct, kw_only=True):
    """Contents of the store file: the header (formats.py), then the store."""

    format: int = FORMAT
    writer: str = __version__
    revision: int
    objects: dict[str, msgspec.Raw]
    given: list[_Given]


class _Line(Struct):
    """Line of the journal."""

    base: int
    """Revision of the store file that the line belongs to."""
    revision: int
    objects: dict[str, list[msgspec.Raw]]
    gone: list[tuple[str, str, str]]
    given: list[_Given]


class UnstorableError(StoreError):
    """Error for changes that the next agent could not read."""

    def __init__(self, message: str, readable: Cluster) -> None:
        """Create the error.

        readable: the store with the former state of all objects that cannot be read.
        """
        super().__init__(message)
        self.readable = readable


def save(cluster: Cluster, path: Path) -> None:
    """Write the whole store; the file that it replaces becomes the snapshot. Raises OSError."""
    objects = {kind.kind: msgspec.Raw(msgspec.json.encode(cluster.all(kind))) for kind in STORED}
    given: list[_Given] = [(*key, document) for key, document in cluster.given.items()]
    saved = _Saved(revision=cluster.revision, objects=objects, given=given)
    if replace_file(path, msgspec.json.encode(saved), former=snapshot_of(path)):
        with suppress(OSError):  # without its journal, the snapshot is only older
            journal_of(path).rename(journal_of(snapshot_of(path)))
    journal_of(path).unlink(missing_ok=True)


def require_readable(cluster: Cluster, before: Cluster) -> None:
    """Raise UnstorableError if changes from `before` to `cluster` could not be loaded again.

    The error names every object and field.
    """
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
    """Read a store from its file and its journal.

    is_lenient: True to ignore the journal from its first unreadable line on, instead of failing.
    Files with an older format are migrated (formats.py).
    Raises StoreError, which names the file and the reason, if the store cannot be read.
    """
    with _reading(path):
        data = path.read_bytes()
        format_ = read_format(data)
        saved = msgspec.json.decode(migrate(data, format_), type=_Saved)
        objects = {kind: {obj.key: obj for obj in _decoded(kind, saved)} for kind in STORED}
    given = {
        (kind, namespace, name): document
        for kind, namespace, name, document in saved.given
        if document is not None
    }
    revision = saved.revision
    try:
        with _reading(journal_of(path)):
            for line in _lines(journal_of(path), format_):
                if line.base == saved.revision:
                    _replay(line, objects, given)
                    revision = line.revision
    except StoreError:
        if not is_lenient:
            raise
    return Cluster.of(objects, given, revision)


def _decoded(kind: Kind, saved: _Saved) -> list[Resource]:
    """Return the objects of a kind, which an older store may not have."""
    if kind.kind not in saved.objects:
        return []
    objects: list[Resource] = msgspec.json.decode(
        saved.objects[kind.kind],
        type=GenericAlias(list, (kind,)),
    )
    return objects


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Raise StoreError, which names the file, for every error of reading and decoding."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    except StoreError as error:
        raise StoreError(f"{path}: {error}") from None
    except (*FAILURES, KeyError, AttributeError) as error:
        raise StoreError(f"{path}: {error}") from error


def snapshot_of(path: Path) -> Path:
    """Return the path of the snapshot: the file that was replaced last."""
    return path.with_suffix(f".previous{path.suffix}")


def journal_of(path: Path) -> Path:
    """Return the path of the journal of a store file."""
    return path.with_suffix(".journal")


class StoreFile:
    """Writer of a store file and its journal."""

    def __init__(self, path: Path, written: Cluster | None) -> None:
        """Create a writer. `written`: contents of the file without journal; None if unknown."""
        self._path = path
        self._base = written
        self.written = written or Cluster()
        """Store that the file and the journal contain."""

    def adopt(self, cluster: Cluster) -> Cluster:
        """Set the store that the file contains, and return it; the next `save` writes all of it."""
        self._base, self.written = None, cluster
        return cluster

    def save(self, cluster: Cluster) -> bool:
        """Write the changes since the last call; return False if there are none.

        Raises UnstorableError, and writes nothing, if a change could not be loaded again. Raises
        OSError.
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
        """Append changes to the journal; return False if the whole store must be written."""
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
    """Yield the changed objects and deletions; a replaced object is deleted first."""
    changes = after.changes_since(before.cursor(STORED))
    for kind in STORED:
        for old, new in changes[kind]:
            if old is not None and (new is None or new.uid != old.uid):
                yield deletion(old)
            if new is not None:
                yield new


def _given(before: Cluster, after: Cluster) -> Iterator[_Given]:
    yield from (
        (*key, document) for key, (_, document) in after.given.changes_since(before.given).items()
    )


def _lines(journal: Path, format_: int) -> Iterator[_Line]:
    """Yield the complete lines of a journal: the last one may be cut off if its writer died.

    format_: format of the store file.
    """
    try:
        text = journal.read_bytes()
    except FileNotFoundError:
        return
    for line in text.split(b"\n")[:-1]:
        yield msgspec.json.decode(migrate(line, format_), type=_Line)


def _replay(
    line: _Line,
    objects: dict[Kind, dict[tuple[str, str], Resource]],
    given: dict[GivenKey, GivenDocument],
) -> None:
    """Apply a line of the journal; on any error, raise it and apply nothing."""
    deleted = [(_KINDS[kind], (namespace, name)) for kind, namespace, name in line.gone]
    changed: list[Resource] = [
        msgspec.json.decode(raw, type=_KINDS[kind])
        for kind, of_kind in line.objects.items()
        for raw in of_kind
    ]
    for kind_type, key in deleted:
        objects[kind_type].pop(key, None)
    for obj in changed:
        objects[type(obj)][obj.key] = obj
    for kind, namespace, name, document in line.given:
        if document is None:
            given.pop((kind, namespace, name), None)
        else:
            given[kind, namespace, name] = document
