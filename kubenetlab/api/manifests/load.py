"""Files → objects: all manifests of one command, with all their problems in one report.

No other module of the pure packages reads files.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from msgspec import Struct

from kubenetlab.api.config import ClusterConfig
from kubenetlab.api.json_types import JsonMapping, JsonValue
from kubenetlab.api.kinds import qualified_kind, writable
from kubenetlab.api.manifests.objects import (
    decode_object,
    metadata_without_nulls,
    shape_findings,
    title_of,
    unknown_kind_hints,
)
from kubenetlab.api.manifests.unenforced import effect_of
from kubenetlab.api.meta import Resource
from kubenetlab.api.store import DocumentSource
from kubenetlab.api.text.decode import Decoded, Finding, format_path, found, is_disjoint
from kubenetlab.api.text.documents import MAX_BYTES, Document, Path, read_documents
from kubenetlab.api.validate import validate
from kubenetlab.errors import ManifestError, Problem

SUFFIXES = (".yaml", ".yml", ".json")
"""Endings of the names of manifests in a folder."""

Check = Callable[[Resource], Iterator[Finding]]
"""Additional validation of an object, by a package that this one must not import."""


class ManifestObject(Struct, frozen=True):
    """Object of a manifest, and its place in the manifest."""

    document: Document
    """Document that contains the object."""
    path: Path
    """Path of the object in its document: empty, or `("items", 3)` in a List."""
    value: JsonMapping
    """Object as given."""
    object: Resource | None
    """Typed object; None if it cannot be decoded, and for kinds that the lab does not model."""

    @property
    def title(self) -> str:
        return title_of(self.value)

    @property
    def source(self) -> DocumentSource:
        """File and line of the object.

        The path is absolute, so that it stays valid in another working directory.
        """
        file = self.document.file
        path = os.path.abspath(file) if os.path.exists(file) else file
        name = os.fsencode(path).decode(errors="replace")  # a file name may be invalid UTF-8
        return DocumentSource(name, self.document.line_of(self.path))

    def problem(self, finding: Finding, *, is_warning: bool = False) -> Problem:
        """Return a finding about this object as a problem of the report."""
        line = self.document.line_of(self.path + finding.path)
        return Problem(
            finding.message,
            format_path(finding.path),
            self.title,
            self.document.file,
            line,
            finding.hints,
            is_warning or finding.is_warning,
        )


class LoadedManifests(Struct, frozen=True):
    """Objects in the manifests of one command."""

    entries: tuple[ManifestObject, ...]
    """Objects, in the order of the manifests."""
    warnings: tuple[Problem, ...] = ()
    """Problems that do not stop the command."""

    @property
    def config(self) -> ClusterConfig | None:
        """Cluster document; None if there is none."""
        return next(
            (entry.object for entry in self.entries if isinstance(entry.object, ClusterConfig)),
            None,
        )

    @property
    def without_effect(self) -> Mapping[str, tuple[str, ...]]:
        """Kind → names of objects that are stored and affect no connection, in order."""
        names: dict[str, tuple[str, ...]] = {}
        for entry in self.entries:
            if entry.object is None and effect_of(entry.value) is None:
                kind = qualified_kind(entry.value)
                names[kind] = (*names.get(kind, ()), str(entry.value["metadata"]["name"]))
        return names


def load(
    names: Sequence[str],
    *,
    strict: bool = False,
    check: Check | None = None,
    documents: Iterable[Document] = (),
    problems: Iterable[Problem] = (),
) -> LoadedManifests:
    """Return the objects of `documents`, then those of the files and folders in `names`.

    names: paths; `-` is standard input.
    strict: report unknown fields as errors instead of warnings.
    check: additional validation of each object.
    documents, problems: documents read before, and their problems.
    Raises ManifestError with all problems if one of them is an error.
    """
    problems = list(problems)
    documents = list(documents)
    for file in _files(names, problems):
        title = "<stdin>" if file == "-" else file
        try:
            data = _read(file)
        except OSError as error:
            problems.append(Problem(f"cannot be read: {error.strerror}", file=title))
            continue
        file_documents, file_problems = read_documents(title, data)
        if not file_documents and not file_problems:
            problems.append(
                Problem(
                    "contains no document",
                    file=title,
                    is_warning=len(names) != 1 or os.path.isdir(names[0]),
                )
            )
        documents += file_documents
        problems += file_problems
    return load_documents(documents, problems, strict=strict, check=check)


def load_documents(
    documents: Iterable[Document],
    problems: Iterable[Problem] = (),
    *,
    strict: bool = False,
    check: Check | None = None,
) -> LoadedManifests:
    """Return the objects of documents; see `load`."""
    problems = list(problems)
    entries: list[ManifestObject] = []
    valid: list[ManifestObject] = []
    for document in documents:
        for path, value in _objects(document, problems):
            entry, entry_problems = _entry(document, path, value, strict, check)
            problems += entry_problems
            entries.append(entry)
            if all(problem.is_warning for problem in entry_problems):
                valid.append(entry)
    problems += _duplicates(entries)
    if any(not problem.is_warning for problem in problems):
        raise ManifestError(problems, valid)
    return LoadedManifests(tuple(entries), tuple(problems))


def _files(names: Sequence[str], problems: list[Problem]) -> Iterator[str]:
    """Yield the files to read: a folder stands for the manifests in it, sorted by name.

    Append the problems of folders to `problems`.
    """
    for name in names:
        if name == "-" or not os.path.isdir(name):
            yield name
            continue
        try:
            files = sorted(
                os.path.join(name, file)
                for file in os.listdir(name)
                if file.endswith(SUFFIXES) and file != "expect.yaml"
            )
        except OSError as error:
            problems.append(Problem(f"the folder cannot be read: {error.strerror}", file=name))
            continue
        special = {file: kind for file in files if (kind := _special_kind(file))}
        problems += (
            Problem(
                f"is {kind}, not a file", file=file, hints=("to read from it, name it with -f",)
            )
            for file, kind in special.items()
        )
        if not files:
            has_folders = any(entry.is_dir() for entry in os.scandir(name))
            hints = ("folders inside are not read; name them with -f too",) if has_folders else ()
            problems.append(
                Problem(
                    f"the folder contains no {', '.join(SUFFIXES)} file", file=name, hints=hints
                )
            )
        yield from (file for file in files if file not in special)


def _special_kind(file: str) -> str | None:
    """Return the kind of a special file; None for a regular file and for a missing one."""
    try:
        mode = os.stat(file).st_mode
    except OSError:
        return None
    return next((kind for is_kind, kind in _SPECIAL_KINDS if is_kind(mode)), None)


_SPECIAL_KINDS: Final = (
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISDIR, "a folder"),
)


def _read(file: str) -> bytes:
    """Return the content of a file, at most one byte more than MAX_BYTES. Raises OSError.

    A FIFO is read only while a process has it open for writing, as with `-f <(command)`. Opening
    any other FIFO would block forever.
    """
    if file == "-":
        if sys.stdin is None:
            raise OSError(errno.EBADF, "standard input is closed")
        return sys.stdin.buffer.read(MAX_BYTES + 1)
    kind = _special_kind(file)
    if kind == "a socket":
        raise OSError(errno.ENXIO, "it is a socket, not a file")
    if kind != "a FIFO":
        with open(file, "rb") as stream:
            return stream.read(MAX_BYTES + 1)
    with open(
        file, "rb", buffering=0, opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)
    ) as pipe:
        first = pipe.read(1)  # None if there is a writer that has not written yet
        if first == b"":
            raise OSError(
                errno.ENXIO,
                "it is a FIFO that no process writes to; start the writer first, or use `-f -`",
            )
        os.set_blocking(pipe.fileno(), True)
        with os.fdopen(pipe.fileno(), "rb", closefd=False) as rest:
            return (first or b"") + rest.read(MAX_BYTES)


def _objects(document: Document, problems: list[Problem]) -> Iterator[tuple[Path, JsonMapping]]:
    """Yield (path, object) of each object in a document: a List holds several.

    Append the problems of values that are not objects to `problems`.
    """
    queue: list[tuple[Path, JsonValue]] = [((), document.value)]
    while queue:
        path, value = queue.pop(0)
        if finding := _object_finding(value):
            title = title_of(value) if isinstance(value, Mapping) and value.get("kind") else ""
            problems.append(_problem(document, path, title, finding))
        elif _is_list(value):
            queue[:0] = [
                ((*path, "items", index), item)
                for index, item in enumerate(value.get("items") or ())
            ]
        else:
            yield path, value


def _object_finding(value: JsonValue) -> Finding | None:
    """Return the finding about a value that is neither an object nor a List; None otherwise."""
    if not isinstance(value, Mapping):
        return Finding((), f"expected an object with apiVersion and kind, found {found(value)}")
    missing = [
        field
        for field in ("apiVersion", "kind")
        if not isinstance(value.get(field), str) or not value[field]
    ]
    if missing:
        cause = ", but missing" if missing[0] not in value else " as a string"
        return Finding((), f"{' and '.join(missing)} required{cause}")
    if value["kind"] == "List" and not isinstance(value.get("items") or [], list):
        return Finding(("items",), f"expected a list, found {found(value['items'])}")
    if _is_list(value):
        return None
    if hints := unknown_kind_hints(value["apiVersion"], value["kind"]):
        message = f'no matches for kind "{value["kind"]}" in version "{value["apiVersion"]}"'
        return Finding(("kind",), message, hints=hints)
    return None


def _is_list(value: JsonMapping) -> bool:
    kind: str = value["kind"]
    return kind == "List" or (kind.endswith("List") and isinstance(value.get("items"), list))


def _entry(
    document: Document, path: Path, value: JsonMapping, strict: bool, check: Check | None
) -> tuple[ManifestObject, list[Problem]]:
    """Decode and validate one object; return it with its problems."""
    type_ = writable(value)
    if type_ is None:
        entry = ManifestObject(document, path, metadata_without_nulls(value), None)
        return entry, [entry.problem(finding) for finding in shape_findings(entry.value)]
    decoded: Decoded[Resource] = decode_object(value, type_)
    entry = ManifestObject(document, path, value, decoded.value)
    problems = [
        entry.problem(finding, is_warning=finding.is_unknown_field and not strict)
        for finding in decoded.findings
    ]
    obj = decoded.value if decoded.value is not None else decoded.repaired
    if obj is not None:
        # A sample replaces a mistake in the repaired object: findings about it mean nothing.
        samples = [finding.path for finding in decoded.findings if not finding.is_unknown_field]
        # An operator decides about the fields beside it.
        samples += [path[:-1] for path in samples if path[-1:] == ("operator",)]
        problems += [
            entry.problem(finding, is_warning=finding.is_unknown_field and not strict)
            for finding in (*validate(obj), *(check(obj) if check else ()))
            if is_disjoint(finding.path, samples)
        ]
    return entry, problems


def _duplicates(entries: Iterable[ManifestObject]) -> Iterator[Problem]:
    """Yield a warning for each object that is defined twice, and an error for a second Cluster.

    The later definition is used, as with kubectl, but is hardly ever intended.
    """
    latest: dict[tuple[str, str], ManifestObject] = {}
    for entry in entries:
        is_config = writable(entry.value) is ClusterConfig
        key = (qualified_kind(entry.value), "" if is_config else entry.title)
        if earlier := latest.get(key):
            place = f"{earlier.document.file}:{earlier.document.line_of(earlier.path)}"
            message = (
                f"a second Cluster; the first is at {place}"
                if is_config
                else f"also defined at {place}; this definition replaces it"
            )
            yield entry.problem(Finding((), message), is_warning=not is_config)
        latest[key] = entry


def _problem(document: Document, path: Path, title: str, finding: Finding) -> Problem:
    """Return a finding about a value that is not an object; its path is that in the document."""
    place = path + finding.path
    return Problem(
        finding.message,
        format_path(place),
        title,
        document.file,
        document.line_of(place),
        finding.hints,
    )
