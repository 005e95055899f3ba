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
from kubenetlab.hoststate.rules.cilium_entries import DESCRIBERS, describe_entry
from kubenetlab.hoststate.rules.cilium_objects import (
    HOST,
    POD_LINK_PREFIX,
    TUNNEL,
    Cilium,
    CiliumEndpoint,
    CiliumPrograms,
    IpcacheEntry,
)
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
    maps=("cilium_config", "cilium_lxc", "cilium_ipcache", "cilium_policy"),
    shown_maps=("cilium_config", "cilium_lxc", "cilium_ipcache", "cilium_policy"),
    describe=describe_entry,
)
"""Programs that forward the packets of pods."""


def _name_ids(objects: Iterable[BpfObject]) -> Mapping[bytes, str]:
    """Return the names of pods by the packed numbers of their endpoints."""
    return {
        obj.number.to_bytes(4, "big"): obj.name
        for obj in objects
        if isinstance(obj, CiliumEndpoint)
    }


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
