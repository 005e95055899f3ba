"""Netlink events: changes that the kernel reports, compared with the known objects of a namespace.

The kernel reports the lab's own changes, too; they match the known objects by the time they are
compared. Objects that others add are ignored. Only an event that removes or replaces a known object
means that the namespace has to be read again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache

from msgspec import Struct

from kubenetlab.hoststate.kinds import decode_event
from kubenetlab.hoststate.links.link import LOOPBACK, Link
from kubenetlab.hoststate.links.messages import (
    ObservedLink,
    decode_link,
    is_bridge_port_message,
)
from kubenetlab.hoststate.neighbor import Neighbor
from kubenetlab.hoststate.netlink import wire
from kubenetlab.hoststate.netlink.wire import attributes
from kubenetlab.hoststate.object import Key, Object
from kubenetlab.hoststate.peers import Peers, peers_key
from kubenetlab.hoststate.state import Contents

RTM_NEWNETCONF = 80
_NETCONFA_IFINDEX = 1
_NETCONF_HEADER = 4


class NetlinkEvent(Struct, frozen=True):
    """One netlink message about one namespace."""

    type: int
    """Message type: RTM_NEWLINK, RTM_DELROUTE …"""
    body: bytes
    """Message without its nlmsghdr."""


def is_contradicted(
    netns: str, events: Sequence[NetlinkEvent], known: Contents, indexes: Mapping[str, int]
) -> bool:
    """Return True if the latest event about an object differs from the known object.

    The kernel reports only some sysctls (forwarding, rp_filter …); any such event for all links
    counts as a difference.

    known: objects of the namespace as last read or applied.
    indexes: interface indexes of the known links by name.
    """
    if any(event.type == RTM_NEWNETCONF and _is_for_all_links(event.body) for event in events):
        return True
    names = {index: name for name, index in indexes.items()} | {1: LOOPBACK}
    latest: dict[Key, Object | ObservedLink | None] = {}
    for event in events:
        latest.update(_decode_event(netns, event, names))

    @cache
    def macs(key: Key) -> Mapping[str, str]:
        """Return the MAC of each address in the `Peers` object with this key."""
        peers = known.get(key)
        return dict(peers.entries) if isinstance(peers, Peers) else {}

    return any(_contradicts(key, state, known, indexes, macs) for key, state in latest.items())


def _decode_event(
    netns: str, event: NetlinkEvent, names: Mapping[int, str]
) -> Iterator[tuple[Key, Object | ObservedLink | None]]:
    """Yield the key and the new state of the object that an event is about, None if it is deleted.

    Yield nothing for objects that the lab does not manage.
    """
    body = memoryview(event.body)
    if event.type in (wire.RTM_NEWLINK, wire.RTM_DELLINK):
        if not is_bridge_port_message(body):
            link = decode_link(body)
            name = names.get(link.index)
            if name is not None:  # a link with another index does not belong to the lab
                exists = event.type == wire.RTM_NEWLINK and link.name == name
                yield ("Link", name), link if exists else None
        return
    if (decoded := decode_event(netns, event.type, body, names)) is not None:
        yield decoded


def _is_for_all_links(body: bytes) -> bool:
    """Return True for events about `all` and `default`, which have negative indexes.

    Events about single links are ignored, because every new link causes one.
    """
    attrs = attributes(memoryview(body)[_NETCONF_HEADER:])
    return (
        _NETCONFA_IFINDEX in attrs
        and int.from_bytes(attrs[_NETCONFA_IFINDEX], sys.byteorder, signed=True) < 0
    )


def _contradicts(
    key: Key,
    state: Object | ObservedLink | None,
    known: Contents,
    indexes: Mapping[str, int],
    macs: Callable[[Key], Mapping[str, str]],
) -> bool:
    """Return True if `state` differs from the known object or from its entry in a `Peers`."""
    if key in known:
        return not _matches(state, known[key], indexes)
    if key[0] != "Neighbor":
        return False
    _, link, address = key
    mac = macs(peers_key(link, address)).get(address)
    return mac is not None and not (isinstance(state, Neighbor) and state.mac == mac)


def _matches(
    observed: Object | ObservedLink | None, known: Object, indexes: Mapping[str, int]
) -> bool:
    if isinstance(observed, ObservedLink):
        return isinstance(known, Link) and known.matches(observed, indexes)
    return observed == known
