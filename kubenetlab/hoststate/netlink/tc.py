"""rtnetlink messages for BPF programs at tc ingress and egress of a link.

Source: include/uapi/linux/{rtnetlink,pkt_sched,pkt_cls}.h (6.12); net/sched/cls_bpf.c.
"""

from __future__ import annotations

import struct
import sys
from typing import Final, Literal, NamedTuple

from kubenetlab.hoststate.netlink.message_classes import MessageClass, nest
from kubenetlab.hoststate.netlink.wire import NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE

RTM_NEWQDISC, RTM_DELQDISC = 36, 37
RTM_NEWTFILTER, RTM_DELTFILTER, RTM_GETTFILTER = 44, 45, 46

Side = Literal["ingress", "egress"]

_REQUEST = MessageClass("pyroute2.netlink.rtnl.tcmsg", "tcmsg")
_FILTER = MessageClass("kubenetlab.hoststate.netlink.bpf_filter_message", "BpfFilterMessage")
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
    fields = {"index": index, "handle": _CLSACT_HANDLE, "parent": _CLSACT}
    return _REQUEST.encode(
        RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, fields, [("TCA_KIND", "clsact")]
    )


def set_filter(index: int, side: Side, fd: int, name: str, priority: int = PRIORITY) -> bytes:
    """Return the request that attaches a program in direct-action mode.

    It replaces the program of the lab with this priority, if any. `fd` is the loaded program.
    """
    options = nest(("TCA_BPF_FD", fd), ("TCA_BPF_NAME", name), ("TCA_BPF_FLAGS", _DIRECT_ACTION))
    return _REQUEST.encode(
        RTM_NEWTFILTER,
        NLM_F_CREATE | NLM_F_REPLACE,
        _place(index, side, priority),
        [("TCA_KIND", "bpf"), ("TCA_OPTIONS", options)],
    )


def delete_filter(index: int, side: Side, priority: int = PRIORITY) -> bytes:
    """Return the request that detaches the program of the lab; ENOENT if there is none."""
    return _REQUEST.encode(RTM_DELTFILTER, 0, _place(index, side, priority), [("TCA_KIND", "bpf")])


def list_filters(index: int, side: Side) -> bytes:
    """Return the request for all filters at one side; EINVAL if the link has no clsact qdisc."""
    return _REQUEST.encode(RTM_GETTFILTER, NLM_F_DUMP, {"index": index, "parent": _PARENTS[side]})


def decode_filter(body: memoryview) -> Filter | None:
    """Decode one message of a filter dump; return None for filters that are no BPF programs."""
    message = _FILTER.decode(body)
    if message.get_attr("TCA_KIND") != "bpf":
        return None
    program_id = message.get_nested("TCA_OPTIONS", "TCA_BPF_ID")
    if program_id is None:
        return None
    name = message.get_nested("TCA_OPTIONS", "TCA_BPF_NAME")
    return Filter(name, program_id, message["info"] >> 16)


def _place(index: int, side: Side, priority: int) -> dict[str, int]:
    """Return the header of a message about the lab's filter at one side of a link."""
    return {
        "index": index,
        "handle": _HANDLE,
        "parent": _PARENTS[side],
        "info": priority << 16 | _ALL_PROTOCOLS,
    }
