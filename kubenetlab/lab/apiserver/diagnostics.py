"""Diagnostics of a running lab, as its API shows them: with the file and line from which each object was given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from kubenetlab.api.kinds import qualified_kind
from kubenetlab.api.store import Cluster
from kubenetlab.diagnostics import Diagnostic, diagnose
from kubenetlab.lab.machine import decisions


def diagnostics(cluster: Cluster) -> list[dict[str, Any]]:
    """Return every diagnostic of a store as plain data."""
    return _rendered(cluster, diagnose(cluster, decisions(cluster).real_commands))


def refused(
    before: Cluster, after: Cluster, documents: Sequence[Mapping[str, Any]], codes: Sequence[str]
) -> list[dict[str, Any]]:
    """Return what keeps documents from being applied: diagnostics with one of `codes`, of the documents' objects or caused by them."""
    if not codes:
        return []
    keys = {
        (qualified_kind(document), document["metadata"]["name"])
        for document in documents
        if "metadata" in document
    }
    known = {
        (one.code, one.title, one.path) for one in diagnose(before, decisions(before).real_commands)
    }
    found = [
        one
        for one in diagnose(after, decisions(after).real_commands)
        if one.code in codes
        and ((one.kind, one.name) in keys or (one.code, one.title, one.path) not in known)
    ]
    return _rendered(after, found)


def _rendered(cluster: Cluster, found: Iterable[Diagnostic]) -> list[dict[str, Any]]:
    """Return diagnostics as plain data, each with the source of its object: `{file, line}`, or null."""
    return [{**msgspec.to_builtins(one), "source": _source(cluster, one)} for one in found]


def _source(cluster: Cluster, diagnostic: Diagnostic) -> Any:
    given = cluster.given.get((diagnostic.kind, diagnostic.namespace, diagnostic.name))
    return msgspec.to_builtins(given.source) if given is not None else None
