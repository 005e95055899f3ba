"""Diagnostics of a store as the API shows them: each with file and line of its object."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from kubenetlab.api.json_types import JsonMapping, JsonObject
from kubenetlab.api.kinds import qualified_kind, writable
from kubenetlab.api.store import Cluster
from kubenetlab.diagnostics import Diagnostic, diagnose
from kubenetlab.lab.machine import decisions


def diagnostics(cluster: Cluster) -> list[JsonObject]:
    """Return every diagnostic of a store as plain data."""
    return _rendered(cluster, diagnose(cluster, decisions(cluster).real_commands))


def refusing(
    before: Cluster, after: Cluster, documents: Sequence[JsonMapping], codes: Sequence[str]
) -> list[JsonObject]:
    """Return the diagnostics that prevent documents from being applied.

    These have one of `codes`, and either concern an object of the documents or are new in `after`.
    """
    if not codes:
        return []
    applied = {
        (kind, document["metadata"]["name"])
        for document in documents
        if "metadata" in document
        for kind in _names_of_kind(document)
    }
    known = {
        (entry.code, entry.title, entry.path)
        for entry in diagnose(before, decisions(before).real_commands)
    }
    refusing = [
        entry
        for entry in diagnose(after, decisions(after).real_commands)
        if entry.code in codes
        and (
            (entry.kind, entry.name) in applied
            or (entry.code, entry.title, entry.path) not in known
        )
    ]
    return _rendered(after, refusing)


def _names_of_kind(document: JsonMapping) -> tuple[str, ...]:
    """Return the names that diagnostics may have for the kind of a document."""
    kind = writable(document)
    return (qualified_kind(document), *(() if kind is None else (kind.kind,)))


def _rendered(cluster: Cluster, entries: Iterable[Diagnostic]) -> list[JsonObject]:
    """Return diagnostics as plain data, each with the source of its object: `{file, line}`."""
    return [{**msgspec.to_builtins(entry), "source": _source(cluster, entry)} for entry in entries]


def _source(cluster: Cluster, diagnostic: Diagnostic) -> object:
    """Return file and line of the document that created an object, or None if unknown."""
    given = cluster.given.get((diagnostic.kind, diagnostic.namespace, diagnostic.name))
    return msgspec.to_builtins(given.source) if given is not None else None
