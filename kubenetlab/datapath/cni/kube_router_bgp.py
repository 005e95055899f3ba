"""BGP sessions of nodes with kube-router: within the cluster, and with routers.

With a full mesh all nodes are in one autonomous system. Without, only nodes whose annotations have
the same AS number are each other's peers. A client of route reflectors has sessions with them only.
Routers get the node's own ranges and addresses of Services, with the communities and the AS numbers
of the node's annotations.

Source: cloudnativelabs/kube-router pkg/controllers/routing/bgp_peers.go (syncInternalPeers),
bgp_policies.go (addExportPolicies, addImportPolicies) and network_routes_controller.go (2.5).
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct, structs

from kubenetlab.api.values import ip
from kubenetlab.datapath.bgp_view import BGPNode
from kubenetlab.datapath.network import bgp
from kubenetlab.datapath.network.bgp import Peer
from kubenetlab.datapath.network.bgp_policy import Mark, Rule, accepts
from kubenetlab.datapath.view import NodeView


class Settings(Struct, frozen=True):
    """BGP of the cluster, from the options of the mode."""

    as_number: int
    """Autonomous system of nodes without one of their own."""
    has_mesh: bool
    """True if all nodes are each other's peers."""


def as_number(settings: Settings, node: BGPNode) -> int:
    """Return the autonomous system of a node; with a full mesh all nodes are in one."""
    own = 0 if settings.has_mesh else node.kube_router.as_number
    return own or settings.as_number


def sessions(node: NodeView, settings: Settings) -> tuple[Peer, ...]:
    """Return the sessions of a node, one for each address.

    A router of an annotation takes precedence over the session with the fabric's router.
    """
    own = node.bgp.kube_router
    marks = (
        (Mark(communities=own.communities, prepended=own.prepended),)
        if own.communities or own.prepended
        else ()
    )
    number = as_number(settings, node.bgp)
    routers = [*_of_annotations(node, number), *bgp.sessions_with_router(node, number)]
    peers = [
        *(structs.replace(peer, marks=marks) for peer in routers),
        *_within_cluster(node, settings),
    ]
    by_address: dict[str, Peer] = {}
    for peer in peers:
        by_address.setdefault(peer.address, peer)
    return tuple(
        structs.replace(peer, imports=_refusing(own.refused, ip.version_of(peer.address)))
        for peer in by_address.values()
    )


def heard(node: NodeView, settings: Settings) -> frozenset[str]:
    """Return the names of the nodes from which a node gets routes.

    Directly, by route reflectors, or by the fabric's router. A route that the router does not pass
    on has another node as next hop, which must be on the same segment.
    """
    if node.router_as:
        return frozenset(peer.name for peer in node.peers)
    nodes = {node.name: node.bgp, **{peer.name: peer.bgp for peer in node.peers}}
    names = bgp.reached(
        node.name,
        nodes,
        lambda one, other: _are_neighbors(settings, nodes[one], nodes[other]),
        lambda name: nodes[name].kube_router.is_reflector,
    )
    return frozenset(
        peer.name for peer in node.peers if peer.name in names and node.is_on_link(peer)
    )


def is_refused(node: NodeView, prefix: str) -> bool:
    """Return True if a node accepts no route to a prefix."""
    rules = _refusing(node.bgp.kube_router.refused, ip.version_of(prefix))
    return not accepts(rules, prefix, is_learned=True)


def _are_neighbors(settings: Settings, first: BGPNode, second: BGPNode) -> bool:
    one, other = first.kube_router, second.kube_router
    is_same_as = settings.has_mesh or (one.as_number and one.as_number == other.as_number)
    return bool(
        is_same_as
        and (other.is_reflector or not one.is_client)
        and (one.is_reflector or not other.is_client)
    )


def _within_cluster(node: NodeView, settings: Settings) -> Iterator[Peer]:
    own, number = node.bgp.kube_router, as_number(settings, node.bgp)
    others = [each for each in node.peers if _are_neighbors(settings, node.bgp, each.bgp)]
    is_client = {
        family.address: own.is_reflector and each.bgp.kube_router.is_client
        for each in others
        for family in each.families
    }
    for peer in bgp.mesh(node.families, [each.families for each in others], number):
        yield structs.replace(
            peer, is_client=is_client[peer.address], gets_learned=own.is_reflector
        )


def _of_annotations(node: NodeView, number: int) -> Iterator[Peer]:
    """Yield the sessions with the routers of the node's annotations.

    GoBGP has sessions with other autonomous systems over one hop only.

    number: autonomous system of the node.
    """
    own, passwords = node.bgp.kube_router, node.bgp.passwords
    families = {family.version: family for family in node.families}
    nodes = {family.address for each in node.peers for family in each.families}
    for router, password in zip(own.peers, passwords, strict=True):
        family = families.get(ip.version_of(router.address))
        if family is not None and router.address != family.address:
            yield Peer(
                bgp.peer_name("Node", router.address),
                router.address,
                router.as_number,
                is_node=router.address in nodes,
                is_direct=router.as_number != number or ip.is_in(router.address, family.subnet),
                gets_learned=own.is_reflector,
                source=router.source,
                port=router.port,
                password=password,
                own_as_allowed=0 if router.as_number == number else 1,
            )


def _refusing(ranges: tuple[str, ...], version: int) -> tuple[Rule, ...]:
    return tuple(
        Rule(False, cidr, origin="customimportreject") for cidr in ip.of_version(ranges, version)
    )
