"""Forwarding entries: where VXLAN links and bridges send frames for a MAC address.

Source: include/uapi/linux/neighbour.h, drivers/net/vxlan/vxlan_core.c, net/bridge/br_fdb.c (6.12);
iproute2 bridge/fdb.c.
"""

from __future__ import annotations

import struct
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Final

from kubenetlab.hoststate.ip import address_text, packed
from kubenetlab.hoststate.links.messages import AF_BRIDGE
from kubenetlab.hoststate.neighbor import NDA_DST, NDA_LLADDR, NUD_PERMANENT
from kubenetlab.hoststate.netlink import wire
from kubenetlab.hoststate.netlink.wire import (
    Links,
    as_mac,
    attribute,
    attributes,
    mac_bytes,
    message,
)
from kubenetlab.hoststate.object import Key, LinkedObject, ObjectMessages, ShellName

ANY_MAC: Final = "00:00:00:00:00:00"
"""Address of the entries for broadcasts and unknown destinations, of which there may be several."""
_NTF_SELF, _NTF_MASTER = 2, 4
_NDA_MASTER = 9
_NUD_NOARP = 0x40
_NUD_SET_BY_USER = NUD_PERMANENT | _NUD_NOARP
"""States of entries that were not learned; `bridge fdb add` also sets NUD_NOARP."""
_NLM_F_APPEND = 0x800
_NDMSG = struct.Struct("=BxxxiHBB")
"""family, interface index, state, flags, type"""


class _Entry(LinkedObject, frozen=True):
    """Base of the forwarding entries of both kinds of links."""

    rank = 75

    mac: str

    @abstractmethod
    def _body(self, links: Links) -> bytes:
        """Return the body of all messages about the entry."""

    def create(self, links: Links) -> bytes:
        several = _NLM_F_APPEND if self.mac == ANY_MAC else wire.NLM_F_REPLACE
        return message(wire.RTM_NEWNEIGH, wire.NLM_F_CREATE | several, self._body(links))

    change = create

    def delete(self, links: Links) -> bytes:
        return message(wire.RTM_DELNEIGH, 0, self._body(links))


class FdbEntry(_Entry, frozen=True):
    """A permanent forwarding entry of a VXLAN link."""

    node: str
    """Address of the node."""

    @property
    def key(self) -> Key:
        return ("FdbEntry", self.link, self.mac, self.node)

    def __str__(self) -> str:
        return f"fdb {self.mac} dev {self.link} dst {self.node} self permanent"

    def commands(self, shell_name: ShellName) -> Iterator[str]:
        entry = f"{self.mac} dev {self.link} dst {self.node} self permanent"
        yield f"bridge -n {shell_name(self.netns)} fdb append {entry}"

    def _body(self, links: Links) -> bytes:
        index = links.index(self.netns, self.link)
        header = _NDMSG.pack(AF_BRIDGE, index, NUD_PERMANENT, _NTF_SELF, 0)
        mac = attribute(NDA_LLADDR, mac_bytes(self.mac))
        return header + mac + attribute(NDA_DST, packed(self.node)[1])


class BridgeFdbEntry(_Entry, frozen=True):
    """A static forwarding entry of a bridge: the port behind which a MAC address is.

    A bridge floods frames for a MAC address that it has not learned yet to all its ports.
    """

    @property
    def key(self) -> Key:
        return ("FdbEntry", self.link, self.mac)

    def __str__(self) -> str:
        return f"fdb {self.mac} dev {self.link} master static"

    def commands(self, shell_name: ShellName) -> Iterator[str]:
        entry = f"{self.mac} dev {self.link} master static"
        yield f"bridge -n {shell_name(self.netns)} fdb replace {entry}"

    def _body(self, links: Links) -> bytes:
        index = links.index(self.netns, self.link)
        header = _NDMSG.pack(AF_BRIDGE, index, _NUD_NOARP, _NTF_MASTER, 0)
        return header + attribute(NDA_LLADDR, mac_bytes(self.mac))


def decode_fdb_entry(
    netns: str, body: memoryview, names: Mapping[int, str]
) -> tuple[FdbEntry | BridgeFdbEntry, bool] | None:
    """Decode one RTM_NEWNEIGH message; return None for neighbors and for other entries.

    Those are entries that were learned, addresses of a bridge itself, and entries of VXLAN links
    without a node.
    The second value is False: the kernel does not record who made an entry.
    body: ndmsg (12 bytes) | attributes.
    """
    family, index, state, _, _ = _NDMSG.unpack_from(body)
    if family != AF_BRIDGE or not state & _NUD_SET_BY_USER or index not in names:
        return None
    attrs = attributes(body[_NDMSG.size :])
    if NDA_LLADDR not in attrs:
        return None
    mac = as_mac(attrs[NDA_LLADDR])
    if NDA_DST in attrs:
        return FdbEntry(netns, names[index], mac, address_text(attrs[NDA_DST])), False
    if _NDA_MASTER in attrs and not state & NUD_PERMANENT:
        return BridgeFdbEntry(netns, names[index], mac), False
    return None


FDB_MESSAGES: Final = ObjectMessages(
    wire.RTM_NEWNEIGH,
    wire.RTM_DELNEIGH,
    message(wire.RTM_GETNEIGH, wire.NLM_F_DUMP, _NDMSG.pack(AF_BRIDGE, 0, 0, 0, 0)),
    decode_fdb_entry,
    link_kind="vxlan",
)
