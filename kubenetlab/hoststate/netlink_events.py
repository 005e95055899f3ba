"""Notices: what the kernel says of a change, held against what is known of a namespace.

What we change ourselves is told, too; it agrees with what is known by the time it is held against it. What somebody adds beside it
is theirs. Only what takes away, or takes the place of, something that is known says that it has to be looked at again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Final

from msgspec import Struct

from kubenetlab.hoststate import wire
from kubenetlab.hoststate.address import decode_address
from kubenetlab.hoststate.link import LOOPBACK, Dummy, LinkUp, Port
from kubenetlab.hoststate.link_messages import SeenLink, decode_link, is_bridges_own
from kubenetlab.hoststate.neighbor import Neighbor, decode_neighbor, key_of_departed
from kubenetlab.hoststate.nexthop import decode_nexthop
from kubenetlab.hoststate.object import Key, Object
from kubenetlab.hoststate.peers import Peers, peers_key
from kubenetlab.hoststate.route import decode_route
from kubenetlab.hoststate.state import Contents
from kubenetlab.hoststate.wire import attributes

_DECODERS: Final = {
    wire.RTM_NEWADDR: decode_address,
    wire.RTM_NEWROUTE: decode_route,
    wire.RTM_NEWNEIGH: decode_neighbor,
    wire.RTM_NEWNEXTHOP: decode_nexthop,
}
_DELETIONS: Final = {
    wire.RTM_DELADDR: wire.RTM_NEWADDR,
    wire.RTM_DELROUTE: wire.RTM_NEWROUTE,
    wire.RTM_DELNEXTHOP: wire.RTM_NEWNEXTHOP,
}


RTM_NEWNETCONF = 80
_NETCONFA_IFINDEX = 1
_NETCONF_HEADER = 4


class NetlinkEvent(Struct, frozen=True):
    """One message of the kernel's about one namespace."""

    type: int
    """RTM_NEWLINK, RTM_DELROUTE …"""
    body: bytes


def contradict(
    netns: str, notices: Sequence[NetlinkEvent], known: Contents, indexes: Mapping[str, int]
) -> bool:
    """True when the last word on something says other than what is known of it; `indexes` are those of the links as we know them.

    Of settings the kernel tells a few only (forwarding, rp_filter …), and those are read again whatever they are.
    """
    if any(notice.type == RTM_NEWNETCONF and _is_of_all_links(notice.body) for notice in notices):
        return True
    names = {index: name for name, index in indexes.items()} | {1: LOOPBACK}
    last: dict[Key, Object | SeenLink | None] = {}
    for notice in notices:
        last.update(_told(netns, notice, names))

    @cache
    def macs(place: Key) -> Mapping[str, str]:
        """Address → MAC, of the peers of that key."""
        peers = known.get(place)
        return dict(peers.entries) if isinstance(peers, Peers) else {}

    return any(_contradicts(key, what, known, indexes, macs) for key, what in last.items())


def _told(
    netns: str, notice: NetlinkEvent, names: Mapping[int, str]
) -> Iterator[tuple[Key, Object | SeenLink | None]]:
    """(what it is about, how it is now); None when it is gone. Nothing for what is not ours to know."""
    body = memoryview(notice.body)
    if notice.type in (wire.RTM_NEWLINK, wire.RTM_DELLINK):
        if not is_bridges_own(body):
            link = decode_link(body)
            name = names.get(link.index)
            if name is not None:  # else it has not been ours, whatever it is called
                is_there = notice.type == wire.RTM_NEWLINK and link.name == name
                yield ("Link", name), link if is_there else None
        return
    if notice.type == wire.RTM_DELNEIGH:
        if (key := key_of_departed(body, names)) is not None:
            yield key, None
        return
    is_gone = notice.type in _DELETIONS
    decode = _DECODERS.get(_DELETIONS.get(notice.type, notice.type))
    try:
        decoded = decode(netns, body, names) if decode is not None else None
    except KeyError:
        return  # on a link that is somebody else's
    if decoded is not None:
        yield decoded[0].key, None if is_gone else decoded[0]


def _is_of_all_links(body: bytes) -> bool:
    """True for `all` and `default`, which have numbers below zero; every new link is told of, too."""
    found = attributes(memoryview(body)[_NETCONF_HEADER:])
    return (
        _NETCONFA_IFINDEX in found
        and int.from_bytes(found[_NETCONFA_IFINDEX], sys.byteorder, signed=True) < 0
    )


def _contradicts(
    key: Key,
    told: Object | SeenLink | None,
    known: Contents,
    indexes: Mapping[str, int],
    macs: Callable[[Key], Mapping[str, str]],
) -> bool:
    if key in known:
        return not _agrees(told, known[key], indexes)
    if key[0] != "Neighbor":
        return False
    _, link, address = key
    mac = macs(peers_key(link, address)).get(address)
    return mac is not None and not (isinstance(told, Neighbor) and told.mac == mac)


def _agrees(told: Object | SeenLink | None, known: Object, indexes: Mapping[str, int]) -> bool:
    if not isinstance(told, SeenLink):
        return told == known
    if isinstance(known, LinkUp):
        return told.is_up == known.is_up
    if isinstance(known, Dummy):
        return (told.kind, told.mac) == ("dummy", known.mac)
    is_alike = all(
        getattr(told, field) == getattr(known, field) for field in ("mac", "mtu", "is_up")
    )
    return is_alike and (
        not isinstance(known, Port) or indexes.get(known.master) == told.master_index
    )
