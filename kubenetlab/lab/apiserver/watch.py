"""Watches of the API: the existing objects of a kind, and then every change of one of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator
from typing import TYPE_CHECKING, TypeGuard

import msgspec

from kubenetlab.api.meta import LabelSelector, Resource
from kubenetlab.api.object_map import ObjectChange
from kubenetlab.api.render import render
from kubenetlab.api.store import Cluster

if TYPE_CHECKING:
    from kubenetlab.lab.agent.agent import Agent


async def watch_events(
    agent: Agent, kind: type[Resource], namespace: str | None, selector: LabelSelector
) -> AsyncGenerator[bytes, None]:
    """Yield the existing objects as events, a bookmark, and then every change.

    namespace: the watched namespace, or None for all.
    """
    cursor = Cluster().cursor([kind])
    is_first = True
    with agent.watchers.subscribe() as changed:
        while True:
            changed.clear()
            cluster = agent.cluster
            events = sorted(
                _events(cluster.changes_since(cursor)[kind], namespace, selector),
                key=lambda event: event[0] != "DELETED",
            )
            cursor = cluster.cursor([kind])
            lines = [
                msgspec.json.encode(
                    {"type": type_, "object": render(cluster, obj, agent.clock.skew_s)}
                )
                for type_, obj in events
            ]
            if is_first:
                lines.append(_bookmark(kind, cluster.revision))
                is_first = False
            if lines:
                yield b"".join(line + b"\n" for line in lines)
            await changed.wait()


def _events(
    changes: Iterable[ObjectChange[Resource]], namespace: str | None, selector: LabelSelector
) -> Iterator[tuple[str, Resource]]:
    """Yield the watch events (type, object) of changes (before, after).

    An object that enters or leaves the watched set is an ADDED or DELETED event.
    """

    def is_watched(obj: Resource | None) -> TypeGuard[Resource]:
        return (
            obj is not None and namespace in (None, obj.namespace) and selector.matches(obj.labels)
        )

    for before, after in changes:
        if is_watched(after):
            yield "MODIFIED" if is_watched(before) else "ADDED", after
        elif is_watched(before):
            yield "DELETED", before


def _bookmark(kind: type[Resource], revision: int) -> bytes:
    """Return the event that ends the list of existing objects of a watch."""
    metadata = {
        "resourceVersion": str(revision),
        "annotations": {"k8s.io/initial-events-end": "true"},
    }
    return msgspec.json.encode(
        {"type": "BOOKMARK", "object": {"kind": kind.kind, "metadata": metadata}}
    )
