"""Entries of BPF maps that an update leads to, and the check whether they fit into the maps.

The kernel refuses the first entry that exceeds the size of a map, when others are set already. So
the loader counts them before it changes anything.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from kubenetlab.hoststate.rules.bpf_updates import MapUpdate
from kubenetlab.kernel.rules.backends import RulesError
from kubenetlab.kernel.rules.libbpf import LoadedPrograms

MapEntries = dict[str, dict[bytes, bytes]]
"""Map → key → value."""


class EntryChanges(NamedTuple):
    """Entries that an update sets and deletes, with keys and values as bytes."""

    to_set: Sequence[tuple[str, bytes, bytes]]
    """Map, key and value of each entry, in their order."""
    to_delete: Sequence[tuple[str, bytes]]
    """Map and key of each entry, in their order."""
    new: MapEntries
    """Entries to set, by map and key."""


def entry_changes(update: MapUpdate) -> EntryChanges:
    """Return the changes of an update. Raises ValueError if it is not hexadecimal."""
    to_set = [(name, bytes.fromhex(key), bytes.fromhex(value)) for name, key, value in update.set]
    new: MapEntries = {}
    for name, key, value in to_set:
        new.setdefault(name, {})[key] = value
    return EntryChanges(to_set, [(name, bytes.fromhex(key)) for name, key in update.delete], new)


def apply_changes(entries: MapEntries | None, changes: EntryChanges) -> MapEntries | None:
    """Change entries as an update does, and return them; None if they are not known."""
    if entries is not None:
        for name, of_map in changes.new.items():
            entries.setdefault(name, {}).update(of_map)
        for name, key in changes.to_delete:
            entries.get(name, {}).pop(key, None)
    return entries


def delete_others(loaded: LoadedPrograms, name: str, kept: Collection[bytes]) -> None:
    """Delete all entries of a map except some."""
    for key in tuple(loaded.keys(name)):
        if key not in kept:
            loaded.delete(name, key)


def require_capacity(
    loaded: LoadedPrograms, update: MapUpdate, changes: EntryChanges, known: MapEntries | None
) -> None:
    """Raise RulesError if a map is too small for the entries of an update.

    Old entries are deleted after new ones are set, so a map has to hold both.

    known: present entries; None if they have to be counted.
    """
    problems = "\n".join(_problems(loaded, update, changes, known))
    if problems:
        raise RulesError(problems)


def _problems(
    loaded: LoadedPrograms, update: MapUpdate, changes: EntryChanges, known: MapEntries | None
) -> Iterator[str]:
    links: dict[str, set[str]] = {}
    for name, key in update.link_entries.values():
        links.setdefault(name, set()).add(key)
    for name, keys in links.items():
        yield from _problem(loaded, name, len(keys), len(keys))
    for name, of_map in changes.new.items():
        present: Collection[bytes]
        present = frozenset(loaded.keys(name)) if known is None else known.get(name, {})
        total = len(present) + sum(key not in present for key in of_map)
        if update.is_anew:
            remaining = len(of_map)
        else:
            deleted = {key for map_, key in changes.to_delete if map_ == name}
            remaining = total - sum(key in present for key in deleted)
        yield from _problem(loaded, name, total, remaining)


def _problem(loaded: LoadedPrograms, name: str, total: int, remaining: int) -> Iterator[str]:
    """Yield a message if a map is too small.

    total: number of entries during the update. remaining: their number after it.
    """
    maximum = loaded.maps[name].max_entries
    if total > maximum:
        needed = f"{remaining:,}" if remaining > maximum else f"{total:,} during this change"
        yield f"the map {name} holds at most {maximum:,} entries; needed: {needed}"
