"""Diagnostics of BGP: peers without sessions, missing passwords, and nodes without routes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kubenetlab.api.calico.bgp import (
    PLUGIN_NAMESPACE,
    BGPConfiguration,
    BGPPassword,
    BGPPeer,
)
from kubenetlab.api.calico.bgp_filters import BGPFilter
from kubenetlab.api.lab import NetworkFacts
from kubenetlab.api.meta import Resource
from kubenetlab.api.store import Cluster
from kubenetlab.api.text.documents import Path
from kubenetlab.api.values import ip
from kubenetlab.datapath import modes
from kubenetlab.datapath.bgp_view import password_fault
from kubenetlab.datapath.network.bgp import BGPMode, bgp_mode
from kubenetlab.datapath.pod_networks import pod_network
from kubenetlab.datapath.view import NodeView
from kubenetlab.diagnostics.model import (
    BGP_PASSWORD_MISSING,
    BGP_PEER_ABSENT,
    BGP_PEER_UNUSED,
    BGP_ROUTE_MISSING,
    BGP_SETTING_UNUSED,
    Diagnostic,
    Scope,
    pods_of_nodes,
)
from kubenetlab.diagnostics.templates import Templates

_PLUGIN = "calico"


def check_bgp(cluster: Cluster, templates: Templates) -> Iterator[Diagnostic]:
    """Yield the diagnostics of BGPPeers, of passwords, and of nodes that learn no route."""
    name, options = cluster.config.networking.cni_mode
    mode = bgp_mode(modes.load("cni", name, options))
    facts = cluster.get(NetworkFacts, "", "network") or NetworkFacts()
    is_calico = facts.plugin == _PLUGIN
    reason = (
        "with these options of calico no node runs BIRD"
        if is_calico
        else f"only calico uses BGPPeers, and the CNI mode is {name}"
    )
    if mode is None or not is_calico:
        for peer in cluster.all(BGPPeer):
            yield _unused(peer, (), reason)
    if mode is None:
        for filter_ in cluster.all(BGPFilter) if is_calico else ():
            yield _without_effect(filter_, (), reason)
        return
    _, views = pod_network(cluster)
    if is_calico:
        for peer in cluster.all(BGPPeer):
            yield from _peer_diagnostics(cluster, peer, views)
        yield from _filter_diagnostics(cluster)
        yield from _configuration_diagnostics(cluster, views)
    yield from _route_diagnostics(cluster, mode, views)
    yield from _refused_diagnostics(cluster, mode, views)


def _configuration_diagnostics(cluster: Cluster, views: Sequence[NodeView]) -> Iterator[Diagnostic]:
    """Yield BGPConfigurations of nodes that do not exist, and a password without a Secret."""
    names = [view.name for view in views]
    for configuration in cluster.all(BGPConfiguration):
        if configuration.node and configuration.node not in names:
            reason = f"the cluster has no such node; it has: {', '.join(names)}"
            yield _without_effect(configuration, ("metadata", "name"), reason)
        yield from _password_diagnostics(
            cluster,
            configuration,
            configuration.spec.node_mesh_password,
            ("spec", "nodeMeshPassword"),
        )


def _filter_diagnostics(cluster: Cluster) -> Iterator[Diagnostic]:
    """Yield names of filters that do not exist, and filters that no BGPPeer names."""
    filters = {filter_.name: filter_ for filter_ in cluster.all(BGPFilter)}
    used: set[str] = set()
    for peer in cluster.all(BGPPeer):
        used.update(peer.spec.filters)
        for index, name in enumerate(peer.spec.filters):
            if name not in filters:
                known = ", ".join(filters) or "none"
                reason = f"there is no BGPFilter {name}; the cluster has: {known}"
                yield _without_effect(peer, ("spec", "filters", index), reason)
    for name, filter_ in filters.items():
        if name not in used:
            reason = "no BGPPeer names it in spec.filters; sessions of the mesh have no filters"
            yield _without_effect(filter_, (), reason)


def _refused_diagnostics(
    cluster: Cluster, mode: BGPMode, views: Sequence[NodeView]
) -> Iterator[Diagnostic]:
    """Yield ranges of pods that filters keep from other nodes."""
    refused = [
        (view.name, block, owner) for view in views for block, owner in mode.refused(view).items()
    ]
    if not refused:
        return
    node, block, owner = refused[0]
    yield _missing_route(
        cluster,
        [(name, other) for name, _, other in refused],
        f"{node} gets no route to {block} of {owner}",
        "filters of the BGP sessions reject it",
        "accept the ranges of pods in the filters of sessions between nodes",
    )


def _route_diagnostics(
    cluster: Cluster, mode: BGPMode, views: Sequence[NodeView]
) -> Iterator[Diagnostic]:
    """Yield nodes without a session with each other, and without a common reflector."""
    missing = []
    for view in views:
        heard = mode.heard(view)
        missing += [
            (view.name, peer.name)
            for peer in view.peers
            if peer.name not in heard and (view.is_on_link(peer) or view.router_as)
        ]
    if missing:
        node, other = missing[0]
        yield _missing_route(
            cluster,
            missing,
            f"{node} gets no route to the pods of {other}",
            "the nodes have no BGP session with each other, and none with the same route reflector",
            "enable the mesh of nodes, or select both nodes by a BGPPeer",
        )


def _missing_route(
    cluster: Cluster, pairs: Sequence[tuple[str, str]], first: str, reason: str, hint: str
) -> Diagnostic:
    """Return the diagnostic of routes that nodes do not get.

    pairs: name of the node and of the one with the pods, for each route.
    first: description of the first of these routes.
    """
    more = f", and {len(pairs) - 1} more routes" if len(pairs) > 1 else ""
    pods = pods_of_nodes(cluster, sorted({name for pair in pairs for name in pair}))
    return Diagnostic.of(
        cluster.config,
        BGP_ROUTE_MISSING,
        ("networking", "cni"),
        f"{first}{more}: {reason}",
        hint,
        scope=Scope(into=pods, out_of=pods),
    )


def _peer_diagnostics(
    cluster: Cluster, peer: BGPPeer, views: Sequence[NodeView]
) -> Iterator[Diagnostic]:
    spec = peer.spec
    selected = [view for view in views if peer.serves(view.name, view.bgp.labels)]
    if not selected:
        field = "node" if spec.node else "nodeSelector"
        names = ", ".join(view.name for view in views)
        yield _unused(peer, ("spec", field), f"selects no node; the cluster has: {names}")
    elif spec.peer_selector:
        if not any(
            peer.selects_peer(other.bgp.labels) for view in selected for other in view.peers
        ):
            yield _unused(peer, ("spec", "peerSelector"), "selects no node at the other end")
    else:
        yield from _router_diagnostics(cluster, peer, selected, views)
    yield from _password_diagnostics(cluster, peer, spec.password, ("spec", "password"))


def _router_diagnostics(
    cluster: Cluster, peer: BGPPeer, selected: Sequence[NodeView], views: Sequence[NodeView]
) -> Iterator[Diagnostic]:
    """Yield what is wrong with the router at the other end."""
    versions = [family.version for family in selected[0].families]
    version = ip.version_of(peer.address)
    if version not in versions:
        message = f"no node has an IPv{version} address for a session with {peer.address}"
        yield _unused(peer, ("spec", "peerIP"), message)
        return
    settings = cluster.config.fabric.bgp
    nodes = {family.address for view in views for family in view.families}
    routers = {family.router_address() for view in selected for family in view.families}
    if peer.address in routers and settings is not None:
        if peer.spec.as_number != settings.as_number:
            yield _unused(
                peer,
                ("spec", "asNumber"),
                f"the router at {peer.address} is in AS {settings.as_number} (fabric.bgp), and "
                f"refuses sessions that expect AS {peer.spec.as_number}",
            )
    elif peer.address not in nodes:
        is_router = peer.address in routers
        yield Diagnostic.of(
            peer,
            BGP_PEER_ABSENT,
            ("spec", "peerIP"),
            f"nothing at {peer.address} has BGP in this lab: the session is never established",
            *(("set fabric.bgp, so that the router has BGP",) if is_router else ()),
        )


def _password_diagnostics(
    cluster: Cluster, owner: Resource, password: BGPPassword | None, path: Path
) -> Iterator[Diagnostic]:
    """Yield a password without a Secret; sessions without it are those of the other end only."""
    reference = password.secret_key_ref if password is not None else None
    if reference is not None and (fault := password_fault(cluster, reference)):
        yield Diagnostic.of(
            owner,
            BGP_PASSWORD_MISSING,
            (*path, "secretKeyRef"),
            f"{fault}: the sessions have no password",
            f"passwords are in Secrets of the namespace {PLUGIN_NAMESPACE}",
        )


def _unused(peer: BGPPeer, path: Path, reason: str) -> Diagnostic:
    return Diagnostic.of(peer, BGP_PEER_UNUSED, path, f"has no session: {reason}")


def _without_effect(owner: Resource, path: Path, reason: str) -> Diagnostic:
    return Diagnostic.of(owner, BGP_SETTING_UNUSED, path, f"has no effect: {reason}")
