"""Permanent neighbors: static ARP and NDP entries.

Source: include/uapi/linux/neighbour.h, net/core/neighbour.c (6.12); iproute2 ip/ipneigh.c.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Final

from kubenetlab.hoststate.ip import OUR_PROTOCOL, address_text, packed
from kubenetlab.hoststate.links.messages import AF_BRIDGE
from kubenetlab.hoststate.netlink import wire
from kubenetlab.hoststate.netlink.wire import (
    LinkIndexes,
    as_mac,
    as_number,
    attribute,
    attributes,
    mac_bytes,
    message,
)
from kubenetlab.hoststate.object import Key, LinkedObject, ObjectMessages, ShellName

NDA_DST, NDA_LLADDR, NDA_PROTOCOL = 1, 2, 12
NUD_PERMANENT = 0x80

_NDMSG = struct.Struct("=BxxxiHBB")
"""family, interface index, state, flags, type"""
IFINDEX_OFFSET = 4
"""Offset of the interface index in ndmsg, in bytes."""


class Neighbor(LinkedObject, frozen=True):
    """A permanent neighbor, which needs neither ARP nor neighbor discovery.

    Permanent entries do not count against the kernel's limit of 1,024 dynamic neighbors.
    """

    rank = 70
    needs_open_link = True

    address: str
    mac: str

    @property
    def key(self) -> Key:
        return ("Neighbor", self.link, self.address)

    def __str__(self) -> str:
        return f"neighbor {self.address} mac {self.mac} dev {self.link} permanent"

    def create(self, links: LinkIndexes) -> bytes:
        attrs = attribute(NDA_LLADDR, mac_bytes(self.mac)) + attribute(
            NDA_PROTOCOL, bytes([OUR_PROTOCOL])
        )
        return message(
            wire.RTM_NEWNEIGH, wire.NLM_F_CREATE | wire.NLM_F_REPLACE, self._header(links) + attrs
        )

    change = create

    def delete(self, links: LinkIndexes) -> bytes:
        return message(wire.RTM_DELNEIGH, 0, self._header(links))

    def commands(self, shell_name: ShellName) -> Iterator[str]:
        entry = f"{self.address} lladdr {self.mac} dev {self.link}"
        netns = shell_name(self.netns)
        yield f"ip -n {netns} neighbor add {entry} nud permanent protocol static"

    def _header(self, links: LinkIndexes) -> bytes:
        family, address = packed(self.address)
        return _NDMSG.pack(
            family, links.index(self.netns, self.link), NUD_PERMANENT, 0, 0
        ) + attribute(NDA_DST, address)


def decode_neighbor(
    netns: str, body: memoryview, names: Mapping[int, str]
) -> tuple[Neighbor, bool] | None:
    """Decode one RTM_NEWNEIGH message; return None for entries that are not permanent.

    These are entries learned by ARP or neighbor discovery, and the kernel's own. None is returned
    for forwarding entries of bridges and VXLAN links and for unknown links, too. Return the
    neighbor and True if the lab created it.
    body: ndmsg (12 bytes) | attributes.
    names: link names by interface index.
    """
    family, index, state, _, _ = _NDMSG.unpack_from(body)
    if family == AF_BRIDGE or state != NUD_PERMANENT or index not in names:
        return None
    attrs = attributes(body[_NDMSG.size :])
    if NDA_LLADDR not in attrs or NDA_DST not in attrs:
        return None
    neighbor = Neighbor(
        netns, names[index], address_text(attrs[NDA_DST]), as_mac(attrs[NDA_LLADDR])
    )
    return neighbor, NDA_PROTOCOL in attrs and as_number(attrs[NDA_PROTOCOL]) == OUR_PROTOCOL


def deleted_neighbor_key(body: memoryview, names: Mapping[int, str]) -> Key | None:
    """Return the key of the neighbor that an RTM_DELNEIGH message is about.

    The message does not contain the state and MAC of the deleted entry. Return None for an unknown
    link.
    """
    family, index, _, _, _ = _NDMSG.unpack_from(body)
    attrs = attributes(body[_NDMSG.size :])
    return (
        ("Neighbor", names[index], address_text(attrs[NDA_DST]))
        if family != AF_BRIDGE and NDA_DST in attrs and index in names
        else None
    )


NEIGHBOR_MESSAGES: Final = ObjectMessages(
    wire.RTM_NEWNEIGH,
    wire.RTM_DELNEIGH,
    message(wire.RTM_GETNEIGH, wire.NLM_F_DUMP, _NDMSG.pack(0, 0, 0, 0, 0)),
    decode_neighbor,
    deleted_neighbor_key,
)
