"""Neighbours: which MAC an address on a link has, written down instead of asked for.

Source: include/uapi/linux/neighbour.h, net/core/neighbour.c (6.12); iproute2 ip/ipneigh.c.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

from kubenetlab.hoststate import wire
from kubenetlab.hoststate.ip import OUR_PROTOCOL, address_text, packed
from kubenetlab.hoststate.object import Key, Object, Word
from kubenetlab.hoststate.wire import (
    Links,
    as_mac,
    as_number,
    attribute,
    attributes,
    mac_bytes,
    message,
)

NDA_DST, NDA_LLADDR, NDA_PROTOCOL = 1, 2, 12
NUD_PERMANENT = 0x80

_NDMSG = struct.Struct("=BxxxiHBB")
"""family, interface index, state, flags, type"""
INDEX_OFFSET = 4
"""Where in it the index is."""


class Neighbor(Object, frozen=True):
    """A permanent neighbour: needs no ARP and no neighbour discovery, and does not count against the kernel's 1,024 dynamic ones."""

    rank = 70

    link: str
    address: str
    mac: str

    @property
    def key(self) -> Key:
        return ("Neighbor", self.link, self.address)

    @property
    def depends_on(self) -> Key | None:
        return ("Link", self.link)

    def __str__(self) -> str:
        return f"neighbor {self.address} mac {self.mac} dev {self.link} permanent"

    def create(self, links: Links) -> bytes:
        what = attribute(NDA_LLADDR, mac_bytes(self.mac)) + attribute(
            NDA_PROTOCOL, bytes([OUR_PROTOCOL])
        )
        return message(
            wire.RTM_NEWNEIGH, wire.NLM_F_CREATE | wire.NLM_F_REPLACE, self._header(links) + what
        )

    change = create

    def delete(self, links: Links) -> bytes:
        return message(wire.RTM_DELNEIGH, 0, self._header(links))

    def commands(self, word: Word) -> Iterator[str]:
        yield f"ip -n {word(self.netns)} neighbor add {self.address} lladdr {self.mac} dev {self.link} nud permanent protocol static"

    def _header(self, links: Links) -> bytes:
        family, address = packed(self.address)
        return _NDMSG.pack(
            family, links.index(self.netns, self.link), NUD_PERMANENT, 0, 0
        ) + attribute(NDA_DST, address)


def decode_neighbor(
    netns: str, body: memoryview, names: Mapping[int, str]
) -> tuple[Neighbor, bool] | None:
    """One RTM_NEWNEIGH message, and whether we made it; None for what ARP learned and for the kernel's own entries.

    message: ndmsg (12 bytes) | attributes; names: index → link.
    """
    _, index, state, _, _ = _NDMSG.unpack_from(body)
    if state != NUD_PERMANENT or index not in names:
        return None
    found = attributes(body[_NDMSG.size :])
    if NDA_LLADDR not in found or NDA_DST not in found:
        return None
    seen = Neighbor(netns, names[index], address_text(found[NDA_DST]), as_mac(found[NDA_LLADDR]))
    return seen, NDA_PROTOCOL in found and as_number(found[NDA_PROTOCOL]) == OUR_PROTOCOL


def key_of_departed(body: memoryview, names: Mapping[int, str]) -> Key | None:
    """Whom one RTM_DELNEIGH message is about: neither its state nor its MAC are what they were."""
    _, index, _, _, _ = _NDMSG.unpack_from(body)
    found = attributes(body[_NDMSG.size :])
    return (
        ("Neighbor", names[index], address_text(found[NDA_DST]))
        if NDA_DST in found and index in names
        else None
    )


def dump_neighbors() -> bytes:
    """The request for all neighbours of a namespace, of both families."""
    return message(wire.RTM_GETNEIGH, wire.NLM_F_DUMP, _NDMSG.pack(0, 0, 0, 0, 0))
