"""bridge: the pods of a node share the bridge cbr0; other nodes' pods are reached by a plain route via their node.

    pod eth0 ── veth0 ┐                                    ┌ veth0 ── eth0 pod
    pod eth0 ── veth1 ┴ cbr0 (node) eth0 ── fabric ── eth0 (node) cbr0 ┴ veth1 ── eth0 pod

Overhead: 0 bytes.  Needs: all nodes on one layer-2 segment.  As in: kubenet, flannel's backend host-gw.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from kubenetlab import names
from kubenetlab.datapath.modes import ModeOptions, Needs, PodNetwork
from kubenetlab.datapath.view import NodeView, PodView
from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.link import Bridge, Port, Veth
from kubenetlab.hoststate.neighbor import Neighbor
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.route import Route
from kubenetlab.hoststate.sandbox import Sysctl

DEFAULT_ROUTE = "0.0.0.0/0"


class Mode(ModeOptions, frozen=True):
    """Options: `layout` and `neighbors`; `auto` lets `up` choose by the machine and the number of pods, and say so.

    layout     onlink: pods are in their node's /24, the bridge switches between them; Services need br_netfilter.
               routed: each pod is a /32, all its traffic goes through the node.
    neighbors  dynamic: ARP finds the others, to be watched.  permanent: entries with deterministic MACs, for larger labs.
    """

    needs = Needs(programs=("nft",), features=("bridge", "veth", "nft nat"))

    layout: Literal["auto", "onlink", "routed"] = "auto"
    neighbors: Literal["auto", "dynamic", "permanent"] = "auto"

    def network(self, node: NodeView) -> PodNetwork:
        return PodNetwork(node.mtu, node.cluster_cidr)

    def node(self, node: NodeView) -> Iterator[Object]:
        bridge, gateway = names.POD_BRIDGE, node.gateway
        yield Sysctl(node.netns, "net/bridge/bridge-nf-call-iptables", "1", is_optional=node.layout == "routed")
        yield Bridge(node.netns, bridge, names.mac_of(gateway), node.mtu, names.link_alias("cni bridge", f"pods of {node.name}"))
        # The node has one address, its own: the bridge's is of scope link, so that neither what the node sends to its pods nor
        # what it masquerades towards them takes it as a source; and the route names the node's address.
        yield Address(node.netns, bridge, f"{gateway}/{node.pod_network.prefixlen}", scope="link", has_route=False)
        yield Route(node.netns, node.pod_cidr, bridge, source=node.address, scope="link")
        for peer in node.peers:
            yield Route(node.netns, peer.pod_cidr, names.NODE_UPLINK, via=peer.address)

    def pod(self, node: NodeView, pod: PodView) -> Iterator[Object]:
        if pod.is_host_network:
            return
        here, link, address, ifname = pod.netns, names.POD_LINK, pod.address, pod.ifname
        alias = names.link_alias("cni bridge", f"pod {pod.full_name}")
        yield Veth(here, link, names.mac_of(address), node.netns, ifname, node.mtu, alias)
        yield Port(node.netns, ifname, names.POD_BRIDGE, names.port_mac_of(address), node.mtu, alias, is_hairpin=True)
        if node.layout == "onlink":
            yield Address(here, link, f"{address}/{node.pod_network.prefixlen}")
        else:
            yield Address(here, link, f"{address}/32")
            yield Route(here, f"{node.gateway}/32", link, scope="link")
        yield Route(here, DEFAULT_ROUTE, link, via=node.gateway)
        if node.neighbors == "permanent":
            yield Neighbor(node.netns, names.POD_BRIDGE, address, names.mac_of(address))
            yield Neighbor(here, link, node.gateway, names.mac_of(node.gateway))
        if node.neighbors == "permanent" and node.layout == "onlink":
            for other in node.pods:
                if not other.is_host_network and other.address != address:
                    yield Neighbor(here, link, other.address, names.mac_of(other.address))
