"""rtnetlink messages for BPF programs at tc ingress and egress of a link.

Each link of a pod may have several programs, so they are encoded here and not by pyroute2.

Source: include/uapi/linux/{rtnetlink,pkt_sched,pkt_cls}.h (6.12); net/sched/cls_bpf.c.
"""

from __future__ import annotations

import struct
import sys
from typing import Final, Literal, NamedTuple

from kubenetlab.hoststate.netlink.wire import (
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    as_number,
    as_string,
    attributes,
    message,
    nested,
    number,
    string,
)

RTM_NEWQDISC, RTM_DELQDISC = 36, 37
RTM_NEWTFILTER, RTM_DELTFILTER, RTM_GETTFILTER = 44, 45, 46

Side = Literal["ingress", "egress"]

_TCMSG = struct.Struct("=BxxxiIII")
"""family, interface index, handle, parent, info"""
_TCA_KIND, _TCA_OPTIONS = 1, 2
_TCA_BPF_FD, _TCA_BPF_NAME, _TCA_BPF_FLAGS, _TCA_BPF_ID = 6, 7, 8, 11
_DIRECT_ACTION = 1
_CLSACT_HANDLE, _CLSACT = 0xFFFF0000, 0xFFFFFFF1
_PARENTS: Final = {"ingress": 0xFFFFFFF2, "egress": 0xFFFFFFF3}
PRIORITY: Final = 10
"""Default priority: programs of a lower number run first."""
_HANDLE = 1
_ALL_PROTOCOLS: Final = int.from_bytes(struct.pack("!H", 3), sys.byteorder)


class Filter(NamedTuple):
    """A BPF program attached at one side of a link."""

    name: str
    program_id: int
    priority: int


def add_qdisc(index: int) -> bytes:
    """Return the request that adds the clsact qdisc, to which programs are attached.

    The kernel rejects it with EEXIST if the link has the qdisc already.
    """
    header = _TCMSG.pack(0, index, _CLSACT_HANDLE, _CLSACT, 0)
    return message(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, header + string(_TCA_KIND, "clsact"))


def set_filter(index: int, side: Side, fd: int, name: str, priority: int = PRIORITY) -> bytes:
    """Return the request that attaches a program in direct-action mode.

    It replaces the program of the lab with this priority, if any. `fd` is the loaded program.
    """
    options = nested(
        _TCA_OPTIONS,
        number(_TCA_BPF_FD, fd),
        string(_TCA_BPF_NAME, name),
        number(_TCA_BPF_FLAGS, _DIRECT_ACTION),
    )
    header = _place(index, side, priority)
    return message(RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_REPLACE, header + _BPF + options)


def delete_filter(index: int, side: Side, priority: int = PRIORITY) -> bytes:
    """Return the request that detaches the program of the lab; ENOENT if there is none."""
    return message(RTM_DELTFILTER, 0, _place(index, side, priority) + _BPF)


def list_filters(index: int, side: Side) -> bytes:
    """Return the request for all filters at one side; EINVAL if the link has no clsact qdisc."""
    return message(RTM_GETTFILTER, NLM_F_DUMP, _TCMSG.pack(0, index, 0, _PARENTS[side], 0))


def filter_priority(body: memoryview) -> int:
    """Return the priority in a message about a filter."""
    priority: int = _TCMSG.unpack_from(body)[4] >> 16
    return priority


def decode_filter(body: memoryview) -> Filter | None:
    """Decode one message of a filter dump; return None for filters that are no BPF programs."""
    attrs = attributes(body[_TCMSG.size :])
    if _TCA_KIND not in attrs or as_string(attrs[_TCA_KIND]) != "bpf":
        return None
    options = attributes(attrs[_TCA_OPTIONS]) if _TCA_OPTIONS in attrs else {}
    if _TCA_BPF_ID not in options:
        return None
    name = as_string(options[_TCA_BPF_NAME]) if _TCA_BPF_NAME in options else ""
    return Filter(name, as_number(options[_TCA_BPF_ID]), filter_priority(body))


def _place(index: int, side: Side, priority: int) -> bytes:
    """Return the header of a message about the lab's filter at one side of a link."""
    info = priority << 16 | _ALL_PROTOCOLS
    return _TCMSG.pack(0, index, _HANDLE, _PARENTS[side], info)


_BPF: Final = string(_TCA_KIND, "bpf")
