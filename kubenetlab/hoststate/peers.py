"""Peers: everybody who shares a link, written down as permanent neighbours.

On a node with n pods on one subnet that is n·(n−1) entries: as objects, each by itself, they would be most of a large lab. A table is
one value for all pods of a node, and its messages are encoded once.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache

from kubenetlab.hoststate import wire
from kubenetlab.hoststate.neighbor import INDEX_OFFSET, Neighbor
from kubenetlab.hoststate.object import Key, Object, Word
from kubenetlab.hoststate.wire import HEADER, Links, UniformRequests

Entry = tuple[str, str]
"""(address, MAC)"""


class Peers(Object, frozen=True):
    """The permanent neighbours of one IP version on a link: all of a table but oneself."""

    rank = 71

    link: str
    table: tuple[Entry, ...]
    """Not empty, and of one IP version."""
    own: str = ""

    @property
    def key(self) -> Key:
        return peers_key(self.link, self.table[0][0])

    def __contains__(self, address: str) -> bool:
        return address != self.own and any(address == entry[0] for entry in self.table)

    @property
    def depends_on(self) -> Key | None:
        return ("Link", self.link)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """In the order of the table."""
        return tuple(entry for entry in self.table if entry[0] != self.own)

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
            self.own,
        )

    def change_from(self, before: Peers, links: Links) -> list[tuple[bytes, bool]]:
        """Only what differs; and of each request, whether it takes something away."""
        index, old, new = links.index(self.netns, self.link), set(before.entries), set(self.entries)
        kept = {address for address, _ in new}
        gone = [entry for entry in before.entries if entry[0] not in kept]
        come = [entry for entry in self.entries if entry not in old]
        requests = [
            (_requests(gone, index, wire.RTM_DELNEIGH), True),
            (_requests(come, index, wire.RTM_NEWNEIGH), False),
        ]
        return [request for request in requests if request[0]]

    def delete(self, links: Links) -> bytes:
        return _requests(self.entries, links.index(self.netns, self.link), wire.RTM_DELNEIGH)

    def commands(self, word: Word) -> Iterator[str]:
        for address, mac in self.entries:
            yield from Neighbor(self.netns, self.link, address, mac).commands(word)


def peers_key(link: str, address: str) -> Key:
    """The key of the peers among which a neighbour would be."""
    return ("Peers", link, "IPv6" if ":" in address else "IPv4")


def peers_of(netns: str, neighbors: Iterable[Neighbor], wanted: Peers) -> Peers:
    """What is there in place of what is wanted: the wanted itself when it is just that."""
    found = {(neighbor.address, neighbor.mac) for neighbor in neighbors}
    return (
        wanted if found == set(wanted.entries) else Peers(netns, wanted.link, tuple(sorted(found)))
    )


def _requests(
    entries: Collection[Entry], index: int, type_: int, table: tuple[Entry, ...] = (), own: str = ""
) -> bytes:
    """One message for each entry. A whole table comes from its template, and only the link's index is put in."""
    if not entries:
        return b""
    size, template = _template(table or tuple(entries), type_)
    data = bytearray(template)
    if own and len(entries) < len(table):
        at = next(place for place, (address, _) in enumerate(table) if address == own) * size
        del data[at : at + size]
    for position, byte in enumerate(struct.pack("=i", index), HEADER.size + INDEX_OFFSET):
        data[position::size] = bytes([byte]) * len(entries)
    return UniformRequests(bytes(data), size)


class _NoLink:
    """In a template every link has the index 0."""

    def index(self, netns: str, link: str) -> int:
        return 0


@lru_cache(maxsize=256)
def _template(table: tuple[Entry, ...], type_: int) -> tuple[int, bytes]:
    """(bytes in a message, all messages); those of one IP version are of one length."""
    neighbors = [Neighbor("", "", address, mac) for address, mac in table]
    encoded = [
        neighbor.create(_NoLink()) if type_ == wire.RTM_NEWNEIGH else neighbor.delete(_NoLink())  # type: ignore[arg-type]
        for neighbor in neighbors
    ]
    return len(encoded[0]), b"".join(encoded)
