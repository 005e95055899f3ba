"""Peers: permanent neighbors for all other machines on a link.

A node with n pods on one subnet has n·(n−1) such entries. As single objects they would be most of
a large lab, so all pods of a node share one table, whose messages are encoded once.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache

from kubenetlab.hoststate.neighbor import IFINDEX_OFFSET, Neighbor
from kubenetlab.hoststate.netlink import wire
from kubenetlab.hoststate.netlink.wire import HEADER, Links, UniformRequests
from kubenetlab.hoststate.object import Key, LinkedObject, Object, ShellName

Entry = tuple[str, str]
"""(address, MAC)"""


class Peers(LinkedObject, frozen=True):
    """Permanent neighbors of one IP version on a link: a table without the link's own entry."""

    rank = 71
    needs_open_link = True

    table: tuple[Entry, ...]
    """Addresses of one IP version; not empty."""
    own_address: str = ""
    """Address of the link itself; empty if the table does not contain it."""

    @property
    def key(self) -> Key:
        return peers_key(self.link, self.table[0][0])

    def __contains__(self, address: str) -> bool:
        return address != self.own_address and any(address == entry[0] for entry in self.table)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Entries without the link's own, in the order of the table."""
        return tuple(entry for entry in self.table if entry[0] != self.own_address)

    def __str__(self) -> str:
        entries = self.entries
        shown = (
            f"{entries[0][0]} … {entries[-1][0]}"
            if len(entries) > 1
            else "".join(address for address, _ in entries)
        )
        return f"{len(entries)} neighbors {shown} dev {self.link} permanent"

    def create(self, links: Links) -> bytes:
        return _requests(
            self.entries,
            links.index(self.netns, self.link),
            wire.RTM_NEWNEIGH,
            self.table,
            self.own_address,
        )

    def change(self, links: Links) -> bytes:
        return self.create(links)

    def changes_from(self, before: Object, links: Links) -> list[tuple[bytes, bool]]:
        """Return requests for the entries that differ, each with True if it deletes entries."""
        assert isinstance(before, Peers)
        index, old, new = links.index(self.netns, self.link), set(before.entries), set(self.entries)
        kept = {address for address, _ in new}
        deleted = [entry for entry in before.entries if entry[0] not in kept]
        added = [entry for entry in self.entries if entry not in old]
        requests = [
            (_requests(deleted, index, wire.RTM_DELNEIGH), True),
            (_requests(added, index, wire.RTM_NEWNEIGH), False),
        ]
        return [request for request in requests if request[0]]

    def delete(self, links: Links) -> bytes:
        return _requests(self.entries, links.index(self.netns, self.link), wire.RTM_DELNEIGH)

    def commands(self, shell_name: ShellName) -> Iterator[str]:
        for address, mac in self.entries:
            yield from Neighbor(self.netns, self.link, address, mac).commands(shell_name)


def peers_key(link: str, address: str) -> Key:
    """Return the key of the `Peers` object that would contain a neighbor."""
    return ("Peers", link, "IPv6" if ":" in address else "IPv4")


def observed_peers(netns: str, neighbors: Iterable[Neighbor], desired: Peers) -> Peers:
    """Return the observed neighbors as an object: `desired` itself if all entries match."""
    entries = {(neighbor.address, neighbor.mac) for neighbor in neighbors}
    return (
        desired
        if entries == set(desired.entries)
        else Peers(netns, desired.link, tuple(sorted(entries)))
    )


def _requests(
    entries: Collection[Entry], index: int, type_: int, table: tuple[Entry, ...] = (), own: str = ""
) -> bytes:
    """Return one message for each entry.

    With `table`, all its entries but `own` are sent: its messages come from a cached template, into
    which only the interface index is written.
    """
    if not entries:
        return b""
    size, template = _template(table or tuple(entries), type_)
    data = bytearray(template)
    if own and len(entries) < len(table):
        offset = next(place for place, (address, _) in enumerate(table) if address == own) * size
        del data[offset : offset + size]
    for position, byte in enumerate(struct.pack("=i", index), HEADER.size + IFINDEX_OFFSET):
        data[position::size] = bytes([byte]) * len(entries)
    return UniformRequests(bytes(data), size)


class _NoLink:
    """`LinkIndexes` for templates, in which every link has the index 0."""

    def index(self, netns: str, link: str) -> int:
        return 0


@lru_cache(maxsize=256)
def _template(table: tuple[Entry, ...], type_: int) -> tuple[int, bytes]:
    """Return the length of one message and all messages, which have equal length."""
    neighbors = [Neighbor("", "", address, mac) for address, mac in table]
    encoded = [
        neighbor.create(_NoLink()) if type_ == wire.RTM_NEWNEIGH else neighbor.delete(_NoLink())
        for neighbor in neighbors
    ]
    return len(encoded[0]), b"".join(encoded)
