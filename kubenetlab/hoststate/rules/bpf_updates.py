"""Updates of BPF programs and their maps: the functions that rule backends of this kind share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.rules.bpf_objects import BpfObject, Entry
from kubenetlab.hoststate.rules.bpf_programs import ProgramSet
from kubenetlab.hoststate.rules.listing import Difference
from kubenetlab.hoststate.rules.rules_diff import changed_members
from kubenetlab.hoststate.rules.rulesets import DiffCache, NodeRules, OwnedName, members

if TYPE_CHECKING:
    from kubenetlab.hoststate.rules.bpf_listing import BpfListing

Ruled = BpfObject | NodeRules[BpfObject]


class MapUpdate(Struct, omit_defaults=True):
    """Transaction of this kind of backend, as JSON; keys and values of maps are hexadecimal."""

    links: list[str] = []
    """Links to which the programs are attached once they exist; empty: unload the programs."""
    keeps_links: bool = False
    """True if `links` and `link_entries` are those of the former update, and are left out."""
    link_entries: dict[str, tuple[str, str]] = {}
    """Link → map and key of the entry that the loader sets to the index of the link."""
    is_anew: bool = False
    """True if all map entries that are not in `set` are deleted."""
    set: list[tuple[str, str, str]] = []
    """Map, key and value of each entry to set."""
    delete: list[tuple[str, str]] = []
    """Map and key of each entry to delete."""


class BpfBackend:
    """The functions of `RuleBackend` for one set of programs."""

    def __init__(
        self,
        name: OwnedName,
        programs: ProgramSet,
        title: str,
        note: str,
        name_ids: Callable[[Iterable[BpfObject]], Mapping[bytes, str]],
        describers: Mapping[str, Callable[[bytes, bytes, Mapping[bytes, str]], str]] | None = None,
    ) -> None:
        """Initialize the backend.

        name: its only name; programs, maps and attachments are created and removed as one.
        title: first word of the programs' name in differences.
        note: what `commands` says instead of a command.
        name_ids: returns names of the ids in map entries of objects, for `differences`.
        describers: functions by map that return its entries as text; those of the maps of
            Services by default.
        """
        self._name = name
        self._programs = programs
        self._title = title
        self._note = note
        self._name_ids = name_ids
        self._describers = describers

    def update(
        self,
        old: Sequence[Ruled],
        new: Sequence[Ruled],
        former: Iterable[OwnedName] = (),
        cache: DiffCache | None = None,
    ) -> str:
        """Return the update from `old` to `new`; empty if nothing has to be done.

        Entries are set in the order of their objects' ranks, and old ones are deleted afterwards.
        """
        if not _has_links(old) or not _has_links(new):
            remaining = former if _has_links(new) or not _has_links(old) else (self._name,)
            return self.replacement(new, remaining)
        old_members, new_members = changed_members(*_different(old, new), cache)
        removed, added = (
            [obj for key, obj in these.items() if obj != others.get(key)]
            for these, others in ((old_members, new_members), (new_members, old_members))
        )
        before, after = _entries(removed), _entries(added)
        keeps_links = not _has_links((*removed, *added))
        if before == after and keeps_links:
            return ""
        links = {} if keeps_links else _link_entries(new)
        transaction = MapUpdate([] if keeps_links else _links(new), keeps_links, links)
        transaction.set = [
            (name, key.hex(), value.hex())
            for (name, key), value in after.items()
            if before.get((name, key)) != value
        ]
        transaction.delete = [
            (name, key.hex()) for name, key in reversed(before) if (name, key) not in after
        ]
        return _text(transaction)

    def replacement(self, objects: Sequence[Ruled], former: Iterable[OwnedName] = ()) -> str:
        """Return an update of all maps except those that packets fill, so that flows continue."""
        if not (links := _links(objects)):
            return _text(MapUpdate()) if self._name in tuple(former) else ""
        entries = [
            (name, key.hex(), value.hex())
            for (name, key), value in _entries(members(objects)).items()
        ]
        return _text(MapUpdate(links, False, _link_entries(objects), True, entries))

    def names(self, objects: Iterable[Ruled]) -> tuple[OwnedName, ...]:
        """Return the only name of this backend if there are any programs."""
        return (self._name,) if _has_links(objects) else ()

    def failed_object(self, message: str, objects: Iterable[Ruled]) -> tuple[Object, Object] | None:
        """Return the object whose map entry the message names, otherwise the programs."""
        programs = None
        for whole in objects:
            for part in whole.parts:
                entries = part.entries() if isinstance(part, BpfObject) else ()
                if any(f"{name} {key.hex()}" in message for (name, key), _ in entries):
                    return part, whole
                if isinstance(part, BpfObject) and part.is_base:
                    programs = part, whole
        return programs

    def differences(self, objects: Sequence[Ruled], listed: BpfListing) -> Iterator[Difference]:
        """Compare with a listing of the programs on each link and of the map entries."""
        from kubenetlab.hoststate.rules import bpf_listing

        desired = list(members(objects))
        entries: dict[str, dict[bytes, bytes]] = {}
        for (name, key), value in _entries(desired).items():
            entries.setdefault(name, {})[key] = value
        links = {link: self._programs.programs_on(link) for obj in desired for link in obj.links}
        ids, title = self._name_ids(desired), self._title
        return bpf_listing.differences(links, entries, listed, ids, self._describers, title)

    def commands(self, objects: Sequence[Ruled]) -> Iterator[str]:
        """Yield a note instead of a command: no shell command loads the programs.

        Maps have no names in a namespace, and links of pods get the programs when they appear.
        """
        if any(isinstance(obj, BpfObject) and obj.is_base for obj in objects):
            yield f"true 'left out: {self._note}'"


def _different(
    old: Sequence[Ruled], new: Sequence[Ruled]
) -> tuple[Sequence[Ruled], Sequence[Ruled]]:
    """Return two lists without the single objects that are in both, which are most of a node's."""
    common = {id(obj) for obj in old}.intersection(map(id, new))
    old, new = (
        [obj for obj in objects if isinstance(obj, NodeRules) or id(obj) not in common]
        for objects in (old, new)
    )
    return old, new


def _has_links(objects: Iterable[Ruled]) -> bool:
    return any(isinstance(obj, BpfObject) and obj.links for obj in objects)


def _links(objects: Iterable[Ruled]) -> list[str]:
    return [link for obj in objects if isinstance(obj, BpfObject) for link in obj.links]


def _link_entries(objects: Iterable[Ruled]) -> dict[str, tuple[str, str]]:
    return {
        link: (name, key.hex())
        for obj in objects
        if isinstance(obj, BpfObject)
        for link, (name, key) in obj.link_entries.items()
    }


def _text(transaction: MapUpdate) -> str:
    fields = {
        name: getattr(transaction, name)
        for name in transaction.__struct_fields__
        if getattr(transaction, name)
    }
    return json.dumps(fields)


def _entries(objects: Iterable[BpfObject]) -> dict[Entry, bytes]:
    """Return the map entries in the order in which they are set; they are deleted in reverse."""
    ordered = sorted(objects, key=lambda obj: obj.rank)
    return {entry: value for obj in ordered for entry, value in obj.entries()}
