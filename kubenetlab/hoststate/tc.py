"""rtnetlink messages for BPF programs at tc ingress and egress of a link.

body := tcmsg (u8 family | 3 bytes | i32 index | u32 handle | u32 parent | u32 info) | attributes
Source: include/uapi/linux/{rtnetlink,pkt_sched,pkt_cls}.h (6.12); net/sched/cls_bpf.c.
"""

from __future__ import annotations

import struct
from typing import Final, Literal, NamedTuple

from kubenetlab.hoststate.wire import (
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    as_number,
    as_string,
    attribute,
    attributes,
    message,
    nested,
    number,
    string,
)

RTM_NEWQDISC, RTM_DELQDISC = 36, 37
RTM_NEWTFILTER, RTM_DELTFILTER, RTM_GETTFILTER = 44, 45, 46

Side = Literal["ingress", "egress"]

_TCMSG = struct.Struct("=Bxxxi3I")
_TCA_KIND, _TCA_OPTIONS = 1, 2
_TCA_BPF_FD, _TCA_BPF_NAME, _TCA_BPF_FLAGS, _TCA_BPF_ID = 6, 7, 8, 11
_DIRECT_ACTION = 1
_CLSACT_HANDLE, _CLSACT = 0xFFFF0000, 0xFFFFFFF1
_PARENTS: Final = {"ingress": 0xFFFFFFF2, "egress": 0xFFFFFFF3}
_PRIORITY, _HANDLE = 10, 1
_ALL_PROTOCOLS: Final = int.from_bytes(
    struct.pack("!H", 3), "little" if struct.pack("=H", 1)[0] else "big"
)


class Filter(NamedTuple):
    """A BPF program attached at one side of a link."""

    name: str
    program_id: int


def add_qdisc(index: int) -> bytes:
    """Return the request that adds the clsact qdisc, to which programs are attached.

    The kernel rejects it with EEXIST if the link has the qdisc already.
    """
    body = (
        _TCMSG.pack(0, index, _CLSACT_HANDLE, _CLSACT, 0)
        + string(_TCA_KIND, "clsact")
        + attribute(_TCA_OPTIONS, b"")
    )
    return message(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, body)


def set_filter(index: int, side: Side, fd: int, name: str) -> bytes:
    """Return the request that attaches a program in direct-action mode.

    It replaces the program of the lab that is attached, if any. `fd` is the loaded program.
    """
    options = (
        number(_TCA_BPF_FD, fd),
        string(_TCA_BPF_NAME, name),
        number(_TCA_BPF_FLAGS, _DIRECT_ACTION),
    )
    return message(
        RTM_NEWTFILTER,
        NLM_F_CREATE | NLM_F_REPLACE,
        _filter(index, side) + nested(_TCA_OPTIONS, *options),
    )


def delete_filter(index: int, side: Side) -> bytes:
    """Return the request that detaches the program of the lab; ENOENT if there is none."""
    return message(RTM_DELTFILTER, 0, _filter(index, side))


def list_filters(index: int, side: Side) -> bytes:
    """Return the request for all filters at one side; EINVAL if the link has no clsact qdisc."""
    return message(RTM_GETTFILTER, NLM_F_DUMP, _TCMSG.pack(0, index, 0, _PARENTS[side], 0))


def decode_filter(body: memoryview) -> Filter | None:
    """Decode one message of a filter dump; return None for filters that the lab did not attach."""
    *_, info = _TCMSG.unpack_from(body)
    attrs = attributes(body[_TCMSG.size :])
    if info >> 16 != _PRIORITY or _TCA_OPTIONS not in attrs or as_string(attrs[_TCA_KIND]) != "bpf":
        return None
    options = attributes(attrs[_TCA_OPTIONS])
    if _TCA_BPF_ID not in options:
        return None
    return Filter(as_string(options[_TCA_BPF_NAME]), as_number(options[_TCA_BPF_ID]))


def _filter(index: int, side: Side) -> bytes:
    return _TCMSG.pack(
        0, index, _HANDLE, _PARENTS[side], _PRIORITY << 16 | _ALL_PROTOCOLS
    ) + string(_TCA_KIND, "bpf")
