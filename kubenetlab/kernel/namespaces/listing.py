"""Read the netlink objects of the current network namespace, apart from its links."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_interface
from typing import Final

from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.kinds import UNREPORTED_KINDS, decode, kinds_by_dump
from kubenetlab.hoststate.links.link import Link
from kubenetlab.hoststate.links.messages import ObservedLink
from kubenetlab.hoststate.neighbor import Neighbor
from kubenetlab.hoststate.object import Key, Object
from kubenetlab.hoststate.peers import Peers, observed_peers, peers_key
from kubenetlab.hoststate.route import Route
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


def read_foreign_objects(
    netns: str,
    observed: Contents,
    links: Sequence[ObservedLink],
    peers: Mapping[int, str],
    route: RouteSocket,
) -> Iterator[str]:
    """Yield descriptions of links, addresses and routes that other programs have made.

    Entries that the kernel makes by itself are omitted.

    observed: objects of the lab in the namespace.
    peers: names of the links to which veths of the namespace may lead, by interface index.
    """
    names = {link.index: link.name for link in links}
    own = {obj.name for obj in observed.values() if isinstance(obj, Link)}
    for link in links:
        if link.name not in own and link.name != "lo":
            yield _describe(link, names, peers)
    for request, kinds in kinds_by_dump(netns, links):
        for body in route.dump(request):
            decoded = decode(kinds, netns, body, names, observed)
            if decoded is None or decoded[1] or decoded[0].key in observed:
                continue
            obj = decoded[0]
            is_automatic = isinstance(obj, Address) and ip_interface(obj.address).is_link_local
            if isinstance(obj, Address | Route) and not is_automatic:
                yield str(obj)


def _describe(link: ObservedLink, names: Mapping[int, str], peers: Mapping[int, str]) -> str:
    peer = f" ↔ {peers[link.peer_index]}" if link.peer_index in peers else ""
    master = f" port of {names[link.master_index]}" if link.master_index in names else ""
    state = "" if link.is_up else " down"
    return f"{link.kind or 'link'} {link.name} mac {link.mac} mtu {link.mtu}{master}{peer}{state}"
