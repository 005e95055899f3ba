"""Files → objects: every manifest of one command, every problem in one report.

This is the one place of the pure packages that reads files.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from kubenetlab.api.config import ClusterConfig
from kubenetlab.api.decode import Decoded, Finding, format_path, found, is_beside
from kubenetlab.api.documents import MAX_BYTES, Document, Path, read_documents
from kubenetlab.api.kinds import qualified_kind, writable
from kubenetlab.api.meta import Resource
from kubenetlab.api.objects import (
    decode_object,
    metadata_without_nulls,
    shape_findings,
    title_of,
    unknown_kind_hints,
)
from kubenetlab.api.store import DocumentSource
from kubenetlab.api.unenforced import effect_of
from kubenetlab.api.validate import validate
from kubenetlab.errors import ManifestError, Problem

SUFFIXES = (".yaml", ".yml", ".json")

Check = Callable[[Resource], Iterator[Finding]]
"""A further rule for objects, from a package that this one may not import."""


class ManifestObject(Struct, frozen=True):
    """One object of a manifest, and where it stands."""

    document: Document
    path: Path
    """Where the object lies in its document: empty, or `("items", 3)` in a List."""
    value: Mapping[str, Any]
    """The object as given."""
    object: Resource | None
    """None for a kind that the lab does not model."""

    @property
    def title(self) -> str:
        return title_of(self.value)

    @property
    def source(self) -> DocumentSource:
        """File and line of the object. The path is absolute, so that it stays valid in another working directory."""
        file = self.document.file
        path = os.path.abspath(file) if os.path.exists(file) else file
        return DocumentSource(
            os.fsencode(path).decode(errors="replace"), self.document.line_of(self.path)
        )  # a name may be no text

    def problem(self, finding: Finding, *, is_warning: bool = False) -> Problem:
        """A finding in this object as a line of a report."""
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
    """What the manifests of one command hold."""

    entries: tuple[ManifestObject, ...]
    warnings: tuple[Problem, ...] = ()

    @property
    def config(self) -> ClusterConfig | None:
        return next(
            (entry.object for entry in self.entries if isinstance(entry.object, ClusterConfig)),
            None,
        )

    @property
    def without_effect(self) -> Mapping[str, tuple[str, ...]]:
        """Kind → names of the objects that are kept and that would not change a connection in a cluster either, as they came."""
        found: dict[str, tuple[str, ...]] = {}
        for entry in self.entries:
            if entry.object is None and effect_of(entry.value) is None:
                kind = qualified_kind(entry.value)
                found[kind] = (*found.get(kind, ()), str(entry.value["metadata"]["name"]))
        return found


def load(
    names: Sequence[str],
    *,
    strict: bool = False,
    check: Check | None = None,
    documents: Iterable[Document] = (),
    problems: Iterable[Problem] = (),
) -> LoadedManifests:
    """All objects of the files, folders and `-` (standard input) named, behind those of `documents` that are read already.

    Raises ManifestError with every problem in all of them. Unknown fields are warnings, or errors with `strict`.
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
        found_here, faults = read_documents(title, data)
        if not found_here and not faults:
            problems.append(
                Problem(
                    "holds no document",
                    file=title,
                    is_warning=len(names) != 1 or os.path.isdir(names[0]),
                )
            )
        documents += found_here
        problems += faults
    return load_documents(documents, problems, strict=strict, check=check)


def load_documents(
    documents: Iterable[Document],
    problems: Iterable[Problem] = (),
    *,
    strict: bool = False,
    check: Check | None = None,
) -> LoadedManifests:
    """The objects of documents already read; `problems` are those met on the way here."""
    problems = list(problems)
    entries: list[ManifestObject] = []
    sound: list[ManifestObject] = []
    for document in documents:
        for path, value in _objects(document, problems):
            entry, found_here = _entry(document, path, value, strict, check)
            problems += found_here
            entries.append(entry)
            if all(problem.is_warning for problem in found_here):
                sound.append(entry)
    problems += _duplicates(entries)
    if any(not problem.is_warning for problem in problems):
        raise ManifestError(problems, sound)
    return LoadedManifests(tuple(entries), tuple(problems))


def _files(names: Sequence[str], problems: list[Problem]) -> Iterator[str]:
    """The files that the names stand for: a folder stands for the manifests in it, in order."""
    for name in names:
        if name == "-" or not os.path.isdir(name):
            yield name
            continue
        try:
            inside = sorted(
                os.path.join(name, file)
                for file in os.listdir(name)
                if file.endswith(SUFFIXES) and file != "expect.yaml"
            )
        except OSError as error:
            problems.append(Problem(f"the folder cannot be read: {error.strerror}", file=name))
            continue
        special = {file: kind for file in inside if (kind := _special(file))}
        problems += (
            Problem(f"is {kind}, not a file", file=file, hints=("name it with -f to read from it",))
            for file, kind in special.items()
        )
        if not inside:
            hint = (
                "folders in it are not read; name them too"
                if any(entry.is_dir() for entry in os.scandir(name))
                else ""
            )
            hints = (hint,) if hint else ()
            problems.append(
                Problem(f"the folder holds no {', '.join(SUFFIXES)} file", file=name, hints=hints)
            )
        yield from (file for file in inside if file not in special)


def _special(file: str) -> str | None:
    """Return what a path leads to where that is no regular file; None for one, and for what is not there."""
    try:
        mode = os.stat(file).st_mode
    except OSError:
        return None
    return next((kind for is_kind, kind in _SPECIAL if is_kind(mode)), None)


_SPECIAL: Final = (
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISDIR, "a folder"),
)


def _read(file: str) -> bytes:
    """Return the beginning of a file, as long as a manifest may be and a byte more. Raises OSError.

    A FIFO is read only while a process writes into it, as with `-f <(command)`: to open another one would wait for ever.
    """
    if file == "-":
        if sys.stdin is None:
            raise OSError(errno.EBADF, "standard input is closed")
        return sys.stdin.buffer.read(MAX_BYTES + 1)
    kind = _special(file)
    if kind == "a socket":
        raise OSError(errno.ENXIO, "it is a socket, not a file")
    if kind != "a FIFO":
        with open(file, "rb") as stream:
            return stream.read(MAX_BYTES + 1)
    with open(
        file, "rb", buffering=0, opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)
    ) as pipe:
        first = pipe.read(1)  # None: there is a writer that has not written yet
        if first == b"":
            raise OSError(
                errno.ENXIO,
                "it is a FIFO into which no process writes; start the writer first, or pipe into `-f -`",
            )
        os.set_blocking(pipe.fileno(), True)
        with os.fdopen(pipe.fileno(), "rb", closefd=False) as rest:
            return (first or b"") + rest.read(MAX_BYTES)


def _objects(
    document: Document, problems: list[Problem]
) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """(path, object) of each object in a document; a List holds several."""
    waiting: list[tuple[Path, Any]] = [((), document.value)]
    while waiting:
        path, value = waiting.pop(0)

        def fault(
            message: str,
            *below: str | int,
            hints: tuple[str, ...] = (),
            path: Path = path,
            value: Any = value,
        ) -> None:
            at = path + below
            title = title_of(value) if isinstance(value, Mapping) and value.get("kind") else ""
            problems.append(
                Problem(message, format_path(at), title, document.file, document.line_of(at), hints)
            )

        if not isinstance(value, Mapping):
            fault(f"expected an object with apiVersion and kind, found {found(value)}")
            continue
        missing = [
            field
            for field in ("apiVersion", "kind")
            if not isinstance(value.get(field), str) or not value[field]
        ]
        if missing:
            fault(
                f"{' and '.join(missing)} required"
                + (", but missing" if missing[0] not in value else " as a string")
            )
            continue
        if value["kind"] == "List" and not isinstance(value.get("items") or [], list):
            fault(f"expected a list, found {found(value['items'])}", "items")
            continue
        if value["kind"] == "List" or (
            value["kind"].endswith("List") and isinstance(value.get("items"), list)
        ):
            waiting[:0] = [
                ((*path, "items", index), item)
                for index, item in enumerate(value.get("items") or ())
            ]
            continue
        if hint := unknown_kind_hints(value["apiVersion"], value["kind"]):
            fault(
                f'no matches for kind "{value["kind"]}" in version "{value["apiVersion"]}"',
                "kind",
                hints=hint,
            )
            continue
        yield path, value


def _entry(
    document: Document, path: Path, value: Mapping[str, Any], strict: bool, check: Check | None
) -> tuple[ManifestObject, list[Problem]]:
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
    obj = decoded.value if decoded.value is not None else decoded.rest
    if obj is not None:
        faulty = [finding.path for finding in decoded.findings if not finding.is_unknown_field]
        further = (*validate(obj), *(check(obj) if check else ()))
        beside = (finding for finding in further if is_beside(finding.path, faulty))
        problems += [
            entry.problem(finding, is_warning=finding.is_unknown_field and not strict)
            for finding in beside
        ]
    return entry, problems


def _duplicates(entries: Iterable[ManifestObject]) -> Iterator[Problem]:
    """The same object twice: the later one wins, as with kubectl, but hardly ever on purpose; a second Cluster is a mistake."""
    seen: dict[tuple[str, str], ManifestObject] = {}
    for entry in entries:
        is_config = writable(entry.value) is ClusterConfig
        key = (qualified_kind(entry.value), "" if is_config else entry.title)
        if key in seen:
            where = f"{seen[key].document.file}:{seen[key].document.line_of(seen[key].path)}"
            message = (
                f"a second Cluster; the first is at {where}"
                if is_config
                else f"stands at {where} too: it is changed to this one"
            )
            yield entry.problem(Finding((), message), is_warning=not is_config)
        seen[key] = entry
