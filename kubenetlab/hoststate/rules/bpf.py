"""Rule backend bpf: programs on a node's links, and the entries of their maps.

The programs look up the address and port of a packet among the frontends (the map `fronts`). A
frontend refers to lists of endpoints. A list never changes: other endpoints are another list, and
the frontend is switched to it by one map update.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.rules.bpf_entries import packed_id
from kubenetlab.hoststate.rules.bpf_objects import (
    COMING,
    GOING,
    LOOPBACK,
    NOWHERE,
    AllowedSource,
    Bpf,
    BpfEndpoints,
    BpfObject,
    BpfPrograms,
    ClusterIp,
    EndpointList,
    Entry,
    FamilyConfig,
    Frontend,
    PodLink,
    RemoteRange,
    endpoints,
)
from kubenetlab.hoststate.rules.listing import Difference
from kubenetlab.hoststate.rules.rules_diff import changed_members
from kubenetlab.hoststate.rules.rulesets import DiffCache, NodeRules, OwnedName, members

if TYPE_CHECKING:
    from kubenetlab.hoststate.rules.bpf_listing import BpfListing

__all__ = (
    "COMING",
    "GOING",
    "LOOPBACK",
    "NOWHERE",
    "AllowedSource",
    "Bpf",
    "BpfEndpoints",
    "BpfPrograms",
    "ClusterIp",
    "EndpointList",
    "Entry",
    "FamilyConfig",
    "Frontend",
    "PodLink",
    "RemoteRange",
    "commands",
    "differences",
    "endpoints",
    "failed_object",
    "names",
    "replacement",
    "update",
)
"""Objects that callers of this backend import from here, and the functions of `RuleBackend`."""

NAME: Final[OwnedName] = ("tc", "services")
"""The only name of this backend: programs, maps and attachments are created and removed as one."""

IS_WATCHED: Final = True
"""The loader listens for new links, and for links that lose their programs."""


Ruled = Bpf | NodeRules[Bpf]


class MapUpdate(Struct, omit_defaults=True):
    """Transaction of this backend, as JSON; keys and values of maps are hexadecimal."""

    links: list[str] = []
    """Links to which the programs are attached once they exist; empty: unload the programs."""
    is_anew: bool = False
    """True if all map entries that are not in `set` are deleted."""
    set: list[tuple[str, str, str]] = []
    """Map, key and value of each entry to set."""
    delete: list[tuple[str, str]] = []
    """Map and key of each entry to delete."""


def update(
    old: Sequence[Ruled],
    new: Sequence[Ruled],
    former: Iterable[OwnedName] = (),
    cache: DiffCache | None = None,
) -> str:
    """Return the update from `old` to `new`; empty if nothing has to be done.

    New endpoint lists are set before the frontends that refer to them; old ones are deleted after.
    """
    if not _links(old) or not _links(new):
        return replacement(new, former if _links(new) or not _links(old) else (NAME,))
    before, after = (_entries(side.values()) for side in changed_members(old, new, cache))
    transaction = MapUpdate(_links(new))
    transaction.set = [
        (name, key.hex(), value.hex())
        for (name, key), value in after.items()
        if before.get((name, key)) != value
    ]
    transaction.delete = [
        (name, key.hex()) for name, key in reversed(before) if (name, key) not in after
    ]
    return (
        _text(transaction)
        if transaction.set or transaction.delete or transaction.links != _links(old)
        else ""
    )


def replacement(objects: Sequence[Ruled], former: Iterable[OwnedName] = ()) -> str:
    """Return an update of all maps except those that packets fill, so that flows continue."""
    if not (links := _links(objects)):
        return _text(MapUpdate()) if NAME in tuple(former) else ""
    entries = _entries(members(objects))
    return _text(
        MapUpdate(
            links, True, [(name, key.hex(), value.hex()) for (name, key), value in entries.items()]
        )
    )


def names(objects: Iterable[Ruled]) -> tuple[OwnedName, ...]:
    """Return the only name of this backend if there are any programs."""
    return (NAME,) if _links(objects) else ()


def failed_object(message: str, objects: Iterable[Ruled]) -> tuple[Object, Object] | None:
    """Return the object whose map entry the message names, otherwise the programs."""
    programs = None
    for whole in objects:
        for part in whole.parts:
            entries = part.entries() if isinstance(part, BpfObject) else ()
            if any(f"{name} {key.hex()}" in message for (name, key), _ in entries):
                return part, whole
            if isinstance(part, BpfPrograms):
                programs = part, whole
    return programs


def differences(objects: Sequence[Ruled], listed: BpfListing) -> Iterator[Difference]:
    """Compare with a listing of the programs on each link and of the map entries."""
    from kubenetlab.hoststate.rules import bpf_listing

    desired = list(members(objects))
    entries: dict[str, dict[bytes, bytes]] = {}
    for (name, key), value in _entries(desired).items():
        entries.setdefault(name, {})[key] = value
    links = {link: programs_on(link) for obj in desired for link in obj.links}
    ids = [obj.name for obj in desired if isinstance(obj, BpfEndpoints)]
    ids += [obj.service for obj in desired if isinstance(obj, Frontend | AllowedSource)]
    ids += [
        name
        for obj in desired
        if isinstance(obj, Frontend)
        for name, _ in (obj.cluster_endpoints, obj.local_endpoints)
    ]
    return bpf_listing.differences(links, entries, listed, {packed_id(name): name for name in ids})


def commands(objects: Sequence[Ruled]) -> Iterator[str]:
    """Yield a note instead of a command: no shell command loads the programs.

    Maps have no names in a namespace, and links of pods get the programs when they appear.
    """
    if any(isinstance(obj, BpfPrograms) for obj in objects):
        yield "true 'left out: BPF programs for Services, see kubenetlab/bpf/service.bpf.c'"


def programs_on(link: str) -> tuple[str, ...]:
    """Return the programs of a link; the loopback link needs none at ingress.

    Every packet that arrives at it has passed its egress before.
    """
    return (GOING,) if link == LOOPBACK else (COMING, GOING)


def _links(objects: Iterable[Ruled]) -> list[str]:
    return [link for obj in objects if isinstance(obj, BpfPrograms | PodLink) for link in obj.links]


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
