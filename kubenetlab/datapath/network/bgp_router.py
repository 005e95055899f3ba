"""The fabric's router as a BGP speaker: the top-of-rack switch with which nodes have sessions.

    node ── AS 64512 ═══ TCP 179 ═══ AS 65000 ── fabric/router ═══ AS 64512 ── node

Where the router is in an AS of its own, it passes every route on with its own address as next hop,
except to nodes on the segment of the announcing node: they get that node's address (RFC 4271
§5.1.3, third-party next hop). In the AS of the nodes it is their route reflector, and does the
same. So packets between segments cross the router, and packets within a segment do not.

Source: docs.tigera.io, "Calico over IP fabrics" and "Configure BGP peering" (Calico 3.30).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from kubenetlab import names
from kubenetlab.api.values import ip
from kubenetlab.datapath.network import bird
from kubenetlab.datapath.network.bgp import BGPMode, Peer, Speaker, peer_name, router_id
from kubenetlab.datapath.network.bgp_policy import accepts
from kubenetlab.datapath.view import Family, NodeView
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.sandbox import Sysctl


class Neighbor(Struct, frozen=True):
    """A node that has sessions with the router."""

    families: tuple[Family, ...]
    """Families in which it has sessions."""
    as_number: int
    prefixes: tuple[str, ...]
    """Prefixes that it announces, for pods and for Services."""
    services: tuple[str, ...] = ()
    """Those with addresses of Services."""


def neighbor(mode: BGPMode, node: NodeView, number: int) -> Neighbor | None:
    """Return a node as a neighbour of a router; None if it has no session with the router.

    number: 1 for the first router.
    """
    speaker = mode.speaker(node)
    exports = {peer.address: peer.exports for peer in speaker.peers}
    families = tuple(family for family in node.families if family.router_address(number) in exports)
    rules = {family.version: exports[family.router_address(number)] for family in families}
    prefixes = tuple(
        prefix
        for prefix in (*speaker.announced, *speaker.blackholes, *speaker.services)
        if ip.version_of(prefix) in rules
        and accepts(rules[ip.version_of(prefix)], prefix, is_learned=False)
    )
    services = tuple(each for each in speaker.services if each in prefixes)
    return Neighbor(families, speaker.as_number, prefixes, services) if families else None


def router(as_number: int, neighbors: Sequence[Neighbor], number: int) -> Iterator[Object]:
    """Yield BIRD of a router; nothing without neighbours.

    as_number: autonomous system of the router.
    number: 1 for the first router.
    """
    if not neighbors:
        return
    netns = names.ROUTERS[number - 1]
    own = {
        family.version: family.router_address(number)
        for each in neighbors
        for family in each.families
    }
    peers = tuple(
        Peer(
            peer_name("Node", family.address),
            family.address,
            each.as_number,
            is_client=each.as_number == as_number,
            gets_learned=True,
            is_node=False,
            source=family.router_address(number),
            subnet=family.subnet,
        )
        for each in neighbors
        for family in each.families
    )
    addresses = tuple(own.values())
    speaker = Speaker(router_id(addresses), addresses, peers, as_number=as_number)
    for version in own:
        # Flows between two nodes with the same prefix are distributed by addresses and ports.
        yield Sysctl(netns, f"net/ipv{version}/fib_multipath_hash_policy", "1")
    prefixes = dict.fromkeys(prefix for each in neighbors for prefix in each.prefixes)
    yield from bird.bird(netns, speaker, tuple(prefixes))
