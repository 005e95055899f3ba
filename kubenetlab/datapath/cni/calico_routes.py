"""Routes of nodes with Calico: which nodes announce them, and which nodes get them.

Source: projectcalico/calico confd/pkg/backends/calico/routes.go (3.30).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from kubenetlab.api.calico.bgp_filters import Direction
from kubenetlab.api.values import ip
from kubenetlab.datapath.cni import calico_filters
from kubenetlab.datapath.cni.calico_bgp import (
    Entry,
    Settings,
    are_neighbors,
    as_number,
    bgp_peer,
    entries,
    is_reflector,
)
from kubenetlab.datapath.cni.calico_blocks import own_blocks
from kubenetlab.datapath.network import bgp
from kubenetlab.datapath.network.bgp_policy import Rule, accepts
from kubenetlab.datapath.view import NodeView

_ROUTER: Final = ""
"""Name of the fabric's router among the names of nodes."""


def heard(node: NodeView, settings: Settings) -> frozenset[str]:
    """Return the names of the nodes whose routes a node gets.

    Directly, by a route reflector, or by the fabric's router. A route that the router does not pass
    on has another node as next hop, which must be on the same segment.
    """
    if node.router_as:
        return frozenset(peer.name for peer in node.peers)
    by_name = {entry.name: entry for entry in entries(node)}
    names = bgp.reached(
        node.name,
        by_name,
        lambda one, other: are_neighbors(node, by_name[one], by_name[other], settings),
        lambda name: is_reflector(by_name[name], settings),
    )
    return frozenset(
        peer.name for peer in node.peers if peer.name in names and node.is_on_link(peer)
    )


def learned(node: NodeView, settings: Settings) -> tuple[str, ...]:
    """Return the blocks of other nodes to which a node certainly gets routes."""
    return tuple(block for block, _, is_accepted in _announced_to(node, settings) if is_accepted)


def refused(node: NodeView, settings: Settings) -> dict[str, str]:
    """Return the blocks of other nodes that filters keep from a node: block → its node."""
    if not node.bgp_view.filters:
        return {}
    announced = _announced_to(node, settings)
    return {block: owner for block, owner, is_accepted in announced if is_accepted is False}


def _announced_to(node: NodeView, settings: Settings) -> Iterator[tuple[str, str, bool | None]]:
    """Yield (block, its node, decision of filters) for blocks that are announced to a node."""
    names, has_filters = heard(node, settings), bool(node.bgp_view.filters)
    for peer in node.peers:
        for family in peer.families if peer.name in names else ():
            for block in own_blocks(node, family, is_encapsulated=False):
                is_accepted = not has_filters or decision(node, settings, peer.name, block)
                yield block, peer.name, is_accepted


def decision(node: NodeView, settings: Settings, owner: str, prefix: str) -> bool | None:
    """Return True if filters let a prefix of another node get to a node, and False if not.

    Return None if the filters depend on attributes of the route, such as communities.

    owner: name of the node that announces the prefix.
    """
    by_name: dict[str, Entry | None] = {entry.name: entry for entry in entries(node)}
    forwarding = [
        entry.name
        for entry in by_name.values()
        if entry is not None and is_reflector(entry, settings)
    ]
    if node.router_as:
        by_name[_ROUTER] = None
        forwarding.append(_ROUTER)
    reached: dict[str, bool | None] = {owner: True}
    unread = [owner]
    while unread:
        one = unread.pop(0)
        for other in dict.fromkeys((node.name, *forwarding)):
            if other == one or reached.get(other):
                continue
            hop = _hop(node, by_name[one], by_name[other], prefix, settings, is_first=one == owner)
            state = True if hop and reached[one] else None
            if hop is False or (other in reached and reached[other] is state):
                continue
            reached[other] = state
            if other in forwarding:
                unread.append(other)
    return reached.get(node.name, False)


def _hop(
    node: NodeView,
    one: Entry | None,
    other: Entry | None,
    prefix: str,
    settings: Settings,
    *,
    is_first: bool,
) -> bool | None:
    """Return True if `one` exports a prefix to `other`, which imports it.

    None as an end is the fabric's router. The result is None if it depends on attributes.

    is_first: True if `one` has not learned the prefix from a peer.
    """
    if one is not None and other is not None and not are_neighbors(node, one, other, settings):
        return False
    results: list[bool | None] = []
    if one is not None:
        exports = _rules_of(node, one, other, "export", prefix, settings)
        results.append(accepts(exports, prefix, is_learned=not is_first))
    if other is not None:
        imports = _rules_of(node, other, one, "import", prefix, settings)
        results.append(accepts(imports, prefix, is_learned=True))
    return False if False in results else (None if None in results else True)


def _rules_of(
    node: NodeView,
    own: Entry,
    far: Entry | None,
    direction: Direction,
    prefix: str,
    settings: Settings,
) -> tuple[Rule, ...]:
    """Return the rules of a node for its session with another one, or with the router."""
    version = ip.version_of(prefix)
    family = next(each for each in own.families if each.version == version)
    if far is None:
        address, far_as = family.router_address(), node.router_as
    else:
        address = next(each.address for each in far.families if each.version == version)
        far_as = as_number(settings, far.bgp)
    peer = bgp_peer(node.bgp_view.peers, own, far, address)
    if peer is None:
        return ()
    own_as = peer.spec.local_as_number or as_number(settings, own.bgp)
    return calico_filters.rules(
        node.bgp_view, peer, direction, version, is_internal=own_as == far_as
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
