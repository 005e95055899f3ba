"""Policies of sessions with Calico, from BGPFilters and prefix advertisements.

The rules of the BGPFilters of a BGPPeer are considered in order. A route that none of them accepts
or rejects is imported; it is exported if it is a block of a pool or a range of Services, with the
communities of the prefix advertisements. A route that a rule has accepted gets no such communities.

Source: projectcalico/calico confd/pkg/backends/calico/bgp_processor.go (buildImportFilter,
buildExportFilter, processCommunityRules) and confd/pkg/resource/template/template_funcs.go
(filterStatement) (3.32).
"""

from __future__ import annotations

from collections.abc import Iterator

from kubenetlab.api.calico.bgp import BGPPeer
from kubenetlab.api.calico.bgp_filters import Direction, FilterRule
from kubenetlab.api.values import ip
from kubenetlab.datapath.bgp_view import BGPView
from kubenetlab.datapath.network.bgp_policy import Mark, Rule


def rules(
    view: BGPView, peer: BGPPeer | None, direction: Direction, version: int, *, is_internal: bool
) -> tuple[Rule, ...]:
    """Return the rules of a session for a direction; empty without a BGPPeer, as in the mesh.

    A filter that does not exist has no effect. A rule with a priority, which the lab does not
    enforce, is left out.

    is_internal: True if both ends are in the same autonomous system.
    """
    if peer is None or not view.filters:
        return ()
    found = (view.filters.get(name) for name in peer.spec.filters)
    return tuple(
        _rule(rule, version, f"BGPFilter {filter_.name}")
        for filter_ in found
        if filter_ is not None
        for rule in filter_.rules(direction, version)
        if rule.priority is None and rule.peer_type in ("", "iBGP" if is_internal else "eBGP")
    )


def marks(view: BGPView, node: str, version: int) -> tuple[Mark, ...]:
    """Return the communities of the routes that a node announces.

    The BGPConfiguration of the node replaces the prefix advertisements of all nodes.
    """
    own = view.of_nodes.get(node)
    spec = own if own is not None and own.prefix_advertisements else view.configuration
    return tuple(
        Mark(cidr, communities)
        for cidr, communities in spec.marks
        if ip.version_of(cidr) == version and communities
    )


def _rule(rule: FilterRule, version: int, origin: str) -> Rule:
    lengths = rule.prefix_length
    least = lengths.min if lengths is not None and lengths.min is not None else 0
    most = lengths.max if lengths is not None and lengths.max is not None else 128
    return Rule(
        rule.action == "Accept",
        rule.cidr,
        rule.match_operator or "In",
        (least, most),
        is_learned=rule.source == "RemotePeers",
        interface=rule.interface,
        community=rule.communities.values[0] if rule.communities is not None else "",
        as_path=rule.as_path_prefix,
        added_communities=tuple(_communities(rule)),
        prepended=tuple(_prepended(rule)),
        origin=origin,
    )


def _communities(rule: FilterRule) -> Iterator[str]:
    for operation in rule.operations:
        if operation.add_community is not None:
            yield operation.add_community.value


def _prepended(rule: FilterRule) -> Iterator[int]:
    """Yield the AS numbers of all operations, the last operation's first."""
    for operation in reversed(rule.operations):
        if operation.prepend_as_path is not None:
            yield from operation.prepend_as_path.prefix
