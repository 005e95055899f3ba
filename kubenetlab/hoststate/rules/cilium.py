"""Rule backend cilium: the programs of the CNI mode cilium, and the entries of their maps.

The node agent writes identities of addresses, endpoints and settings. Connections, fragments and
events are written by the programs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from kubenetlab.hoststate.netlink.tc import PRIORITY
from kubenetlab.hoststate.rules.bpf_objects import BpfObject
from kubenetlab.hoststate.rules.bpf_programs import Place, ProgramSet
from kubenetlab.hoststate.rules.bpf_updates import BpfBackend
from kubenetlab.hoststate.rules.cilium_entries import (
    DESCRIBERS,
    describe_drops,
    describe_entry,
    rule_id,
    rule_names,
)
from kubenetlab.hoststate.rules.cilium_objects import (
    HOST,
    POD_LINK_PREFIX,
    TUNNEL,
    Cilium,
    CiliumEndpoint,
    CiliumPrograms,
    IpcacheEntry,
)
from kubenetlab.hoststate.rules.cilium_policies import CiliumRule, number_of
from kubenetlab.hoststate.rules.rulesets import OwnedName

__all__ = (
    "HOST",
    "POD_LINK_PREFIX",
    "TUNNEL",
    "Cilium",
    "CiliumEndpoint",
    "CiliumPrograms",
    "IpcacheEntry",
    "commands",
    "differences",
    "failed_object",
    "names",
    "replacement",
    "update",
)
"""Objects that callers of this backend import from here, and the functions of `RuleBackend`."""

NAME: Final[OwnedName] = ("tc", "cilium")
"""The only name of this backend."""

IS_WATCHED: Final = True
"""The loader listens for new links, and for links that lose their programs."""

_AFTER_TRANSLATION, _BEFORE_TRANSLATION = PRIORITY + 10, PRIORITY - 5
"""Priorities: packets that enter the node are translated first, those that leave it last."""


def programs_on(link: str) -> tuple[str, ...]:
    """Return the programs of a link."""
    match link:
        case _ if link.startswith(POD_LINK_PREFIX):
            return ("cil_from_container",)
        case "cilium_vxlan":
            return ("cil_from_overlay",)
        case "cilium_host":
            return ("cil_from_host",)
    return ("cil_from_netdev", "cil_to_netdev")


_MAPS: Final = (
    "cilium_config",
    "cilium_lxc",
    "cilium_ipcache",
    "cilium_cidr",
    "cilium_policed",
    "cilium_policy",
    "cilium_rules",
)
"""Maps in the order in which entries that are not desired are deleted: references come first."""


def _names_of(maps: Mapping[str, Mapping[bytes, bytes]]) -> Mapping[bytes, str]:
    """Return the texts of rules, which entries of other maps refer to."""
    return rule_names(maps.get("cilium_rules", {}))


PROGRAMS: Final = ProgramSet(
    file="cilium.bpf.o",
    places={
        "cil_from_container": Place("ingress", _AFTER_TRANSLATION),
        "cil_from_overlay": Place("ingress", _AFTER_TRANSLATION),
        "cil_from_host": Place("egress", _BEFORE_TRANSLATION),
        "cil_from_netdev": Place("ingress", _AFTER_TRANSLATION),
        "cil_to_netdev": Place("egress", _BEFORE_TRANSLATION),
    },
    programs_on=programs_on,
    maps=_MAPS,
    shown_maps=_MAPS,
    describe=describe_entry,
    names_of=_names_of,
    counters={"cilium_drops": describe_drops},
)
"""Programs that forward the packets of pods."""


def _name_ids(objects: Iterable[BpfObject]) -> Mapping[bytes, str]:
    """Return the names of pods by the packed numbers of their endpoints, and texts of rules."""
    ids: dict[bytes, str] = {}
    for obj in objects:
        if isinstance(obj, CiliumEndpoint):
            ids[obj.number.to_bytes(4, "big")] = obj.name
        elif isinstance(obj, CiliumRule):
            ids[rule_id(number_of(obj.text))] = obj.text
    return ids


_BACKEND: Final = BpfBackend(
    NAME,
    PROGRAMS,
    "cilium",
    "BPF programs of cilium, see kubenetlab/bpf/cilium.bpf.c",
    _name_ids,
    DESCRIBERS,
)
update = _BACKEND.update
replacement = _BACKEND.replacement
names = _BACKEND.names
failed_object = _BACKEND.failed_object
differences = _BACKEND.differences
commands = _BACKEND.commands
