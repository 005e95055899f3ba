"""Read the netlink objects of the current network namespace, apart from its links."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from typing import Final

from kubenetlab.hoststate.kinds import UNREPORTED_KINDS, decode, kinds_by_dump
from kubenetlab.hoststate.links.messages import ObservedLink
from kubenetlab.hoststate.neighbor import Neighbor
from kubenetlab.hoststate.object import Key, Object
from kubenetlab.hoststate.peers import Peers, observed_peers, peers_key
from kubenetlab.hoststate.state import Contents
from kubenetlab.kernel.netlink.rtnetlink import NetlinkSocket, RouteSocket

_LACKING: Final = frozenset((errno.EPROTONOSUPPORT, errno.EOPNOTSUPP, errno.ENOENT))
"""Errnos of a request for a list that mean that this kernel has no objects of the kind."""


def read_objects(
    netns: str, desired: Contents, links: Sequence[ObservedLink], route: RouteSocket
) -> Iterator[Object]:
    """Yield addresses, neighbours, routes and the like: what rtnetlink lists.

    These are objects that the lab created, and others with the key of a desired object.
    """
    names = {link.index: link.name for link in links}
    peers = {obj.key: obj for obj in desired.values() if isinstance(obj, Peers)}
    peer_neighbors: dict[Key, list[Neighbor]] = {key: [] for key in peers}
    for request, kinds in kinds_by_dump(netns, links):
        for body in route.dump(request):
            decoded = decode(kinds, netns, body, names, desired)
            if decoded is None:
                continue
            obj, is_ours = decoded
            if (
                isinstance(obj, Neighbor)
                and obj.key not in desired
                and (peer_key := peers_key(obj.link, obj.address)) in peers
            ):
                if is_ours or obj.address in peers[peer_key]:
                    peer_neighbors[peer_key].append(obj)
            elif is_ours or obj.key in desired:
                yield obj
    yield from (
        observed_peers(netns, peer_neighbors[key], obj)
        for key, obj in peers.items()
        if peer_neighbors[key]
    )


def read_unreported_objects(
    netns: str, desired: Contents, links: Sequence[ObservedLink]
) -> Iterator[Object]:
    """Yield the objects that other netlink protocols list, likewise."""
    names = {link.index: link.name for link in links}
    for kind in UNREPORTED_KINDS:
        for request in kind.dumps(netns, links):
            try:
                with NetlinkSocket(kind.protocol) as connection:
                    bodies = connection.dump(request)
            except OSError as error:
                if error.errno in _LACKING:
                    continue
                raise
            for obj, is_ours in kind.decode(netns, bodies, names):
                if is_ours or obj.key in desired or obj.depends_on in desired:
                    yield obj
