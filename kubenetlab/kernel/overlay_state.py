"""Routes, forwarding entries and peers by which the current network namespace reaches nodes."""

from __future__ import annotations

import socket
from collections.abc import Iterable

from kubenetlab.hoststate.fdb import FDB_MESSAGES, FdbEntry, decode_fdb_entry
from kubenetlab.hoststate.links.messages import decode_link, dump_links
from kubenetlab.hoststate.netlink.protocols import WIREGUARD
from kubenetlab.hoststate.route import ROUTE_MESSAGES, decode_destination
from kubenetlab.hoststate.wireguard import WIREGUARD_MESSAGES, WireguardPeer
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


def missing_peers(peers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the WireGuard peers, each (link, public key), that do not exist, in order."""
    with RouteSocket() as route:
        links = [decode_link(body) for body in route.dump(dump_links())]
    existing: set[tuple[str, str]] = set()
    for request in WIREGUARD_MESSAGES.dumps("", links):
        with NetlinkSocket(WIREGUARD) as connection:
            bodies = connection.dump(request)
        for obj, _ in WIREGUARD_MESSAGES.decode("", bodies, {}):
            if isinstance(obj, WireguardPeer):
                existing.add((obj.link, obj.public_key))
    return [peer for peer in peers if peer not in existing]
