"""BGP speakers: their sessions, and the prefixes that they announce.

A node announces prefixes, such as its pod ranges, to its peers. A session carries the routes of its
own address family only. `bird.py` runs a speaker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, ip_address
from typing import Final, Literal, Protocol, runtime_checkable

from msgspec import Struct, structs

from kubenetlab.datapath.network.bgp_policy import Mark, Rule
from kubenetlab.datapath.view import Family, NodeView
from kubenetlab.hoststate.secret import Secret

DEFAULT_AS: Final = 64512
"""Autonomous system of the nodes, the first private one (RFC 6996): Calico's and kube-router's."""


class Peer(Struct, frozen=True):
    """A BGP session with another router."""

    name: str
    """Name of the protocol in BIRD: letters, digits and underscores."""
    address: str
    as_number: int = DEFAULT_AS
    is_node: bool = True
    """True for another node of the cluster, False for a router, which gets Services, too."""
    is_client: bool = False
    """True if this node reflects routes of other nodes to the peer (RFC 4456)."""
    is_direct: bool = True
    """True if the peer is on the same link; otherwise its next hops are looked up in the routes."""
    gets_learned: bool = False
    """True if routes learned from other peers are announced, besides the node's own."""
    source: str = ""
    """Own address of the session; empty for that of the speaker."""
    has_source: bool = True
    """False if the routes of the node select its own address."""
    port: int = 0
    """TCP port of the peer; 0 for BGP's, 179."""
    local_as: int = 0
    """Own AS number in this session; 0 for that of the speaker."""
    password: Secret | None = None
    """Password for signatures of TCP segments (RFC 2385)."""
    max_hops: int = 0
    """Number of hops from which packets are accepted (RFC 5082); 0 for no such limit."""
    next_hop: Literal["", "keep", "self"] = ""
    """Next hop that is announced: BGP's default, the original one, or the speaker itself."""
    own_as_allowed: int = 0
    """Maximum number of times that an accepted route may have the speaker's AS in its path."""
    restart_time_s: int = 0
    """Time in which the peer keeps routes while BIRD restarts, in seconds; 0 for BIRD's default."""
    imports: tuple[Rule, ...] = ()
    """Rules for imported routes. Routes that match none are accepted."""
    exports: tuple[Rule, ...] = ()
    """Rules for exported routes, before the speaker's own selection of routes."""
    marks: tuple[Mark, ...] = ()
    """Communities and AS numbers of exported routes that no rule has accepted."""
    subnet: str = ""
    """Network with the next hops that are announced unchanged to a peer in the same AS.

    The speaker puts its own address in the place of others. Empty if all stay unchanged.
    """


class Speaker(Struct, frozen=True):
    """The BGP configuration of a node."""

    router_id: str
    """Identifier in the form of an IPv4 address, unique among all routers."""
    addresses: tuple[str, ...]
    """Own addresses, one for each family: the sources of sessions."""
    peers: tuple[Peer, ...]
    announced: tuple[str, ...] = ()
    """Prefixes announced to all peers. The kernel gets no route to them."""
    blackholes: tuple[str, ...] = ()
    """Prefixes announced likewise, to which the kernel gets a route that drops packets.

    It has more specific routes to the addresses that are in use.
    """
    services: tuple[str, ...] = ()
    """Prefixes with addresses of Services, announced to routers only."""
    unprogrammed: tuple[str, ...] = ()
    """Prefixes that are never added to the kernel, even if a peer announces them."""
    as_number: int = DEFAULT_AS
    cluster_id: str = ""
    """Id of the cluster whose routes it reflects; empty for that of the speaker itself."""
    keeps_routes: bool = True
    """True for graceful restart (RFC 4724): routes stay while BIRD is restarted."""
    max_paths: int = 16
    """Maximum number of next hops of a route, which share its connections (ECMP)."""
    is_bound: bool = False
    """True if BIRD listens on its own addresses only."""


def mesh(
    families: Sequence[Family], others: Sequence[Sequence[Family]], as_number: int = DEFAULT_AS
) -> tuple[Peer, ...]:
    """Return the sessions of a node with all others: one for each other node and family."""
    return tuple(
        Peer(
            peer_name("Mesh", other[index].address),
            other[index].address,
            as_number,
            is_direct=families[index].subnet == other[index].subnet,
        )
        for index in range(len(families))
        for other in others
    )


@runtime_checkable
class BGPMode(Protocol):
    """Interface of a CNI mode whose nodes exchange routes by BGP, in addition to that of a mode."""

    @property
    def has_bgp(self) -> bool:
        """False if the options of the mode exclude BGP."""

    def speaker(self, node: NodeView) -> Speaker:
        """Return the BGP configuration of a node."""

    def heard(self, node: NodeView) -> frozenset[str]:
        """Return the names of the nodes from which a node gets routes."""

    def refused(self, node: NodeView) -> Mapping[str, str]:
        """Return the ranges of pods of other nodes that filters keep from a node: range → node."""


def bgp_mode(mode: object) -> BGPMode | None:
    """Return a CNI mode whose nodes exchange routes by BGP; None for other modes."""
    return mode if isinstance(mode, BGPMode) and mode.has_bgp else None


def session(template: Peer, name: str, address: str, as_number: int, **settings: object) -> Peer:
    """Return a session with a peer that has the other settings of a template."""
    return structs.replace(template, name=name, address=address, as_number=as_number, **settings)


def sessions_with_router(node: NodeView, as_number: int) -> Iterator[Peer]:
    """Yield the sessions of a node with the fabric's router; none if the router has no BGP.

    All nodes may be in one AS. A route from another node then has the own AS number in its path.

    as_number: autonomous system of the node.
    """
    for family in node.families if node.router_as else ():
        for number in range(1, node.routers + 1):
            address = family.router_address(number)
            yield Peer(
                peer_name("Router", address),
                address,
                node.router_as,
                is_node=False,
                own_as_allowed=0 if node.router_as == as_number else 1,
            )


def reached(
    start: str,
    names: Iterable[str],
    are_neighbors: Callable[[str, str], bool],
    forwards: Callable[[str], bool],
) -> frozenset[str]:
    """Return the names of the nodes whose routes a node gets, its own name included.

    are_neighbors: function that returns True if two nodes have a session.
    forwards: function that returns True if a node passes learned routes on.
    """
    found, unread = {start}, [start]
    while unread:
        one = unread.pop()
        for other in names:
            if other not in found and are_neighbors(one, other):
                found.add(other)
                if forwards(other):
                    unread.append(other)
    return frozenset(found)


def peer_name(kind: str, address: str) -> str:
    """Return the name of a session's protocol, as Calico forms it: `Mesh_172_18_0_3`."""
    return f"{kind}_{address.replace('.', '_').replace(':', '_')}"


def router_id(addresses: Sequence[str]) -> str:
    """Return the identifier of a router: its IPv4 address, or the end of its IPv6 address."""
    parsed = [ip_address(address) for address in addresses]
    return next(
        (str(address) for address in parsed if address.version == 4),
        str(IPv4Address(int(parsed[0]) & 0xFFFFFFFF)),
    )
