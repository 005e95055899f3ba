"""Pods on a bridge of their node: what the CNI modes of this kind have in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal, Self

from msgspec import structs

from kubenetlab import names
from kubenetlab.api.masquerade import MasqueradeConfig
from kubenetlab.api.values import ip
from kubenetlab.datapath.encapsulation import Encapsulation
from kubenetlab.datapath.modes import LabSize, ModeOptions, Neighbors, OverlayLink, PodNetwork
from kubenetlab.datapath.network import egress
from kubenetlab.datapath.pod_view import PodView
from kubenetlab.datapath.sandboxes import link_local
from kubenetlab.datapath.view import NodeView
from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.links.bridge import Bridge
from kubenetlab.hoststate.links.veth import Port, Veth
from kubenetlab.hoststate.neighbor import Neighbor
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.peers import Peers
from kubenetlab.hoststate.route import Route
from kubenetlab.hoststate.sandbox import Sysctl

MAX_ONLINK_PODS = 64
"""Maximum number of pods per node in the layout `onlink`.

Pods on one subnet need n² permanent neighbour entries of half a kilobyte of kernel memory each.
With 100 pods per node these take a tenth of the time of `up`, and 50 MB in a lab of 1,000 pods. The
layout `routed` needs two entries per pod.
"""


class PodsOnBridge(ModeOptions, frozen=True):
    """Options of every CNI mode with a bridge on each node.

    layout: auto | onlink | routed
        onlink  Pods are in the /24 of their node, and the bridge switches between them. Services
                need br_netfilter, since packets between pods of a node do not pass its IP layer.
        routed  Each pod has a /32 (IPv6: /128), and its node routes all its traffic.
        auto    `up` decides: onlink if the kernel has br_netfilter and no node has more than 64
                pods, else routed. A running lab keeps its layout.

    neighbors: auto | dynamic | permanent
        dynamic    MAC addresses are resolved by ARP and neighbour discovery, which can be watched.
        permanent  Neighbour entries with deterministic MACs, for larger labs.
        auto       `up` decides: dynamic while the lab needs at most 256 entries, else permanent.
    """

    bridge: ClassVar[str]
    """Name of the bridge."""
    component: ClassVar[str]
    """Name of the mode in aliases of links: `cni bridge`."""
    link_prefix: ClassVar[str] = "veth"
    """Prefix of the names of the pods' links on the node."""

    gateway_is_source: ClassVar[bool] = False
    """True if packets from the node to its pods have the bridge's address as source."""

    layout: Literal["auto", "onlink", "routed"] = "auto"
    neighbors: Neighbors = "auto"

    @property
    def desired_neighbors(self) -> Neighbors:
        return self.neighbors

    def decide(self, lab: LabSize, settled: Self | None) -> tuple[Self, tuple[str, ...]]:
        """Choose the layout; a running lab keeps its own."""
        chosen, reason = self._layout(lab)
        layout = chosen if settled is None else settled.layout
        shape = (
            f"pods on their node's subnet, switched by {self.bridge}"
            if layout == "onlink"
            else "each pod a /32, routed by its node"
        )
        return structs.replace(self, layout=layout), (f"{shape}: {reason}",)

    def dynamic_neighbors(self, lab: LabSize) -> int:
        """Return how many entries the kernel may learn: on a subnet each pod may resolve all."""
        on_subnet = sum(count * (count - 1) for count in lab.pods_per_node)
        return super().dynamic_neighbors(lab) + (on_subnet if self.layout == "onlink" else 0)

    def mtu(self, node: NodeView) -> int:
        """Return the MTU of pods and bridge."""
        return node.mtu

    @property
    def encapsulations(self) -> tuple[Encapsulation, ...]:
        """Outer headers of packets between nodes; empty if the mode has no tunnels."""
        return ()

    def overlay_links(self, node: NodeView) -> Iterator[OverlayLink]:
        """Yield the links by which packets to pods of other nodes leave, except the uplink."""
        return iter(())

    def network(self, node: NodeView) -> PodNetwork:
        return PodNetwork(
            self.mtu(node),
            node.cluster_cidrs,
            self.bridge,
            self.link_prefix,
            overlay_links=tuple(self.overlay_links(node)),
            encapsulations=self.encapsulations,
        )

    def node(self, node: NodeView) -> Iterator[Object]:
        """Yield the bridge with its addresses, and the route to the pods on it."""
        primary = node.families[0]
        yield Sysctl(
            node.netns,
            "net/bridge/bridge-nf-call-iptables",
            "1",
            is_optional=self.layout == "routed",
        )
        yield Bridge(
            node.netns,
            self.bridge,
            names.mac_of(primary.gateway),
            self.mtu(node),
            names.link_alias(self.component, f"pods of {node.name}"),
        )
        for family in node.families:
            address = f"{family.gateway}/{family.pod_network.prefixlen}"
            if self.gateway_is_source:
                yield Address(node.netns, self.bridge, address)
                continue
            # The bridge's address must not become a source: packets that the node sends to its
            # pods, or masquerades towards them, use the node's own address.
            yield Address(node.netns, self.bridge, address, is_source=False, has_route=False)
            yield Route(node.netns, family.pod_cidr, self.bridge, source=family.address)
        yield from link_local(
            node.netns, self.bridge, names.mac_of(primary.gateway), has_ipv6=node.has_ipv6
        )

    def netfilter_bypass(self, *, has_br_netfilter: bool) -> str:
        shares_bridge = self.layout == "onlink" and not has_br_netfilter
        return "pods share a bridge, and this kernel has no br_netfilter" if shares_bridge else ""

    def masquerade(self, node: NodeView, config: MasqueradeConfig | None) -> Iterator[Object]:
        return egress.rules(node, config)

    def pod(self, node: NodeView, pod: PodView) -> Iterator[Object]:
        if pod.is_host_network:
            return
        netns, link = pod.netns, names.POD_LINK
        alias = names.link_alias(self.component, f"pod {pod.full_name}")
        yield Veth(netns, link, pod.mac, node.netns, pod.ifname, self.mtu(node), alias)
        yield Port(
            node.netns,
            pod.ifname,
            self.bridge,
            pod.port_mac,
            self.mtu(node),
            alias,
            is_hairpin=True,
        )
        for family, address in zip(node.families, pod.addresses, strict=True):
            if self.layout == "onlink" and ip.is_in(address, family.pod_cidr):
                yield Address(netns, link, f"{address}/{family.pod_network.prefixlen}")
            else:
                yield Address(netns, link, f"{address}/{family.host_length}")
                yield Route(netns, f"{family.gateway}/{family.host_length}", link)
            yield Route(netns, family.default_route, link, via=family.gateway)
        yield from link_local(netns, link, pod.mac, has_ipv6=node.has_ipv6)
        if node.neighbors == "permanent":
            yield from self._neighbors(node, pod)

    def _neighbors(self, node: NodeView, pod: PodView) -> Iterator[Object]:
        """Yield permanent neighbour entries.

        The node has an entry for the pod, the pod has entries for the gateway and for the pods on
        its subnet.
        """
        mac, gateway_mac = pod.mac, names.mac_of(node.families[0].gateway)
        for address in pod.addresses:
            yield Neighbor(node.netns, self.bridge, address, mac)
        for family in node.families:
            yield Neighbor(pod.netns, names.POD_LINK, family.gateway, gateway_mac)
        if self.layout == "onlink":
            for table, own in zip(node.pod_macs, pod.addresses, strict=True):
                if len(table) > 1:
                    yield Peers(pod.netns, names.POD_LINK, table, own)

    def _layout(self, lab: LabSize) -> tuple[Literal["onlink", "routed"], str]:
        """Return the layout of a new lab, and the reason."""
        largest = max(lab.pods_per_node, default=0)
        if self.layout != "auto":
            return self.layout, "as asked for"
        if not lab.has_br_netfilter:
            return (
                "routed",
                "this kernel has no br_netfilter, which Services need where pods share a bridge",
            )
        if largest > MAX_ONLINK_PODS:
            return "routed", f"a node has {largest} pods, more than {MAX_ONLINK_PODS}"
        return "onlink", "the kernel has br_netfilter"
