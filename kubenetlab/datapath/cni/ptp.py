"""ptp: a pair of links for each pod, routed by its node, and routes between nodes.

  pod eth0 ─ veth… ┐                            ┌ veth… ─ eth0 pod
                   ├ node ── eth0 fabric eth0 ──┤ node
  pod eth0 ─ veth… ┘                            └ veth… ─ eth0 pod

There is no bridge: the node's end of each pair has the address of the gateway, and the node has a
route to each pod, and to the pod range of every other node. Packets between pods stay unchanged;
packets from a node to its pods have the gateway's address as source.

Overhead: none.
Needs: all nodes on one layer-2 segment. On a routed fabric there are no routes to the pods of other
segments, and `up` says so.
As in: kind's default network, kindnet, with the plugins ptp and host-local (v1.9). Differences, as
comparisons with the plugins found them: the routes have the protocol `static`, and those to pods
the scope `link`. Addresses of pods have the flag noprefixroute; the plugin deletes the route that
the kernel adds. Addresses have no broadcast address. IPv6 addresses are used without duplicate
address detection, and the sysctls arp_notify and keep_addr_on_down of eth0 in pods are not set.
Links have link-local addresses, which the lab chooses.
"""

from __future__ import annotations

from collections.abc import Iterator

from kubenetlab import names
from kubenetlab.api.config import ClusterConfig
from kubenetlab.api.lab import NetworkFacts
from kubenetlab.api.masquerade import MasqueradeConfig
from kubenetlab.api.plugins.host_local import HostLocal
from kubenetlab.api.text.decode import Finding
from kubenetlab.api.validate.host_local import host_local_findings
from kubenetlab.datapath.modes import ModeOptions, Needs, Neighbors, PodNetwork
from kubenetlab.datapath.network import egress
from kubenetlab.datapath.pod_view import PodView
from kubenetlab.datapath.sandboxes import link_local
from kubenetlab.datapath.view import NodeView
from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.links.veth import Veth, VethPeer
from kubenetlab.hoststate.neighbor import Neighbor
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.route import Route


class Mode(ModeOptions, frozen=True):
    """Options, as in the mode bridge.

    ipam: {rangeStart, rangeEnd, gateway}

    neighbors: auto | dynamic | permanent
    """

    needs = Needs(programs=("nft",), features=("veth", "nft nat"))
    facts = NetworkFacts(plugin="ptp", host_ifname="veth{id}")
    ipam: HostLocal = HostLocal()
    neighbors: Neighbors = "auto"

    @property
    def desired_neighbors(self) -> Neighbors:
        return self.neighbors

    @property
    def needs_one_segment(self) -> bool:
        return True

    def config_findings(self, config: ClusterConfig) -> Iterator[Finding]:
        return host_local_findings(config, self.ipam)

    def network(self, node: NodeView) -> PodNetwork:
        return PodNetwork(node.mtu, node.cluster_cidrs, link_prefix="veth")

    def node(self, node: NodeView) -> Iterator[Object]:
        for peer in node.peers:
            for family in peer.families if node.is_on_link(peer) else ():
                yield Route(node.netns, family.pod_cidr, names.NODE_UPLINK, via=family.address)

    def masquerade(self, node: NodeView, config: MasqueradeConfig | None) -> Iterator[Object]:
        return egress.rules(node, config)

    def pod(self, node: NodeView, pod: PodView) -> Iterator[Object]:
        if pod.is_host_network:
            return
        ends = {
            (pod.netns, names.POD_LINK): pod.mac,
            (node.netns, pod.ifname): pod.port_mac,
        }
        ((own_end, mac), (far_end, far_mac)) = ends.items()
        alias = names.link_alias("cni ptp", f"pod {pod.full_name}")
        yield Veth(*own_end, mac, *far_end, node.mtu, alias)
        yield VethPeer(*far_end, far_mac, node.mtu, alias)
        for end, end_mac in ends.items():
            yield from link_local(*end, end_mac, has_ipv6=node.has_ipv6)
        for family, address in zip(node.families, pod.addresses, strict=True):
            host, gateway = (f"{text}/{family.host_length}" for text in (address, family.gateway))
            yield Address(*own_end, f"{address}/{family.pod_network.prefixlen}", has_route=False)
            yield Route(pod.netns, gateway, names.POD_LINK, source=address)
            for destination, source in ((family.pod_cidr, address), (family.default_route, "")):
                yield Route(pod.netns, destination, names.POD_LINK, family.gateway, source)
            yield Address(*far_end, gateway)
            yield Route(node.netns, host, pod.ifname)
            if node.neighbors == "permanent":
                yield Neighbor(*own_end, family.gateway, far_mac)
                yield Neighbor(*far_end, address, mac)
