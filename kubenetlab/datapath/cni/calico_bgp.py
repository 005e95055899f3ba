"""BGP sessions of nodes with Calico: of BGPPeers, of the mesh, and with the fabric's router.

Source: projectcalico/calico confd/pkg/backends/calico/client.go (updatePeersV1) and
bgp_processor.go (3.32).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal

from msgspec import Struct, structs

from kubenetlab.api.calico.bgp import BGPPeer
from kubenetlab.api.values import ip
from kubenetlab.api.values.durations import duration_s
from kubenetlab.datapath.bgp_view import BGPNode
from kubenetlab.datapath.cni import calico_filters
from kubenetlab.datapath.network import bgp
from kubenetlab.datapath.network.bgp import Peer
from kubenetlab.datapath.view import Family, NodeView

_NEXT_HOPS: Final[Mapping[str, Literal["", "keep", "self"]]] = {
    "Auto": "",
    "Keep": "keep",
    "Self": "self",
}
"""nextHopMode → BIRD's setting."""


class ExternalRouter(Struct, frozen=True):
    """A router outside of the cluster, as the options of the mode name it."""

    address: str
    as_number: int
    nodes: tuple[str, ...]
    """Names of the nodes that have sessions with it; all nodes if empty."""


class Settings(Struct, frozen=True):
    """BGP of the cluster, from the options of the mode and from the BGPConfiguration."""

    as_number: int
    """Autonomous system of nodes without one of their own."""
    has_mesh: bool
    reflectors: tuple[str, ...] = ()
    """Names of nodes, by the option of the mode, that reflect routes in place of a mesh."""
    routers: tuple[ExternalRouter, ...] = ()


class Entry(Struct, frozen=True):
    """A node of the cluster."""

    name: str
    families: tuple[Family, ...]
    bgp: BGPNode


def as_number(settings: Settings, node: BGPNode) -> int:
    """Return the autonomous system of a node."""
    return node.as_number or settings.as_number


def sessions(node: NodeView, settings: Settings) -> tuple[Peer, ...]:
    """Return the sessions of a node, one for each address.

    A BGPPeer takes precedence over the mesh, and over the session with the fabric's router.
    """
    own = _own(node)
    peers = [
        *_of_bgp_peers(node, own, settings),
        *_of_mesh(node, own, settings),
        *_of_options(node, settings),
        *bgp.sessions_with_router(node, as_number(settings, node.bgp)),
    ]
    by_address: dict[str, Peer] = {}
    for peer in peers:
        by_address.setdefault(peer.address, peer)
    marks = {
        family.version: calico_filters.marks(node.bgp_view, node.name, family.version)
        for family in node.families
    }
    return tuple(
        structs.replace(peer, marks=marks[ip.version_of(peer.address)])
        for peer in by_address.values()
    )


def _own(node: NodeView) -> Entry:
    return Entry(node.name, node.families, node.bgp)


def entries(node: NodeView) -> list[Entry]:
    """Return all nodes, the given one first."""
    return [_own(node), *(Entry(each.name, each.families, each.bgp) for each in node.peers)]


def are_neighbors(node: NodeView, first: Entry, second: Entry, settings: Settings) -> bool:
    """Return True if two nodes have a session: of the mesh, or of BGPPeers at both ends."""
    peers = node.bgp_view.peers
    return _is_in_mesh(first, second, settings) or (
        bool(peers)
        and any(
            bgp_peer(peers, first, second, far.address)
            and bgp_peer(peers, second, first, own.address)
            for own, far in zip(first.families, second.families, strict=True)
        )
    )


def bgp_peer(
    peers: Sequence[BGPPeer], own: Entry, far: Entry | None, address: str
) -> BGPPeer | None:
    """Return the BGPPeer that gives a node the session with an address; None if there is none.

    far: node with the address; None for the fabric's router.
    """
    of_node = [peer for peer in peers if peer.serves(own.name, own.bgp.labels)]
    for peer in sorted(of_node, key=lambda each: not each.is_global):
        if peer.address == address or (far is not None and peer.selects_peer(far.bgp.labels)):
            return peer
    if far is None:
        return None
    for peer in peers:
        if peer.is_reversed(own.bgp.labels) and peer.serves(far.name, far.bgp.labels):
            return peer
    return None


def is_reflector(entry: Entry, settings: Settings) -> bool:
    """Return True if a node passes routes on that it has learned from other nodes."""
    return bool(entry.bgp.cluster_id) or entry.name in settings.reflectors


def _is_in_mesh(first: Entry, second: Entry, settings: Settings) -> bool:
    """Return True if two nodes have a session without a BGPPeer.

    Nodes with the id of a cluster have no sessions of the mesh. By the option of the mode, each
    node has sessions with the reflectors instead.
    """
    if settings.reflectors:
        return first.name in settings.reflectors or second.name in settings.reflectors
    return settings.has_mesh and not (first.bgp.cluster_id or second.bgp.cluster_id)


def _of_mesh(node: NodeView, own: Entry, settings: Settings) -> Iterator[Peer]:
    configuration = node.bgp_view.configuration
    template = Peer(
        "",
        "",
        password=node.bgp_view.password(configuration.node_mesh_password),
        restart_time_s=round(duration_s(configuration.node_mesh_max_restart_time) or 0),
    )
    kind = "Node" if settings.reflectors else "Mesh"
    for other in entries(node)[1:]:
        if _is_in_mesh(own, other, settings):
            yield from _with_node(own, other, settings, kind, template)


def _of_options(node: NodeView, settings: Settings) -> Iterator[Peer]:
    versions = [family.version for family in node.families]
    for router in settings.routers:
        is_for_node = node.name in (router.nodes or (node.name,))
        if is_for_node and ip.version_of(router.address) in versions:
            name = bgp.peer_name("Global", router.address)
            yield Peer(name, router.address, router.as_number, is_node=False, is_direct=False)


def _of_bgp_peers(node: NodeView, own: Entry, settings: Settings) -> Iterator[Peer]:
    """Yield the sessions of BGPPeers for all nodes, of those for some, and the reverse ones."""
    for kind, peer, other in _ends(node, own):
        template = _template(node, peer)
        if other is None:
            found = _with_router(node, peer, kind, template)
        else:
            found = _with_node(own, other, settings, kind, template)
        for session in found:
            yield _completed(node, own, peer, session, settings)


def _ends(node: NodeView, own: Entry) -> Iterator[tuple[str, BGPPeer, Entry | None]]:
    """Yield (kind of the session, BGPPeer, node at the other end; None for a `peerIP`)."""
    peers, others = node.bgp_view.peers, entries(node)[1:]
    of_node = [peer for peer in peers if peer.serves(own.name, own.bgp.labels)]
    for peer in sorted(of_node, key=lambda each: not each.is_global):
        kind = "Global" if peer.is_global else "Node"
        if peer.spec.peer_ip:
            yield kind, peer, None
        for other in others:
            if peer.selects_peer(other.bgp.labels):
                yield kind, peer, other
    for peer in peers:
        for other in others if peer.is_reversed(own.bgp.labels) else ():
            if peer.serves(other.name, other.bgp.labels):
                yield "Node", peer, other


def _with_router(node: NodeView, peer: BGPPeer, kind: str, template: Peer) -> Iterator[Peer]:
    node_addresses = {family.address for each in node.peers for family in each.families}
    for family in node.families:
        if family.version == ip.version_of(peer.address) and peer.address != family.address:
            yield bgp.session(
                template,
                bgp.peer_name(kind, peer.address),
                peer.address,
                peer.spec.as_number or 0,
                port=peer.port,
                is_node=peer.address in node_addresses,
                gets_learned=peer.address not in node_addresses,
                is_direct=ip.is_in(peer.address, family.subnet),
            )


def _with_node(
    own: Entry, other: Entry, settings: Settings, kind: str, template: Peer
) -> Iterator[Peer]:
    """Yield the sessions with another node, one for each family."""
    reflects = is_reflector(own, settings)
    is_same_as = as_number(settings, own.bgp) == as_number(settings, other.bgp)
    is_apart = (
        own.bgp.cluster_id != other.bgp.cluster_id
        if own.bgp.cluster_id
        else other.name not in settings.reflectors
    )
    for family, far in zip(own.families, other.families, strict=True):
        yield bgp.session(
            template,
            bgp.peer_name(kind, far.address),
            far.address,
            as_number(settings, other.bgp),
            is_client=reflects and is_same_as and is_apart,
            gets_learned=reflects,
            is_direct=family.subnet == far.subnet,
        )


def _template(node: NodeView, peer: BGPPeer) -> Peer:
    """Return a session with those settings of a BGPPeer that do not depend on the other end."""
    spec = peer.spec
    return Peer(
        "",
        "",
        password=node.bgp_view.password(spec.password),
        own_as_allowed=spec.num_allowed_local_as_numbers or 0,
        restart_time_s=round(duration_s(spec.max_restart_time) or 0),
        local_as=spec.local_as_number or 0,
        next_hop=_NEXT_HOPS[spec.next_hop_mode or "Auto"],
        has_source=spec.source_address == "UseNodeIP",
        max_hops=spec.ttl_security or 0,
    )


def _completed(
    node: NodeView, own: Entry, peer: BGPPeer, session: Peer, settings: Settings
) -> Peer:
    """Return the session of a BGPPeer with what depends on the other end.

    Between autonomous systems the node announces itself as next hop, unless it is to keep the
    original one: all sessions of Calico are `multihop`, for which this is BGP's default. Sessions
    within a network are `direct` here, because BIRD then does not look for a route to the peer.
    keepOriginalNextHop has no effect within an autonomous system.
    """
    is_internal = session.as_number == (session.local_as or as_number(settings, own.bgp))
    view, version = node.bgp_view, ip.version_of(session.address)
    next_hop = session.next_hop
    if not next_hop and not is_internal:
        next_hop = "keep" if peer.spec.keep_original_next_hop else "self"
    return structs.replace(
        session,
        next_hop=next_hop,
        # A socket that is bound to the node's address cannot leave it to the routes.
        has_source=session.has_source or view.configuration.bind_mode == "NodeIP",
        imports=calico_filters.rules(view, peer, "import", version, is_internal=is_internal),
        exports=calico_filters.rules(view, peer, "export", version, is_internal=is_internal),
    )
