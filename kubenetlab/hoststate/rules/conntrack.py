"""Rule backend conntrack: deletes tracked UDP flows of Services that lead to the wrong place.

UDP has no end of connection. A client that keeps its port would stay with an endpoint that no
longer exists, or with the machine that answered before the Service existed. This backend creates
nothing in the kernel. Source: pkg/proxy/conntrack/cleanup.go (1.33).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec
from msgspec import Struct

from kubenetlab.hoststate.object import Key, Object
from kubenetlab.hoststate.rules.listing import Difference
from kubenetlab.hoststate.rules.rules_diff import changed_members
from kubenetlab.hoststate.rules.rulesets import DiffCache, NodeRules, OwnedName, RuleObject

COMES_LAST = True
"""Flows are deleted after the rules have changed that decide about the next packet."""


class FlowDestination(RuleObject, frozen=True):
    """A UDP address and port of a Service, or a node port, with the endpoints of its flows."""

    backend = "conntrack"
    rank = 140

    address: str
    """Address of the Service; empty for a node port at any address."""
    port: int
    version: int
    """IP version."""
    endpoints: tuple[tuple[str, int], ...]
    """Address and port of each endpoint."""

    @property
    def key(self) -> Key:
        return ("FlowDestination", str(self.version), self.address, str(self.port))

    def __str__(self) -> str:
        address = self.address or "any address"
        return f"UDP flows to {address} port {self.port} lead to {len(self.endpoints)} endpoints"


Ruled = FlowDestination | NodeRules[FlowDestination]


class FlowUpdate(Struct, frozen=True):
    """Order to delete the flows of one destination that lead to other endpoints than these."""

    version: int
    address: str
    port: int
    endpoints: tuple[tuple[str, int], ...]


def decode(text: str) -> list[FlowUpdate]:
    """Decode a transaction of this backend."""
    return msgspec.json.decode(text, type=list[FlowUpdate])


def update(
    old: Sequence[Ruled],
    new: Sequence[Ruled],
    former: Iterable[OwnedName] = (),
    cache: DiffCache | None = None,
) -> str:
    """Return the destinations that are new, have lost an endpoint or are removed.

    A destination that gets its first endpoint is left alone: until then its packets were rejected
    or dropped, and such flows are not tracked.
    """
    before, after = changed_members(old, new, cache)
    touched = [
        FlowUpdate(obj.version, obj.address, obj.port, obj.endpoints)
        for key, obj in after.items()
        if _is_touched(before.get(key), obj)
    ]
    touched += [
        FlowUpdate(obj.version, obj.address, obj.port, ())
        for key, obj in before.items()
        if key not in after
    ]
    return msgspec.json.encode(touched).decode() if touched else ""


def replacement(objects: Sequence[Ruled], former: Iterable[OwnedName] = ()) -> str:
    """Return all destinations."""
    return update([], objects)


def names(objects: Iterable[Ruled]) -> tuple[OwnedName, ...]:
    """Return nothing: this backend owns no part of a namespace."""
    return ()


def failed_object(message: str, objects: Iterable[Ruled]) -> tuple[Object, Object] | None:
    """Return None: error messages do not name a destination."""
    return None


def commands(objects: Sequence[Ruled]) -> Iterator[str]:
    """Yield nothing: a new namespace has no flows."""
    return iter(())


def differences(objects: Sequence[Ruled], listed: object) -> Iterator[Difference]:
    """Yield nothing: packets create flows, and none of them has to exist."""
    return iter(())


def _is_touched(before: FlowDestination | None, after: FlowDestination) -> bool:
    return before is None or not set(before.endpoints) <= set(after.endpoints)
