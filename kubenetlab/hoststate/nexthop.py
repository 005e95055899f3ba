"""Next hops as objects of their own, and groups of them among which flows are shared out.

A group is resilient: a flow keeps its next hop as long as that is a member, whatever becomes of the others; each has the share of its
hash in a table of buckets. Source: include/uapi/linux/nexthop.h, Documentation/networking/nexthop-group-resilient.rst (6.12).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Final

from kubenetlab.hoststate import wire
from kubenetlab.hoststate.ip import AF_UNSPEC, OUR_PROTOCOL, address_text, packed
from kubenetlab.hoststate.object import Key, Object, Word
from kubenetlab.hoststate.wire import (
    Links,
    as_number,
    attribute,
    attributes,
    message,
    nested,
    number,
)

NHA_ID, NHA_GROUP, NHA_GROUP_TYPE, NHA_OIF, NHA_GATEWAY, NHA_RES_GROUP = 1, 2, 3, 5, 6, 12
NHA_RES_GROUP_BUCKETS = 1
NEXTHOP_GRP_TYPE_RES = 1
BUCKETS: Final = 128

_NHMSG = struct.Struct("=BBBxI")
"""family, scope, protocol, flags"""
_MEMBER = struct.Struct("=IBBH")
"""id, weight less one, its high byte, nothing"""


class Nexthop(Object, frozen=True):
    """A gateway behind a link, under a number."""

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
        return _deletion(self.number)

    def commands(self, word: Word) -> Iterator[str]:
        yield f"ip -n {word(self.netns)} nexthop add id {self.number} via {self.via} dev {self.link} proto static"


class NexthopGroup(Object, frozen=True):
    """Next hops that share the flows of whatever route leads to the group."""

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
        return _deletion(self.number)

    def commands(self, word: Word) -> Iterator[str]:
        yield f"ip -n {word(self.netns)} nexthop add {self._words} proto static"

    @property
    def _words(self) -> str:
        return f"id {self.number} group {'/'.join(map(str, self.members))} type resilient buckets {BUCKETS}"


_REPLACED = wire.NLM_F_CREATE | wire.NLM_F_REPLACE


def _deletion(number_: int) -> bytes:
    return message(
        wire.RTM_DELNEXTHOP, 0, _NHMSG.pack(AF_UNSPEC, 0, 0, 0) + number(NHA_ID, number_)
    )


def decode_nexthop(
    netns: str, body: memoryview, names: Mapping[int, str]
) -> tuple[Nexthop | NexthopGroup, bool] | None:
    """One RTM_NEWNEXTHOP message, and whether we made it; None for one that is neither a gateway nor a group."""
    _, _, protocol, _ = _NHMSG.unpack_from(body)
    found = attributes(body[_NHMSG.size :])
    own = as_number(found[NHA_ID])
    if NHA_GROUP in found:
        members = tuple(member for member, *_ in _MEMBER.iter_unpack(found[NHA_GROUP]))
        return NexthopGroup(netns, own, members), protocol == OUR_PROTOCOL
    if NHA_GATEWAY not in found or NHA_OIF not in found:
        return None
    return Nexthop(
        netns, own, names[as_number(found[NHA_OIF])], address_text(found[NHA_GATEWAY])
    ), protocol == OUR_PROTOCOL


def dump_nexthops() -> bytes:
    """The request for all next hops and groups of a namespace."""
    return message(wire.RTM_GETNEXTHOP, wire.NLM_F_DUMP, _NHMSG.pack(AF_UNSPEC, 0, 0, 0))
