"""Places of objects and their fields in manifests, as file and line."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kubenetlab.errors import ManifestError

if TYPE_CHECKING:
    from kubenetlab.api.manifests.load import ManifestObject


class Places:
    """Places in the files of manifests, of which each is read once."""

    def __init__(self) -> None:
        self._entries: dict[str, Sequence[ManifestObject]] = {}

    def of(
        self, file: str, line: int, key: tuple[str, str, str], path: tuple[str | int, ...]
    ) -> tuple[str, int]:
        """Return file and line of a field of an object.

        file, line: place of the object's document when it was applied.
        key: kind, namespace and name of the object.
        The line is that of the object if the file is missing or not readable.
        """
        shown = os.path.relpath(file) if file.startswith(os.getcwd() + os.sep) else file
        if file not in self._entries:
            self._entries[file] = _entries_of(file)
        same = [entry for entry in self._entries[file] if _key_of(entry) == key]
        entry = next(
            (entry for entry in same if entry.source.line == line), same[0] if same else None
        )
        return shown, line if entry is None else entry.document.line_of(entry.path + path)


def _entries_of(file: str) -> Sequence[ManifestObject]:
    """Return the valid objects of a manifest; none if it is missing or not readable."""
    from kubenetlab.api.manifests.load import load_documents
    from kubenetlab.api.text.documents import read_documents

    if not os.path.isfile(file):
        return ()
    try:
        with open(file, "rb") as stream:
            documents, _ = read_documents(file, stream.read())
        return load_documents(documents).entries
    except ManifestError as error:
        return error.valid
    except OSError:
        return ()


def _key_of(entry: ManifestObject) -> tuple[str, str, str]:
    """Return kind, namespace and name of the object of a manifest."""
    from kubenetlab.api.kinds import qualified_kind

    if entry.object is not None:
        return entry.object.kind, entry.object.namespace, entry.object.name
    meta = entry.value["metadata"]
    return qualified_kind(entry.value), meta.get("namespace", ""), meta["name"]
