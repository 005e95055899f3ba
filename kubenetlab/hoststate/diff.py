"""Operations that turn the observed state into the desired state."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from typing import Literal

from msgspec import Struct, structs

from kubenetlab.hoststate.links.link import Link
from kubenetlab.hoststate.object import Key, Object, Origin
from kubenetlab.hoststate.rules.listing import Difference
from kubenetlab.hoststate.sandbox import Sandbox
from kubenetlab.hoststate.state import Contents, HostState

Verb = Literal["add", "change", "remove"]

_SIGNS = {"add": "+", "change": "~", "remove": "-"}


class Operation(Struct, frozen=True):
    """One change of one object."""

    verb: Verb
    object: Object
    """Desired object, or the observed object to be removed."""
    before: Object | None = None
    """Observed object that a change starts from."""
    origin: Origin | None = None

    def details(self) -> Iterator[Operation]:
        """Yield the operation, or one for each part if the object groups several."""
        obj, before = self.object, self.before
        if obj.parts == (obj,):
            yield self
            return
        old_parts = {
            part.key: part
            for part in (
                obj.parts if self.verb == "remove" else before.parts if before is not None else ()
            )
        }
        new_parts = {part.key: part for part in obj.parts} if self.verb != "remove" else {}
        yield from (
            Operation("remove", part)
            for key, part in reversed(old_parts.items())
            if key not in new_parts
        )
        for key, part in new_parts.items():
            if key not in old_parts:
                yield Operation("add", part, origin=self.origin)
            elif old_parts[key] != part:
                yield Operation("change", part, old_parts[key], self.origin)

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
    """Operations in one namespace.

    Removals come first, in reverse order of creation; then additions and changes in order.
    """

    netns: str
    operations: tuple[Operation, ...]

    def details(self) -> Iterator[Operation]:
        """Yield the operations part by part, as they are shown to users."""
        for operation in self.operations:
            yield from operation.details()

    @property
    def is_new(self) -> bool:
        """True if the namespace itself is created."""
        return any(
            operation.verb == "add" and isinstance(operation.object, Sandbox)
            for operation in self.operations
        )

    @property
    def is_removed(self) -> bool:
        """True if the namespace itself is removed, with everything in it."""
        return any(
            operation.verb == "remove" and isinstance(operation.object, Sandbox)
            for operation in self.operations
        )


class Changes(Struct, frozen=True):
    """Operations of all namespaces, in the order of the desired state; removed namespaces last."""

    namespaces: tuple[NetnsChanges, ...]

    def __bool__(self) -> bool:
        return bool(self.namespaces)

    def split_around_rules(
        self, guarded: AbstractSet[str] = frozenset()
    ) -> tuple[Changes, Changes]:
        """Split into the changes to apply before the rules, and those to apply after them.

        Some links and their addresses are removed after the rules have changed: until then the old
        rules need these addresses to be local to the node. Links of guarded namespaces are created
        down, and set up with their routes after the rules are in force; so are those that are down.

        guarded: namespaces of pods that must not send or receive a packet without the rules.
        """
        early, late = [], []
        for entry in self.namespaces:
            before, after = _split(entry, is_guarded=entry.netns in guarded)
            early.append(entry if not after else NetnsChanges(entry.netns, before))
            if after:
                late.append(NetnsChanges(entry.netns, after))
        return (Changes(tuple(early)), Changes(tuple(late))) if late else (self, Changes(()))

    def __len__(self) -> int:
        return sum(len(changes.operations) for changes in self.namespaces)

    @property
    def changed_namespaces(self) -> set[str]:
        """Namespaces that have operations."""
        return {entry.netns for entry in self.namespaces}

    def removed_namespaces(self) -> set[str]:
        """Return the namespaces that are removed, for which callers can drop what they cached."""
        return {
            operation.object.netns
            for operation in self.operations()
            if operation.verb == "remove" and isinstance(operation.object, Sandbox)
        }

    def operations(self) -> Iterator[Operation]:
        return (operation for changes in self.namespaces for operation in changes.operations)

    def __str__(self) -> str:
        """Return the plan that `kubenetlab plan` prints."""
        return "\n".join(
            line
            for changes in self.namespaces
            for line in (changes.netns, *(f"  {operation}" for operation in changes.details()))
        )


def _split(
    entry: NetnsChanges, *, is_guarded: bool
) -> tuple[tuple[Operation, ...], tuple[Operation, ...]]:
    """Return the operations in a namespace before the rules, and those after them."""
    removed_late = _links_removed_late(entry)
    closed = _closed_links(entry) if is_guarded else {}
    if entry.is_removed or not (removed_late or closed):
        return entry.operations, ()
    before: list[Operation] = []
    after: list[Operation] = []
    for operation in entry.operations:
        obj = operation.object
        if operation.verb == "remove":
            (after if {obj.key, obj.depends_on} & removed_late else before).append(operation)
        elif (down := closed.get(obj.key)) is not None and operation.before == down:
            after.append(operation)
        elif down is not None:
            before.append(structs.replace(operation, object=down))
            after.append(Operation("change", obj, down, operation.origin))
        elif obj.needs_open_link and obj.depends_on in closed:
            after.append(operation)
        else:
            before.append(operation)
    return tuple(before), tuple(after)


def _links_removed_late(entry: NetnsChanges) -> set[Key | None]:
    return {
        operation.object.key
        for operation in entry.operations
        if operation.verb == "remove"
        and isinstance(operation.object, Link)
        and operation.object.is_removed_after_rules
    }


def _closed_links(entry: NetnsChanges) -> dict[Key | None, Object]:
    """Return the links of a namespace to create down, and those that are down, as they are then.

    The latter were created by an agent that died before the rules were in force.
    """
    return {
        operation.object.key: down
        for operation in entry.operations
        if isinstance(operation.object, Link)
        and (down := operation.object.closed()) is not None
        and (operation.verb == "add" or operation.before == down)
    }


def diff(observed: HostState, desired: HostState) -> Changes:
    """Return the operations that turn `observed` into `desired`.

    A namespace whose contents are the same mapping on both sides is skipped.
    """
    observed = _without_deleted(observed, desired)
    desired_changes = (
        _changes(netns, observed[netns], contents, desired)
        for netns, contents in desired.namespaces.items()
        if observed[netns] is not contents
    )
    removals = (
        _changes(netns, contents, {}, desired)
        for netns, contents in observed.namespaces.items()
        if netns not in desired.namespaces
    )
    return Changes(
        tuple(changes for changes in (*desired_changes, *removals) if changes.operations)
    )


def _without_deleted(observed: HostState, desired: HostState) -> HostState:
    """Return the observed state without peer ends of pairs to create, and without dependents.

    When a link has to be created again, no object that depends on it remains. When a pair has to be
    created, or created again, its peer end does not remain either. Both may have been observed
    nevertheless, because the kernel deletes the links of a removed namespace after some delay.
    """
    deleted: dict[str, set[Key]] = {}
    replaced: dict[str, set[Key]] = {}
    for netns, contents in desired.namespaces.items():
        if (known := observed[netns]) is contents:
            continue
        for key, obj in contents.items():
            before = known.get(key)
            if before is obj:
                continue
            is_kept = before is not None and before.can_become(obj)
            if is_kept:
                continue
            peer_end = obj.peer_end
            if before is not None:
                replaced.setdefault(netns, set()).add(key)
            elif peer_end is not None:
                deleted.setdefault(netns, set()).add(key)
            if peer_end is not None:
                deleted.setdefault(peer_end[0], set()).add(peer_end[1])
    return observed.with_namespaces(
        {
            netns: _without(observed[netns], deleted.get(netns, set()), replaced.get(netns, set()))
            for netns in {**deleted, **replaced}
            if netns in observed.namespaces
        }
    )


def _without(contents: Contents, deleted: set[Key], replaced: set[Key]) -> Contents:
    """Return `contents` without `deleted` and without the dependents of `deleted` or `replaced`.

    A dependent is, for example, an address on a link, or a group with a next hop.
    """
    removed = deleted
    while dependents := {
        key
        for key, obj in contents.items()
        if obj.depends_on in removed | replaced and key not in removed
    }:
        removed = removed | dependents
    return {key: obj for key, obj in contents.items() if key not in removed}


def _changes(netns: str, observed: Contents, desired: Contents, state: HostState) -> NetnsChanges:
    return NetnsChanges(netns, tuple(_operations(observed, desired, state)))


def _operations(observed: Contents, desired: Contents, state: HostState) -> Iterable[Operation]:
    for key in reversed(list(observed)):
        if key not in desired:
            yield Operation("remove", observed[key])
    for key, obj in desired.items():
        before = observed.get(key)
        if before is None:
            yield Operation("add", obj, origin=state.origin(obj))
        elif before is not obj and before != obj:
            yield Operation("change", obj, before, state.origin(obj))
