"""Diagnostics of BGP by annotations of kube-router: routers without BGP, and unused settings."""

from __future__ import annotations

from collections.abc import Iterator

from kubenetlab.api.core import Node
from kubenetlab.api.lab import NetworkFacts
from kubenetlab.api.plugins import kube_router
from kubenetlab.api.plugins.kube_router import RouterPeer
from kubenetlab.api.store import Cluster
from kubenetlab.api.values import ip
from kubenetlab.datapath.pod_networks import pod_network
from kubenetlab.datapath.view import NodeView
from kubenetlab.diagnostics.model import (
    BGP_PEER_ABSENT,
    BGP_PEER_UNUSED,
    BGP_SETTING_UNUSED,
    Diagnostic,
)
from kubenetlab.diagnostics.templates import Templates

_PLUGIN = "kube-router"


def check_kube_router(cluster: Cluster, templates: Templates) -> Iterator[Diagnostic]:
    """Yield the diagnostics of annotations of nodes, if the CNI plugin is kube-router."""
    facts = cluster.get(NetworkFacts, "", "network") or NetworkFacts()
    if facts.plugin != _PLUGIN:
        return
    options = cluster.config.networking.cni_mode[1]
    _, views = pod_network(cluster)
    by_name = {view.name: view for view in views}
    has_mesh = str(options.get("nodesFullMesh", "")).lower()
    for node in cluster.all(Node):
        annotations, view = node.metadata.annotations, by_name[node.name]
        path = ("metadata", "annotations", kube_router.AS_NUMBER)
        if kube_router.AS_NUMBER in annotations:
            if has_mesh == "true" or (not has_mesh and not view.router_as):
                yield Diagnostic.of(
                    node,
                    BGP_SETTING_UNUSED,
                    path,
                    "has no effect: with a full mesh, all nodes are in the autonomous system "
                    "clusterAsn",
                    "set nodesFullMesh to false",
                )
        elif has_mesh == "false":
            yield Diagnostic.of(
                node,
                BGP_SETTING_UNUSED,
                ("metadata", "annotations"),
                f"without a full mesh and without the annotation {kube_router.AS_NUMBER}, "
                "kube-router starts no BGP in a cluster; here the node has no sessions with others",
                "add the annotation, or set nodesFullMesh to true",
            )
        for peer in view.bgp.kube_router.peers:
            yield from _peer_diagnostics(cluster, node, peer, list(by_name.values()))


def _peer_diagnostics(
    cluster: Cluster, node: Node, peer: RouterPeer, views: list[NodeView]
) -> Iterator[Diagnostic]:
    """Yield what is wrong with a router of the annotations."""
    annotations = node.metadata.annotations
    key = kube_router.PEERS if kube_router.PEERS in annotations else kube_router.PEER_ADDRESSES
    path = ("metadata", "annotations", key)
    view = next(each for each in views if each.name == node.name)
    settings = cluster.config.fabric.bgp
    version = ip.version_of(peer.address)
    families = [family for family in view.families if family.version == version]
    numbers = range(1, view.routers + 1)
    routers = [family.router_address(number) for family in families for number in numbers]
    nodes = [family.address for each in views for family in each.families]
    if not families:
        message = f"no session with {peer.address}: the node has no IPv{version} address"
        yield Diagnostic.of(node, BGP_PEER_UNUSED, path, message)
    elif peer.address in routers and settings is not None:
        if peer.as_number != settings.as_number:
            message = (
                f"no session with {peer.address}: the router is in AS {settings.as_number} "
                f"(fabric.bgp), and refuses sessions that expect AS {peer.as_number}"
            )
            yield Diagnostic.of(node, BGP_PEER_UNUSED, path, message)
    elif peer.address not in nodes:
        message = f"nothing at {peer.address} has BGP in this lab: the session is never established"
        hint = ("set fabric.bgp, so that the router has BGP",) if peer.address in routers else ()
        yield Diagnostic.of(node, BGP_PEER_ABSENT, path, message, *hint)
