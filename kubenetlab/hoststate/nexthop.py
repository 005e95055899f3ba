"""Next hop objects, and resilient groups that distribute flows among them.

A flow keeps its next hop as long as that is a member of the group, even when other members change:
its hash selects a bucket, and a bucket keeps its next hop. Source: include/uapi/linux/nexthop.h,
Documentation/networking/nexthop-group-resilient.rst (6.12).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Final

from kubenetlab.hoststate.ip import AF_UNSPEC, OUR_PROTOCOL, address_text, packed
from kubenetlab.hoststate.netlink import wire
from kubenetlab.hoststate.netlink.wire import (
    Links,
    as_number,
    attribute,
    attributes,
    message,
    nested,
    number,
)
from kubenetlab.hoststate.object import Key, NetlinkObject, ObjectMessages, ShellName

NHA_ID, NHA_GROUP, NHA_GROUP_TYPE, NHA_OIF, NHA_GATEWAY, NHA_RES_GROUP = 1, 2, 3, 5, 6, 12
NHA_RES_GROUP_BUCKETS = 1
NEXTHOP_GRP_TYPE_RES = 1
BUCKETS: Final = 128

_NHMSG = struct.Struct("=BBBxI")
"""family, scope, protocol, flags"""
_MEMBER = struct.Struct("=IBBH")
"""struct nexthop_grp: id, weight minus one, high byte of the weight, reserved"""


class Nexthop(NetlinkObject, frozen=True):
    """A gateway on a link, with an id (`number`)."""

    rank = 75

    number: int
    link: str
    via: str

    @property
    def key(self) -> Key:
        return ("Nexthop", str(self.number))

    @property
    def depends_on(self) -> Key | None:
        return ("Link", self.link)

    def __str__(self) -> str:
        return f"nexthop id {self.number} via {self.via} dev {self.link}"

    def create(self, links: Links) -> bytes:
        family, gateway = packed(self.via)
        body = (
            number(NHA_ID, self.number)
            + number(NHA_OIF, links.index(self.netns, self.link))
            + attribute(NHA_GATEWAY, gateway)
        )
        return message(
            wire.RTM_NEWNEXTHOP, _REPLACED, _NHMSG.pack(family, 0, OUR_PROTOCOL, 0) + body
        )

    change = create

    def delete(self, links: Links) -> bytes:
        return _delete(self.number)

    def commands(self, shell_name: ShellName) -> Iterator[str]:
        nexthop = f"id {self.number} via {self.via} dev {self.link}"
        yield f"ip -n {shell_name(self.netns)} nexthop add {nexthop} proto static"


class NexthopGroup(NetlinkObject, frozen=True):
    """A resilient group of next hops; routes refer to it by its id (`number`)."""

    rank = 76

    number: int
    members: tuple[int, ...]

    @property
    def key(self) -> Key:
        return ("Nexthop", str(self.number))

    @property
    def depends_on(self) -> Key | None:
        return ("Nexthop", str(self.members[0]))

    def __str__(self) -> str:
        return f"nexthop {self._words}"

    def create(self, links: Links) -> bytes:
        members = attribute(
            NHA_GROUP, b"".join(_MEMBER.pack(member, 0, 0, 0) for member in self.members)
        )
        kind = attribute(NHA_GROUP_TYPE, struct.pack("=H", NEXTHOP_GRP_TYPE_RES))
        buckets = nested(
            NHA_RES_GROUP, attribute(NHA_RES_GROUP_BUCKETS, struct.pack("=H", BUCKETS))
        )
        body = number(NHA_ID, self.number) + members + kind + buckets
        return message(
            wire.RTM_NEWNEXTHOP, _REPLACED, _NHMSG.pack(AF_UNSPEC, 0, OUR_PROTOCOL, 0) + body
        )

    change = create

    def delete(self, links: Links) -> bytes:
        return _delete(self.number)

    def commands(self, shell_name: ShellName) -> Iterator[str]:
        yield f"ip -n {shell_name(self.netns)} nexthop add {self._words} proto static"

    @property
    def _words(self) -> str:
        """Arguments of `ip nexthop add`."""
        members = "/".join(map(str, self.members))
        return f"id {self.number} group {members} type resilient buckets {BUCKETS}"


_REPLACED = wire.NLM_F_CREATE | wire.NLM_F_REPLACE


def _delete(nexthop_id: int) -> bytes:
    return message(
        wire.RTM_DELNEXTHOP, 0, _NHMSG.pack(AF_UNSPEC, 0, 0, 0) + number(NHA_ID, nexthop_id)
    )


def decode_nexthop(
    netns: str, body: memoryview, names: Mapping[int, str]
) -> tuple[Nexthop | NexthopGroup, bool] | None:
    """Decode one RTM_NEWNEXTHOP message; return None if it is neither a gateway nor a group.

    Return the next hop or group and True if the lab created it.
    body: nhmsg (8 bytes) | attributes.
    names: link names by interface index; a missing index raises KeyError.
    """
    _, _, protocol, _ = _NHMSG.unpack_from(body)
    attrs = attributes(body[_NHMSG.size :])
    nexthop_id = as_number(attrs[NHA_ID])
    if NHA_GROUP in attrs:
        members = tuple(member for member, *_ in _MEMBER.iter_unpack(attrs[NHA_GROUP]))
        return NexthopGroup(netns, nexthop_id, members), protocol == OUR_PROTOCOL
    if NHA_GATEWAY not in attrs or NHA_OIF not in attrs:
        return None
    return Nexthop(
        netns, nexthop_id, names[as_number(attrs[NHA_OIF])], address_text(attrs[NHA_GATEWAY])
    ), protocol == OUR_PROTOCOL


NEXTHOP_MESSAGES: Final = ObjectMessages(
    wire.RTM_NEWNEXTHOP,
    wire.RTM_DELNEXTHOP,
    message(wire.RTM_GETNEXTHOP, wire.NLM_F_DUMP, _NHMSG.pack(AF_UNSPEC, 0, 0, 0)),
    decode_nexthop,
)
