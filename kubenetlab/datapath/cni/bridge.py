"""bridge: the pods of a node share the bridge cbr0; other nodes' pods are reached by a plain route via their node.

    pod eth0 ── veth0 ┐                                    ┌ veth0 ── eth0 pod
    pod eth0 ── veth1 ┴ cbr0 (node) eth0 ── fabric ── eth0 (node) cbr0 ┴ veth1 ── eth0 pod

Overhead: 0 bytes.  Needs: all nodes on one layer-2 segment.  As in: kubenet, flannel's backend host-gw.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from kubenetlab import names
from kubenetlab.api.lab import NetworkFacts
from kubenetlab.datapath.modes import ModeOptions, Needs, PodNetwork
from kubenetlab.datapath.sandboxes import link_local
from kubenetlab.datapath.view import NodeView, PodView
from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.link import Bridge, Port, Veth
from kubenetlab.hoststate.neighbor import Neighbor
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.peers import Peers
from kubenetlab.hoststate.route import Route
from kubenetlab.hoststate.sandbox import Sysctl

_LINK_PREFIX = "veth"


class Mode(ModeOptions, frozen=True):
    """Options: `layout` and `neighbors`; `auto` lets `up` choose by the machine and the number of pods, and say so.

    layout     onlink: pods are in their node's /24, the bridge switches between them; Services need br_netfilter.
               routed: each pod is a /32, all its traffic goes through the node.
    neighbors  dynamic: ARP finds the others, to be watched.  permanent: entries with deterministic MACs, for larger labs.
    """

    needs = Needs(programs=("nft",), features=("bridge", "veth", "nft nat"))

    layout: Literal["auto", "onlink", "routed"] = "auto"
    neighbors: Literal["auto", "dynamic", "permanent"] = "auto"

    facts = NetworkFacts(
        plugin="bridge", host_ifname=_LINK_PREFIX + "{number}", bridge=names.POD_BRIDGE
    )

    def network(self, node: NodeView) -> PodNetwork:
        return PodNetwork(node.mtu, node.cluster_cidrs, names.POD_BRIDGE, _LINK_PREFIX)

    def node(self, node: NodeView) -> Iterator[Object]:
        bridge, primary = names.POD_BRIDGE, node.families[0]
        yield Sysctl(
            node.netns,
            "net/bridge/bridge-nf-call-iptables",
            "1",
            is_optional=node.layout == "routed",
        )
        yield Bridge(
            node.netns,
            bridge,
            names.mac_of(primary.gateway),
            node.mtu,
            names.link_alias("cni bridge", f"pods of {node.name}"),
        )
        for family in node.families:
            # The node has one address, its own: the bridge's is no source, so that neither what the node sends to its pods nor
            # what it masquerades towards them takes it; and the route names the node's address.
            yield Address(
                node.netns,
                bridge,
                f"{family.gateway}/{family.pod_network.prefixlen}",
                is_source=False,
                has_route=False,
            )
            yield Route(node.netns, family.pod_cidr, bridge, source=family.address)
        yield from link_local(
            node.netns, bridge, names.mac_of(primary.gateway), has_ipv6=node.has_ipv6
        )
        for peer in node.peers:
            for family in peer.families:
                yield Route(node.netns, family.pod_cidr, names.NODE_UPLINK, via=family.address)

    def pod(self, node: NodeView, pod: PodView) -> Iterator[Object]:
        if pod.is_host_network:
            return
        here, link, primary = pod.netns, names.POD_LINK, pod.addresses[0]
        alias = names.link_alias("cni bridge", f"pod {pod.full_name}")
        yield Veth(here, link, names.mac_of(primary), node.netns, pod.ifname, node.mtu, alias)
        yield Port(
            node.netns,
            pod.ifname,
            names.POD_BRIDGE,
            names.port_mac_of(primary),
            node.mtu,
            alias,
            is_hairpin=True,
        )
        for family, address in zip(node.families, pod.addresses, strict=True):
            if node.layout == "onlink":
                yield Address(here, link, f"{address}/{family.pod_network.prefixlen}")
            else:
                yield Address(here, link, f"{address}/{family.host_length}")
                yield Route(here, f"{family.gateway}/{family.host_length}", link)
            yield Route(here, family.default_route, link, via=family.gateway)
        yield from link_local(here, link, names.mac_of(primary), has_ipv6=node.has_ipv6)
        if node.neighbors == "permanent":
            yield from _neighbors(node, pod)


def _neighbors(node: NodeView, pod: PodView) -> Iterator[Object]:
    """Written down instead of asked for: the pod on its node, the gateway in the pod, and who is on the same link."""
    mac, gateway_mac = names.mac_of(pod.addresses[0]), names.mac_of(node.families[0].gateway)
    for address in pod.addresses:
        yield Neighbor(node.netns, names.POD_BRIDGE, address, mac)
    for family in node.families:
        yield Neighbor(pod.netns, names.POD_LINK, family.gateway, gateway_mac)
    if node.layout == "onlink":
        for table, own in zip(node.pod_macs, pod.addresses, strict=True):
            if len(table) > 1:
                yield Peers(pod.netns, names.POD_LINK, table, own)
