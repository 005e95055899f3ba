"""Rule backend bpf: programs on a node's links, and the entries of their maps.

The programs look up the address and port of a packet among the frontends (the map `fronts`). A
frontend refers to lists of endpoints. A list never changes: other endpoints are another list, and
the frontend is switched to it by one map update.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from kubenetlab.hoststate.netlink.tc import PRIORITY
from kubenetlab.hoststate.rules.bpf_entries import describe_entry, packed_id
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
    OverlayLink,
    PodLink,
    RemoteRange,
    endpoints,
)
from kubenetlab.hoststate.rules.bpf_programs import Place, ProgramSet
from kubenetlab.hoststate.rules.bpf_updates import BpfBackend
from kubenetlab.hoststate.rules.rulesets import OwnedName

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
    "OverlayLink",
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
"""The only name of this backend."""

IS_WATCHED: Final = True
"""The loader listens for new links, and for links that lose their programs."""


def programs_on(link: str) -> tuple[str, ...]:
    """Return the programs of a link; the loopback link needs none at ingress.

    Every packet that arrives at it has passed its egress before.
    """
    return (GOING,) if link == LOOPBACK else (COMING, GOING)


PROGRAMS: Final = ProgramSet(
    file="service.bpf.o",
    places={COMING: Place("ingress", PRIORITY), GOING: Place("egress", PRIORITY)},
    programs_on=programs_on,
    maps=("settings", "overlays", "doors", "homes", "fronts", "endpoints", "members", "sources"),
    shown_maps=("overlays", "doors", "homes", "fronts", "endpoints", "sources"),
    describe=describe_entry,
    flow_map="flows",
)
"""Programs that translate Services."""


def _name_ids(objects: Iterable[BpfObject]) -> Mapping[bytes, str]:
    """Return names of endpoint lists and Services by their ids."""
    ids: list[str] = []
    for obj in objects:
        match obj:
            case BpfEndpoints():
                ids.append(obj.name)
            case AllowedSource():
                ids.append(obj.service)
            case Frontend():
                ids += [obj.service, obj.cluster_endpoints[0], obj.local_endpoints[0]]
    return {packed_id(name): name for name in ids}


_BACKEND: Final = BpfBackend(
    NAME, PROGRAMS, "bpf", "BPF programs for Services, see kubenetlab/bpf/service.bpf.c", _name_ids
)
update = _BACKEND.update
replacement = _BACKEND.replacement
names = _BACKEND.names
failed_object = _BACKEND.failed_object
differences = _BACKEND.differences
commands = _BACKEND.commands
