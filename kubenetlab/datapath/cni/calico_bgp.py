"""BGP sessions of nodes with Calico: of BGPPeers, of the mesh, and with the fabric's router.

Source: projectcalico/calico confd/pkg/backends/calico/client.go (updatePeersV1) and
confd/etc/calico/confd/templates/bird.cfg.template (3.30).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal

from msgspec import Struct

from kubenetlab.api.calico.bgp import BGPPeer
from kubenetlab.api.values import ip
from kubenetlab.datapath.bgp_view import BGPNode
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


class _Entry(Struct, frozen=True):
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
    return tuple(by_address.values())


def heard(node: NodeView, settings: Settings) -> frozenset[str]:
    """Return the names of the nodes whose routes a node gets.

    Directly, by a route reflector, or by the fabric's router. A route that the router does not pass
    on has another node as next hop, which must be on the same segment.
    """
    if node.router_as:
        return frozenset(peer.name for peer in node.peers)
    entries = _entries(node)
    by_name = {entry.name: entry for entry in entries}
    names, unread = {node.name}, [entries[0]]
    while unread:
        entry = unread.pop()
        for name in _neighbors(node, entry, entries, settings) - names:
            names.add(name)
            if _is_reflector(by_name[name], settings):
                unread.append(by_name[name])
    return frozenset(
        peer.name for peer in node.peers if peer.name in names and node.is_on_link(peer)
    )


def service_prefixes(node: NodeView) -> tuple[str, ...]:
    """Return the prefixes with addresses of Services that a node announces.

    Each node announces the ranges of the BGPConfiguration. An address of a Service with
    externalTrafficPolicy Local has a prefix of its own, from nodes with ready endpoints; so has an
    external or a load balancer's address whose range is that address alone, if there is the
    Service.

    Source: projectcalico/calico confd/pkg/backends/calico/routes.go (3.30).
    """
    spec = node.bgp_view.configuration
    ranges = {
        "clusterip": spec.service_cluster_ips,
        "externalip": spec.service_external_ips,
        "loadbalancerip": spec.service_load_balancer_ips,
    }
    prefixes: dict[str, None] = {}
    for kind, blocks in ranges.items():
        for block in blocks:
            if not node.bgp.is_excluded and (kind == "clusterip" or not ip.is_host(block.cidr)):
                prefixes[str(ip.network(block.cidr))] = None
            for service in node.services:
                if service.kind != kind or not ip.is_in(service.address, block.cidr):
                    continue
                if service.is_external_local:
                    is_announced = node.name in (service.nodes or ())
                else:
                    is_announced = ip.is_host(block.cidr) and not node.bgp.is_excluded
                if is_announced:
                    prefixes[service.prefix] = None
    return tuple(prefixes)


def service_ranges(node: NodeView) -> tuple[str, ...]:
    """Return the ranges of the BGPConfiguration, of which no node adds routes to its kernel.

    Source: projectcalico/calico confd/etc/calico/confd/templates/bird_ipam.cfg.template (3.30),
    filter calico_kernel_programming.
    """
    spec = node.bgp_view.configuration
    blocks = (
        *spec.service_cluster_ips,
        *spec.service_external_ips,
        *spec.service_load_balancer_ips,
    )
    return tuple(dict.fromkeys(str(ip.network(block.cidr)) for block in blocks))


def _own(node: NodeView) -> _Entry:
    return _Entry(node.name, node.families, node.bgp)


def _entries(node: NodeView) -> list[_Entry]:
    """Return all nodes, the given one first."""
    return [_own(node), *(_Entry(each.name, each.families, each.bgp) for each in node.peers)]


def _neighbors(
    node: NodeView, entry: _Entry, entries: Sequence[_Entry], settings: Settings
) -> set[str]:
    """Return the names of the nodes with which a node has a session."""
    peers = node.bgp_view.peers
    return {
        other.name
        for other in entries
        if other is not entry
        and (_is_in_mesh(entry, other, settings) or (peers and _are_joined(peers, entry, other)))
    }


def _are_joined(peers: Sequence[BGPPeer], first: _Entry, second: _Entry) -> bool:
    """Return True if BGPPeers make two nodes neighbours.

    To a session by `peerSelector`, Calico adds the one at the other end. Of sessions by `peerIP`,
    both are needed.
    """
    pairs = ((first, second), (second, first))
    return any(
        peer.serves(one.name, one.bgp.labels) and peer.selects_peer(other.bgp.labels)
        for one, other in pairs
        for peer in peers
    ) or all(
        any(
            peer.address == family.address and peer.serves(one.name, one.bgp.labels)
            for peer in peers
            for family in other.families
        )
        for one, other in pairs
    )


def _is_reflector(entry: _Entry, settings: Settings) -> bool:
    return bool(entry.bgp.cluster_id) or entry.name in settings.reflectors


def _is_in_mesh(first: _Entry, second: _Entry, settings: Settings) -> bool:
    """Return True if two nodes have a session without a BGPPeer.

    Nodes with the id of a cluster have no sessions of the mesh. By the option of the mode, each
    node has sessions with the reflectors instead.
    """
    if settings.reflectors:
        return first.name in settings.reflectors or second.name in settings.reflectors
    return settings.has_mesh and not (first.bgp.cluster_id or second.bgp.cluster_id)


def _of_mesh(node: NodeView, own: _Entry, settings: Settings) -> Iterator[Peer]:
    password = node.bgp_view.password(node.bgp_view.configuration.node_mesh_password)
    kind = "Node" if settings.reflectors else "Mesh"
    for other in _entries(node)[1:]:
        if _is_in_mesh(own, other, settings):
            yield from _with_node(node, own, other, settings, kind, Peer("", "", password=password))


def _of_options(node: NodeView, settings: Settings) -> Iterator[Peer]:
    versions = [family.version for family in node.families]
    for router in settings.routers:
        is_for_node = node.name in (router.nodes or (node.name,))
        if is_for_node and ip.version_of(router.address) in versions:
            name = bgp.peer_name("Global", router.address)
            yield Peer(name, router.address, router.as_number, is_node=False, is_direct=False)


def _of_bgp_peers(node: NodeView, own: _Entry, settings: Settings) -> Iterator[Peer]:
    """Yield the sessions of BGPPeers for all nodes, of those for some, and the reverse ones."""
    peers = node.bgp_view.peers
    of_node = [peer for peer in peers if peer.serves(own.name, own.bgp.labels)]
    is_global = {peer.name: not (peer.spec.node or peer.spec.node_selector) for peer in peers}
    for peer in sorted(of_node, key=lambda each: not is_global[each.name]):
        kind = "Global" if is_global[peer.name] else "Node"
        if peer.spec.peer_ip:
            yield from _with_router(node, peer, kind)
        for other in _entries(node)[1:]:
            if peer.selects_peer(other.bgp.labels):
                yield from _with_node(node, own, other, settings, kind, _template(node, peer))
    for peer in peers:
        if peer.selects_peer(own.bgp.labels):
            for other in _entries(node)[1:]:
                if peer.serves(other.name, other.bgp.labels):
                    template = _template(node, peer)
                    yield from _with_node(node, own, other, settings, "Node", template)


def _with_router(node: NodeView, peer: BGPPeer, kind: str) -> Iterator[Peer]:
    node_addresses = {family.address for each in node.peers for family in each.families}
    for family in node.families:
        if family.version == ip.version_of(peer.address):
            template = _template(node, peer)
            yield bgp.session(
                template,
                bgp.peer_name(kind, peer.address),
                peer.address,
                peer.spec.as_number or 0,
                port=peer.port,
                is_node=peer.address in node_addresses,
                is_direct=ip.is_in(peer.address, family.subnet),
            )


def _with_node(
    node: NodeView, own: _Entry, other: _Entry, settings: Settings, kind: str, template: Peer
) -> Iterator[Peer]:
    """Yield the sessions with another node, one for each family."""
    is_reflector = _is_reflector(own, settings)
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
            is_client=is_reflector and is_same_as and is_apart,
            gets_learned=is_reflector,
            is_direct=family.subnet == far.subnet,
        )


def _template(node: NodeView, peer: BGPPeer) -> Peer:
    """Return a session with the settings of a BGPPeer."""
    spec = peer.spec
    mode = "Keep" if spec.keep_original_next_hop else spec.next_hop_mode
    return Peer(
        "",
        "",
        password=node.bgp_view.password(spec.password),
        own_as_allowed=spec.num_allowed_local_as_numbers or 0,
        local_as=spec.local_as_number or 0,
        next_hop=_NEXT_HOPS[mode or "Auto"],
        has_source=spec.source_address == "UseNodeIP",
        max_hops=spec.ttl_security or 0,
    )
