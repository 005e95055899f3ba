"""diff: what has to be done to turn the observed state into the desired one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

from msgspec import Struct

from kubenetlab.hoststate.link import Dummy, Veth
from kubenetlab.hoststate.object import Key, Object, Origin
from kubenetlab.hoststate.rules.listing import Difference
from kubenetlab.hoststate.sandbox import Sandbox
from kubenetlab.hoststate.state import Contents, HostState

Verb = Literal["add", "change", "remove"]

_SIGNS = {"add": "+", "change": "~", "remove": "-"}


class Operation(Struct, frozen=True):
    """One thing to do. `object` is what shall be (or, to be removed, what is); `before` is what a change starts from."""

    verb: Verb
    object: Object
    before: Object | None = None
    origin: Origin | None = None

    def details(self) -> Iterator[Operation]:
        """What is to be done to each part of an object that stands for several."""
        obj, before = self.object, self.before
        if obj.parts == (obj,):
            yield self
            return
        old = {
            part.key: part
            for part in (
                obj.parts if self.verb == "remove" else before.parts if before is not None else ()
            )
        }
        new = {part.key: part for part in obj.parts} if self.verb != "remove" else {}
        yield from (
            Operation("remove", part) for key, part in reversed(old.items()) if key not in new
        )
        for key, part in new.items():
            if key not in old:
                yield Operation("add", part, origin=self.origin)
            elif old[key] != part:
                yield Operation("change", part, old[key], self.origin)

    def difference(self) -> Difference:
        """Return the operation as a difference between desired and observed state."""
        text = str(self.object)
        desired = text if self.verb != "remove" else None
        observed = (
            text if self.verb == "remove" else str(self.before) if self.before is not None else None
        )
        return Difference(str(self), self.verb, text, desired, observed)

    def __str__(self) -> str:
        was = f"    (was: {self.before})" if self.before is not None else ""
        return f"{_SIGNS[self.verb]} {self.object}{was}"


class NetnsChanges(Struct, frozen=True):
    """What is to be done in one namespace: removals first, in reverse order of creation, then additions and changes in order."""

    netns: str
    operations: tuple[Operation, ...]

    def details(self) -> Iterator[Operation]:
        """The operations, part by part, as one tells them."""
        for operation in self.operations:
            yield from operation.details()

    @property
    def is_new(self) -> bool:
        """True when the namespace itself is to be made."""
        return any(
            operation.verb == "add" and isinstance(operation.object, Sandbox)
            for operation in self.operations
        )

    @property
    def is_removed(self) -> bool:
        """True when the namespace itself goes, with everything in it."""
        return any(
            operation.verb == "remove" and isinstance(operation.object, Sandbox)
            for operation in self.operations
        )


class Changes(Struct, frozen=True):
    """Everything to be done, namespace by namespace, in the order in which they are wanted; namespaces that go come last."""

    namespaces: tuple[NetnsChanges, ...]

    def __bool__(self) -> bool:
        return bool(self.namespaces)

    def around_rules(self) -> tuple[Changes, Changes]:
        """What can be done at once, and what is left until the rules are others: a dummy that goes, with the addresses on it.

        While the former rules are in force the node is to take in what is for these addresses.
        """
        parts = [(entry, _leant_on(entry)) for entry in self.namespaces]
        late = Changes(
            tuple(NetnsChanges(entry.netns, leant_on) for entry, leant_on in parts if leant_on)
        )
        if not late:
            return self, late
        early = (
            NetnsChanges(entry.netns, tuple(one for one in entry.operations if one not in leant_on))
            for entry, leant_on in parts
        )
        return Changes(tuple(early)), late

    def __len__(self) -> int:
        return sum(len(changes.operations) for changes in self.namespaces)

    @property
    def touched(self) -> set[str]:
        """The namespaces in which something is to be done."""
        return {entry.netns for entry in self.namespaces}

    def departed(self) -> set[str]:
        """The namespaces that go: what was computed for them may be forgotten."""
        return {
            operation.object.netns
            for operation in self.operations()
            if operation.verb == "remove" and isinstance(operation.object, Sandbox)
        }

    def operations(self) -> Iterator[Operation]:
        return (operation for changes in self.namespaces for operation in changes.operations)

    def __str__(self) -> str:
        """The plan as a user reads it."""
        return "\n".join(
            line
            for changes in self.namespaces
            for line in (changes.netns, *(f"  {operation}" for operation in changes.details()))
        )


def _leant_on(entry: NetnsChanges) -> tuple[Operation, ...]:
    gone = [operation for operation in entry.operations if operation.verb == "remove"]
    dummies = {operation.object.key for operation in gone if isinstance(operation.object, Dummy)}
    if not dummies or entry.is_removed:
        return ()
    return tuple(
        operation
        for operation in gone
        if {operation.object.key, operation.object.depends_on} & dummies
    )


def is_replaced(before: Object, obj: Object) -> bool:
    """True when no message turns the one into the other: it has to go, with what stands on it, and be made anew."""
    if isinstance(obj, Veth) and isinstance(before, Veth):
        return (obj.peer_netns, obj.peer) != (before.peer_netns, before.peer)
    return type(before) is not type(obj)


def diff(observed: HostState, desired: HostState) -> Changes:
    """What is to be done. A namespace whose contents are the same mapping on both sides is not looked at."""
    observed = _without_lost(observed, desired)
    wanted = (
        _changes(netns, observed[netns], contents, desired)
        for netns, contents in desired.namespaces.items()
        if observed[netns] is not contents
    )
    gone = (
        _changes(netns, contents, {}, desired)
        for netns, contents in observed.namespaces.items()
        if netns not in desired.namespaces
    )
    return Changes(tuple(changes for changes in (*wanted, *gone) if changes.operations))


def _without_lost(observed: HostState, desired: HostState) -> HostState:
    """The observed state without what goes with a link that has to be made, or made anew: its far end, and all that stands on either.

    The kernel takes a dead namespace's links away some time after it, so both may have been seen in their last moments.
    """
    lost: dict[str, set[Key]] = {}
    replaced: dict[str, set[Key]] = {}
    for netns, contents in desired.namespaces.items():
        if observed[netns] is contents:
            continue
        for key, obj in contents.items():
            before = observed[netns].get(key)
            is_found = before is not None and not is_replaced(before, obj)
            if not is_found and (peer_end := obj.peer_end) is not None:
                (lost if before is None else replaced).setdefault(netns, set()).add(key)
                lost.setdefault(peer_end[0], set()).add(peer_end[1])
    return observed.with_namespaces(
        {
            netns: _without(observed[netns], lost.get(netns, set()), replaced.get(netns, set()))
            for netns in {**lost, **replaced}
            if netns in observed.namespaces
        }
    )


def _without(contents: Contents, lost: set[Key], replaced: set[Key]) -> Contents:
    """What is left when some objects go, and whatever stands on those or on some others: an address on its link, a group on its next hop."""
    gone = lost
    while below := {
        key
        for key, obj in contents.items()
        if obj.depends_on in gone | replaced and key not in gone
    }:
        gone = gone | below
    return {key: obj for key, obj in contents.items() if key not in gone}


def _changes(netns: str, observed: Contents, wanted: Contents, desired: HostState) -> NetnsChanges:
    return NetnsChanges(netns, tuple(_operations(observed, wanted, desired)))


def _operations(observed: Contents, wanted: Contents, desired: HostState) -> Iterable[Operation]:
    for key in reversed(list(observed)):
        if key not in wanted:
            yield Operation("remove", observed[key])
    for key, obj in wanted.items():
        before = observed.get(key)
        if before is None:
            yield Operation("add", obj, origin=desired.origin(obj))
        elif before is not obj and before != obj:
            yield Operation("change", obj, before, desired.origin(obj))
