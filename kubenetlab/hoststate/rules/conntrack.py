"""conntrack: where UDP flows to a Service's addresses may lead. What connection tracking remembers otherwise is forgotten.

UDP has no end, so a client that keeps its port would stay for ever with an endpoint that is gone, or with whoever answered before there
was the Service. Nothing is made here: the flows are the packets' own. Source: pkg/proxy/conntrack/cleanup.go (1.33).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from kubenetlab.hoststate.object import Key, Object
from kubenetlab.hoststate.rules.listing import Difference
from kubenetlab.hoststate.rules.rulesets import Name, NodeRules, RuleObject, different

COMES_LAST = True
"""Flows are forgotten when the rules are in force by which the next packet goes."""


class FlowDestination(RuleObject, frozen=True):
    """An address and port of a Service, or a node port at any address, and the endpoints to which its flows may lead."""

    dialect = "conntrack"
    rank = 140

    address: str
    """Empty for a node port."""
    port: int
    version: int
    endpoints: tuple[tuple[str, int], ...]

    @property
    def key(self) -> Key:
        return ("FlowDestination", str(self.version), self.address, str(self.port))

    def __str__(self) -> str:
        return f"UDP flows to {self.address or 'any address'} port {self.port} lead to {len(self.endpoints)} endpoints"


Ruled = FlowDestination | NodeRules


class Allowed(Struct, frozen=True):
    """One destination's flows: those that lead elsewhere are forgotten."""

    version: int
    address: str
    port: int
    endpoints: tuple[tuple[str, int], ...]


def decode(text: str) -> list[Allowed]:
    """The words of this dialect."""
    return msgspec.json.decode(text, type=list[Allowed])


def update(old: Sequence[Ruled], new: Sequence[Ruled], former: Iterable[Name] = ()) -> str:
    """The destinations that are new, have lost an endpoint, or are gone.

    One that had no endpoint gets its first: who asked it meanwhile was refused, or dropped, before anything was remembered of the flow.
    """
    before, after = different(old, new)
    touched = [
        Allowed(obj.version, obj.address, obj.port, obj.endpoints)
        for key, obj in after.items()
        if _is_touched(before.get(key), obj)
    ]
    touched += [
        Allowed(obj.version, obj.address, obj.port, ())
        for key, obj in before.items()
        if key not in after
    ]
    return msgspec.json.encode(touched).decode() if touched else ""


def replacement(objects: Sequence[Ruled], former: Iterable[Name] = ()) -> str:
    """All of them."""
    return update([], objects)


def names(objects: Iterable[Ruled]) -> tuple[Name, ...]:
    """Nothing of a namespace is its own."""
    return ()


def failed_object(said: str, objects: Iterable[Ruled]) -> tuple[Object, Object] | None:
    """No refusal is one destination's."""
    return None


def commands(objects: Sequence[Ruled]) -> Iterator[str]:
    """Where nothing is, nothing is to be forgotten."""
    return iter(())


def differences(objects: Sequence[Ruled], listed: Any) -> Iterator[Difference]:
    """Yield nothing: flows belong to the packets, so none of them has to exist."""
    return iter(())


def _is_touched(before: FlowDestination | None, after: FlowDestination) -> bool:
    return before is None or not set(before.endpoints) <= set(after.endpoints)
