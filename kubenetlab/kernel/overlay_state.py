"""Routes, forwarding entries and keys by which the current network namespace reaches nodes."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable

from kubenetlab.hoststate.encryption.wireguard import WIREGUARD_MESSAGES
from kubenetlab.hoststate.encryption.wireguard_sessions import WireguardSession, decode_sessions
from kubenetlab.hoststate.encryption.xfrm import XFRM_STATE_MESSAGES
from kubenetlab.hoststate.encryption.xfrm_lifetimes import XfrmLifetime, decode_lifetimes
from kubenetlab.hoststate.fdb import FDB_MESSAGES, FdbEntry, decode_fdb_entry
from kubenetlab.hoststate.links.messages import decode_link, dump_links
from kubenetlab.hoststate.netlink.protocols import WIREGUARD, XFRM
from kubenetlab.hoststate.route import ROUTE_MESSAGES, decode_destination
from kubenetlab.kernel.netlink.rtnetlink import NetlinkSocket, RouteSocket

Entry = tuple[str, str, str]
"""(link, MAC address, address of the node) of a forwarding entry."""


def missing_routes(destinations: Iterable[str]) -> list[str]:
    """Return the destinations to which the main table has no route, in order."""
    with RouteSocket() as route:
        existing = {decode_destination(body) for body in route.dump(ROUTE_MESSAGES.dump)}
    return [destination for destination in destinations if destination not in existing]


def missing_entries(entries: Iterable[Entry]) -> list[Entry]:
    """Return the forwarding entries that do not exist, in order."""
    names = dict(socket.if_nameindex())
    with RouteSocket() as route:
        decoded = [decode_fdb_entry("", body, names) for body in route.dump(FDB_MESSAGES.dump)]
    found = [entry[0] for entry in decoded if entry is not None]
    existing = {(each.link, each.mac, each.node) for each in found if isinstance(each, FdbEntry)}
    return [entry for entry in entries if entry not in existing]


def wireguard_sessions() -> list[WireguardSession]:
    """Return the sessions of all WireGuard links with their peers."""
    with RouteSocket() as route:
        links = [decode_link(body) for body in route.dump(dump_links())]
    sessions: list[WireguardSession] = []
    for request in WIREGUARD_MESSAGES.dumps("", links):
        with NetlinkSocket(WIREGUARD) as connection:
            sessions += decode_sessions(connection.dump(request))
    return sessions


def xfrm_lifetimes(netns: str) -> list[XfrmLifetime]:
    """Return the lifetimes of the states for ESP; none if the kernel has no XFRM.

    netns: sandbox whose network namespace is the current one.
    """
    lifetimes: list[XfrmLifetime] = []
    try:
        for request in XFRM_STATE_MESSAGES.dumps(netns, ()):
            with NetlinkSocket(XFRM) as connection:
                lifetimes += decode_lifetimes(connection.dump(request))
    except OSError as error:
        if error.errno != errno.EPROTONOSUPPORT:
            raise
    return lifetimes
