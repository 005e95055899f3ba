"""The store on disk: written before the kernel is touched, so that an agent that comes back knows what was meant.

The whole of it is replaced by rename. Of a large store what changes in between is appended to a journal beside it, line by line; a line
that was cut off, and lines that belong to another store, count for nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from kubenetlab.api.kinds import STORED
from kubenetlab.api.meta import Resource
from kubenetlab.api.store import Cluster, Delete, Given, GivenKey, Kind, deletion
from kubenetlab.kernel.files import append_line, replace_file

MAX_LINE_OBJECTS: Final = 200
"""What changes more than that is written as a whole."""
MAX_JOURNAL_BYTES: Final = 1024 * 1024
MIN_STORE_BYTES: Final = 256 * 1024
"""A smaller store is written as a whole each time: that takes a millisecond."""

_KINDS: Final = {kind.kind: kind for kind in STORED}
_Given = tuple[str, str, str, Given | None]
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


def save(cluster: Cluster, path: Path) -> None:
    """Writes the whole store."""
    objects = {kind.kind: msgspec.Raw(msgspec.json.encode(cluster.all(kind))) for kind in STORED}
    saved = _Saved(cluster.revision, objects, [(*key, document) for key, document in cluster.given.items()])
    replace_file(path, msgspec.json.encode(saved))
    journal_of(path).unlink(missing_ok=True)


def load(path: Path) -> Cluster:
    """Raises OSError or msgspec.ValidationError when there is no usable store."""
    saved = msgspec.json.decode(path.read_bytes(), type=_Saved)
    objects: dict[Kind, dict[tuple[str, str], Resource]] = {}
    for kind in STORED:
        decoded: list[Resource] = msgspec.json.decode(saved.objects[kind.kind], type=list[kind]) if kind.kind in saved.objects else []  # type: ignore[valid-type]
        objects[kind] = {obj.key: obj for obj in decoded}
    given = {(kind, namespace, name): document for kind, namespace, name, document in saved.given if document is not None}
    revision = saved.revision
    for line in _lines(journal_of(path)):
        if line.base == saved.revision:
            revision = line.revision
            _follow(line, objects, given)
    return Cluster(objects, given, revision)


def journal_of(path: Path) -> Path:
    """Where the changes are that a store's file does not have."""
    return path.with_suffix(".journal")


class Keeper:
    """Keeps the file of a store and its journal."""

    def __init__(self, path: Path, written: Cluster | None) -> None:
        """`written` is what the file has as a whole, where that is known."""
        self._path = path
        self._base = written
        self._written = written

    def load(self) -> Cluster:
        """Raises OSError or msgspec.ValidationError when there is no usable store."""
        found = load(self._path)
        self._base, self._written = None, found  # the next change is written with the whole of it
        return found

    def save(self, cluster: Cluster) -> bool:
        """Writes what is not written yet; true when there was something. Raises OSError."""
        if cluster is self._written:
            return False
        if not self._append(cluster):
            save(cluster, self._path)
            self._base = cluster
        self._written = cluster
        return True

    def _append(self, cluster: Cluster) -> bool:
        """False where the whole store is to be written."""
        if self._base is None or self._written is None or self._path.stat().st_size < MIN_STORE_BYTES:
            return False
        changes = list(_changes(self._written, cluster))
        given = list(_given(self._written, cluster))
        if len(changes) + len(given) > MAX_LINE_OBJECTS:
            return False
        objects: dict[str, list[msgspec.Raw]] = {}
        for obj in changes:
            if not isinstance(obj, Delete):
                objects.setdefault(obj.kind, []).append(msgspec.Raw(msgspec.json.encode(obj)))
        gone = [(obj.kind.kind, obj.namespace, obj.name) for obj in changes if isinstance(obj, Delete)]
        line = msgspec.json.encode(_Line(self._base.revision, cluster.revision, objects, gone, given))
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
    try:
        text = journal.read_bytes()
    except FileNotFoundError:
        return
    for line in text.splitlines():
        try:
            yield msgspec.json.decode(line, type=_Line)
        except msgspec.DecodeError:
            return  # it was being written when its writer ended


def _follow(line: _Line, objects: dict[Kind, dict[tuple[str, str], Resource]], given: dict[GivenKey, Given]) -> None:
    for name, namespace, own in line.gone:
        objects[_KINDS[name]].pop((namespace, own), None)
    for name, several in line.objects.items():
        for raw in several:
            obj: Resource = msgspec.json.decode(raw, type=_KINDS[name])
            objects[_KINDS[name]][obj.key] = obj
    for kind, namespace, own, document in line.given:
        if document is None:
            given.pop((kind, namespace, own), None)
        else:
            given[kind, namespace, own] = document
