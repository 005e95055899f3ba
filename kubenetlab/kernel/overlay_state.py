"""Routes and forwarding entries of the current network namespace that lead to other nodes."""

from __future__ import annotations

import socket
from collections.abc import Iterable

from kubenetlab.hoststate.fdb import FDB_MESSAGES, FdbEntry, decode_fdb_entry
from kubenetlab.hoststate.route import ROUTE_MESSAGES, decode_destination
from kubenetlab.kernel.netlink.rtnetlink import RouteSocket

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
