"""calico: every pod routed by its node, blocks of addresses, and BGP or tunnels between nodes.

  pod eth0 ─ cali… ┐                                    ┌ cali… ─ eth0 pod
                   ├ node: routes ── fabric ── routes ──┤
  pod eth0 ─ cali… ┘                                    └ cali… ─ eth0 pod

There is no bridge. A pod has an address with the length of a host and sends everything to
169.254.1.1, which no host has: its node answers ARP requests for it (proxy ARP) and routes the
packet. The node has a route to each of its pods, and for each block of addresses that it owns a
blackhole, so that packets to unused addresses do not leave it again. Blocks come from IPPools; the
first one covers the pod range of the cluster.

With the backend `bgp` every node runs BIRD, announces its blocks to the other nodes and learns
theirs; nothing is encapsulated. With `vxlan` and `ipip`, calico-node itself routes the blocks of
other nodes to vxlan.calico, with permanent neighbours and forwarding entries, or to tunl0. An
IPPool says itself how its packets are encapsulated; the backend decides on the first pool. Packets
between pods keep both addresses. Packets from pools with natOutgoing to addresses outside of all
pools, such as nodes and external hosts, get the address of their node.

BGPConfiguration, BGPPeer and BGPFilter configure sessions in addition to the options below. Nodes
can have the annotations projectcalico.org/ASNumber and projectcalico.org/RouteReflectorClusterID.

Network policies: NetworkPolicies of Kubernetes and of Calico (projectcalico.org/v3),
GlobalNetworkPolicies and the policies of administrators are enforced, by default with the chains of
Calico's iptables data plane (see `explain policy iptables`). Policies of one tier are evaluated in
order, NetworkPolicies of Kubernetes with order 1000 in the tier `default`. Policies of Calico also
apply to connections of a pod to its own node, and to itself by a Service; those of Kubernetes do
not, which differs from Calico. Host endpoints, HTTP matches and labels of service accounts are
reported as not enforced.

With `wireguard: true` packets between pods of different nodes are encrypted, whatever the backend:
the links are wireguard.cali (UDP port 51820) and, for IPv6, wg-v6.cali (51821). The blocks of other
nodes are routed to them in the tables 1 and 2, which a rule of priority 99 selects; encrypted
packets have the firewall mark 0x200000, for which the rule does not apply. The keys are made at
random with the lab and kept in its store; nothing shows them. Packets from nodes to pods of other
nodes are encrypted, too, and have the address of the link as their source; those between nodes are
not (as without wireguardHostEncryptionEnabled).

Overhead: none with `bgp`, 50 bytes with `vxlan` (IPv6 between nodes: 70), 20 bytes with `ipip`; 60
bytes with `wireguard` (IPv6: 80), which replaces the tunnels of the backend.
Needs: with `wireguard`, a kernel with WireGuard.
As in: Calico 3.30 with the nftables data plane, and BIRD 2 instead of Calico's BIRD 1.6. Routes by
tunl0 are those of Felix, not of BIRD. Routes that Felix adds have the protocol `static` here, and
80 or none there. The sysctl proxy_ndp of the links of pods is not set, because the IPv6 gateway of
a pod is the link-local address of its link.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Final, Literal

from msgspec import Meta, structs

from kubenetlab import names
from kubenetlab.api.calico.ip_pools import EncapsulationMode, IPPool, IPPoolSpec
from kubenetlab.api.config import ClusterConfig
from kubenetlab.api.lab import NetworkFacts
from kubenetlab.api.masquerade import MasqueradeConfig
from kubenetlab.api.meta import Record, Resource
from kubenetlab.api.store import Cluster
from kubenetlab.api.text.decode import Finding, found
from kubenetlab.api.text.documents import Path
from kubenetlab.api.values import ip
from kubenetlab.datapath.cni import calico_agent, calico_bgp, calico_routes
from kubenetlab.datapath.cni import calico_wireguard as wireguard
from kubenetlab.datapath.cni.calico_bgp import ExternalRouter
from kubenetlab.datapath.cni.calico_blocks import (
    VXLAN_LINKS,
    VXLAN_TUNNELS,
    overlay_links,
    own_blocks,
    pool_of,
)
from kubenetlab.datapath.cni.calico_rules import nat_outgoing
from kubenetlab.datapath.cni.tunnels import vxlan_end, vxlan_peer
from kubenetlab.datapath.cni.unused_options import unused_options
from kubenetlab.datapath.encapsulation import by_wireguard, encapsulations
from kubenetlab.datapath.modes import ModeOptions, Needs, Neighbors, PodNetwork
from kubenetlab.datapath.network import bgp, bird
from kubenetlab.datapath.pod_view import PodView
from kubenetlab.datapath.sandboxes import link_local
from kubenetlab.datapath.view import DEFAULT_ROUTES, Family, NodeView
from kubenetlab.errors import did_you_mean
from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.links import ipip
from kubenetlab.hoststate.links.veth import Veth, VethPeer
from kubenetlab.hoststate.links.vxlan import OVERHEAD_BYTES
from kubenetlab.hoststate.neighbor import Neighbor
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.route import Route

HOST_MAC: Final = "ee:ee:ee:ee:ee:ee"
"""MAC address of the node's ends of all pods' links."""
GATEWAY: Final = "169.254.1.1"
"""Default gateway of pods."""
"""IP version → name of the IPPool for the pod range of the cluster."""
_WIREGUARD_FEATURES: Final = ("wireguard", "policy routing")
_COMPONENT: Final = "cni calico"
_BGP_OPTIONS: Final = ("as_number", "node_to_node_mesh", "route_reflectors", "peers")


class ExternalPeer(Record, frozen=True):
    """A router outside of the cluster."""

    address: str
    as_number: Annotated[int, Meta(ge=1, le=0xFFFFFFFF)]
    nodes: tuple[str, ...] = ()
    """Names of the nodes that have sessions with it; all nodes if empty."""


class Mode(ModeOptions, frozen=True):
    """Options of BGP, of the first IPPool, of tunnels and of neighbours.

    backend: bgp | vxlan | ipip
        bgp    BIRD exchanges the routes of nodes.
        vxlan  Packets between nodes are encapsulated in UDP.
        ipip   IPv4 packets between nodes are encapsulated in IPv4; IPv6 has routes by BGP.

    asNumber: autonomous system of the nodes (64512).

    nodeToNodeMesh: true | false
        Whether each node has a session with each other node. By default true, and false on a
        fabric whose router has BGP (`fabric.bgp`): there, nodes have sessions with the router.

    routeReflectors: names of nodes
        Nodes have sessions only with these, instead of a full mesh.

    peers: list of {address, asNumber, nodes}
        Routers outside of the cluster with which all nodes, or the given ones, have sessions.

    crossSubnet: true | false
        Encapsulate only packets to nodes of other subnets; others are routed.

    blockSize: prefix length of the IPv4 blocks of the first pool (26).

    wireguard: true | false
        Encrypt packets between nodes (false); wireguardEnabled of upstream's FelixConfiguration.

    natOutgoing: true | false
        Masquerade packets from the first pool to addresses outside of all pools (true).

    vni, port: identifier of the tunnel (4096) and its UDP port (4789).

    neighbors: auto | dynamic | permanent
        dynamic    MAC addresses are resolved by ARP and neighbour discovery, which can be watched.
        permanent  Neighbour entries with deterministic MACs, for larger labs.
        auto       `up` decides: dynamic while the lab needs at most 256 entries, else permanent.
    """

    needs = Needs(
        programs=("nft", "bird"),
        features=("veth", "nft nat"),
        own_features=("vxlan", "ipip", *_WIREGUARD_FEATURES),
    )
    facts = NetworkFacts(
        plugin="calico",
        host_ifname="cali{workload}",
        ipam="calico",
        has_gateway=False,
        agent=calico_agent.AGENT,
        encryption_option="wireguard",
    )
    masquerader = "calico-node"
    policy_engines = ("iptables", "nftables", "none")

    backend: Literal["bgp", "vxlan", "ipip"] = "bgp"
    as_number: Annotated[int, Meta(ge=1, le=0xFFFFFFFF)] = bgp.DEFAULT_AS
    node_to_node_mesh: bool | None = None
    route_reflectors: tuple[str, ...] = ()
    peers: tuple[ExternalPeer, ...] = ()
    cross_subnet: bool = False
    block_size: Annotated[int, Meta(ge=20, le=32)] = 26
    wireguard: bool = False
    nat_outgoing: bool = True
    vni: Annotated[int, Meta(ge=1, le=0xFFFFFF)] = 4096
    port: Annotated[int, Meta(ge=1, le=0xFFFF)] = 4789
    neighbors: Neighbors = "auto"

    @property
    def requirements(self) -> Needs:
        """Requirements of the backend; `pool_features` has those of users' own pools."""
        features = {"bgp": (), "vxlan": ("vxlan",), "ipip": ("ipip",)}[self.backend]
        features += _WIREGUARD_FEATURES if self.wireguard else ()
        programs = ("nft",) if self.backend == "vxlan" else ("nft", "bird")
        return structs.replace(self.needs, programs=programs, own_features=features)

    def findings(self) -> Iterator[Finding]:
        for index, peer in enumerate(self.peers):
            if not ip.is_address(peer.address):
                yield Finding(
                    ("peers", index, "address"), f"expected an address, found {found(peer.address)}"
                )
        unused = {"bgp": ("cross_subnet",), "vxlan": _BGP_OPTIONS}.get(self.backend, ())
        yield from unused_options(self, *unused, because=f"backend: {self.backend}")

    def config_findings(self, config: ClusterConfig) -> Iterator[Finding]:
        named: list[tuple[Path, str]] = [
            (("networking", "cni", "routeReflectors", index), name)
            for index, name in enumerate(self.route_reflectors)
        ]
        named += [
            (("networking", "cni", "peers", index, "nodes", number), name)
            for index, peer in enumerate(self.peers)
            for number, name in enumerate(peer.nodes)
        ]
        for path, name in named:
            if name not in config.node_names:
                guess = did_you_mean(name, config.node_names)
                yield Finding(path, f'no node of this cluster is called "{name}"{guess}')

    def routes_pool(self, pool: IPPool) -> bool:
        return self.wireguard or self.backend != "vxlan" or bool(pool.spec.tunnels)

    def pool_features(self, pool: IPPool) -> Mapping[str, str]:
        """Return the features of the pool's tunnels; a disabled pool gets none."""
        spec = pool.spec
        has_tunnels = not spec.disabled and "Tunnel" in spec.allowed_uses
        return {f"{kind}Mode": kind for kind in spec.tunnels} if has_tunnels else {}

    @property
    def needs_one_segment(self) -> bool:
        return self.backend == "bgp" and not self.wireguard

    @property
    def desired_neighbors(self) -> Neighbors:
        return self.neighbors

    def manifests(self, cluster: Cluster) -> Iterator[Resource]:
        """Yield calico-node, and the IPPool of each family for which the cluster has none yet."""
        yield from calico_agent.manifests("bird" if self.backend != "vxlan" else "vxlan")
        template = IPPoolSpec(
            "",
            self.block_size,
            ipip_mode=self._mode_of("ipip"),
            vxlan_mode=self._mode_of("vxlan"),
            nat_outgoing=self.nat_outgoing,
        )
        yield from calico_agent.default_pools(cluster, template)

    def _mode_of(self, backend: str) -> EncapsulationMode:
        """Return how the first pool uses a kind of tunnel."""
        if self.backend != backend:
            return "Never"
        return "CrossSubnet" if self.cross_subnet else "Always"

    def mtu(self, node: NodeView) -> int:
        """Return the MTU of pods: that of the tunnels of all pools, and of encryption."""
        overheads = [0]
        if self.wireguard:
            overheads += [node.mtu - wireguard.mtu(node, each.version) for each in node.families]
        for pool in node.ip_pools:
            if pool.spec.vxlan_mode != "Never":
                overheads.append(OVERHEAD_BYTES[pool.spec.network.version])
            if pool.spec.ipip_mode != "Never":
                overheads.append(ipip.OVERHEAD_BYTES)
        return node.mtu - max(overheads)

    def network(self, node: NodeView) -> PodNetwork:
        specs = [pool.spec for pool in node.ip_pools]
        has_vxlan = any(spec.vxlan_mode != "Never" for spec in specs)
        has_ipip = any(spec.ipip_mode != "Never" for spec in specs)
        outer = encapsulations(self.port if has_vxlan else 0, has_ipip=has_ipip)
        if self.wireguard:
            outer = by_wireguard(wireguard.PORTS[family.version] for family in node.families)
        return PodNetwork(
            self.mtu(node),
            node.cluster_cidrs,
            link_prefix="cali",
            overlay_links=tuple(overlay_links(node)),
            encapsulations=outer,
        )

    def node(self, node: NodeView) -> Iterator[Object]:
        for index, family in enumerate(node.families):
            if VXLAN_TUNNELS[family.version] in family.tunnels:
                yield from self._vxlan_end(node, family)
            if "ipip" in family.tunnels:
                yield from self._ipip_end(node, family)
            for block in own_blocks(node, family, is_encapsulated=True):
                yield Route(node.netns, block, "", type="blackhole")
            for peer in node.peers:
                is_on_link = node.is_on_link(peer)
                yield from self._to_peer(node, peer.families[index], is_on_link=is_on_link)
            if self.wireguard:
                yield from wireguard.tunnels(node, index, _COMPONENT)
        if self.has_bgp:
            learned = calico_routes.learned(node, self._bgp_settings(node))
            yield from bird.bird(node.netns, self.speaker(node), learned)

    @property
    def has_bgp(self) -> bool:
        return self.backend != "vxlan"

    def speaker(self, node: NodeView) -> bgp.Speaker:
        """Return the speaker that announces the node's blocks of pools without encapsulation."""
        settings = self._bgp_settings(node)
        blocks = [
            block
            for family in node.families
            for block in own_blocks(node, family, is_encapsulated=False)
        ]
        return bgp.Speaker(
            bgp.router_id(node.addresses),
            node.addresses,
            calico_bgp.sessions(node, settings),
            announced=tuple(block for block in blocks if ip.is_host(block)),
            blackholes=tuple(block for block in blocks if not ip.is_host(block)),
            services=calico_routes.service_prefixes(node),
            unprogrammed=calico_routes.service_ranges(node),
            as_number=calico_bgp.as_number(settings, node.bgp),
            cluster_id=node.bgp.cluster_id,
            is_bound=node.bgp_view.configuration.bind_mode == "NodeIP",
        )

    def heard(self, node: NodeView) -> frozenset[str]:
        return calico_routes.heard(node, self._bgp_settings(node))

    def refused(self, node: NodeView) -> Mapping[str, str]:
        return calico_routes.refused(node, self._bgp_settings(node))

    def _bgp_settings(self, node: NodeView) -> calico_bgp.Settings:
        """Return the settings of the BGPConfiguration, or else of the options."""
        configuration = node.bgp_view.configuration
        meshes = (configuration.node_to_node_mesh_enabled, self.node_to_node_mesh)
        return calico_bgp.Settings(
            configuration.as_number or self.as_number,
            next((mesh for mesh in meshes if mesh is not None), not node.router_as),
            self.route_reflectors,
            tuple(ExternalRouter(each.address, each.as_number, each.nodes) for each in self.peers),
        )

    def _vxlan_end(self, node: NodeView, family: Family) -> Iterator[Object]:
        link = VXLAN_LINKS[family.version]
        yield vxlan_end(node, family, link, self.vni, self.port, _COMPONENT)
        tunnel = family.tunnels[VXLAN_TUNNELS[family.version]]
        yield Address(node.netns, link, f"{tunnel}/{family.host_length}")

    def _ipip_end(self, node: NodeView, family: Family) -> Iterator[Object]:
        alias = names.link_alias(_COMPONENT, f"tunnels of {node.name}")
        yield ipip.FallbackIpip(node.netns, mtu=node.mtu - ipip.OVERHEAD_BYTES, alias=alias)
        yield Address(node.netns, ipip.FALLBACK_NAME, f"{family.tunnels['ipip']}/32")

    def _to_peer(self, node: NodeView, peer: Family, *, is_on_link: bool) -> Iterator[Object]:
        """Yield the routes to the encapsulated blocks of another node.

        is_on_link: True if the other node is on the same subnet, so that it can be a gateway.
        """
        link = VXLAN_LINKS[peer.version]
        tunnel = peer.tunnels.get(VXLAN_TUNNELS[peer.version])
        if tunnel is not None:
            yield from vxlan_peer(node, link, peer, tunnel)
        for block in peer.ranges:
            pool = pool_of(node, block)
            modes = (pool.spec.vxlan_mode, pool.spec.ipip_mode) if pool is not None else ()
            if "CrossSubnet" in modes and is_on_link:
                yield Route(node.netns, block, names.NODE_UPLINK, via=peer.address)
            elif pool is not None and pool.spec.vxlan_mode != "Never" and tunnel is not None:
                yield Route(node.netns, block, link, tunnel, is_onlink=True)
            elif pool is not None and pool.spec.ipip_mode != "Never":
                name = ipip.FALLBACK_NAME
                yield Route(node.netns, block, name, peer.address, is_onlink=True)

    def masquerade(self, node: NodeView, config: MasqueradeConfig | None) -> Iterator[Object]:
        """Yield the rules for natOutgoing; the ConfigMap of ip-masq-agent has no effect."""
        yield from nat_outgoing(node)

    def pod(self, node: NodeView, pod: PodView) -> Iterator[Object]:
        if pod.is_host_network:
            return
        netns, link = pod.netns, names.POD_LINK
        alias = names.link_alias(_COMPONENT, f"pod {pod.full_name}")
        mac, mtu = pod.mac, self.mtu(node)
        has_ipv4 = any(family.version == 4 for family in node.families)
        yield Veth(netns, link, mac, node.netns, pod.ifname, mtu, alias)
        yield VethPeer(
            node.netns,
            pod.ifname,
            HOST_MAC,
            mtu,
            alias,
            has_proxy_arp=has_ipv4,
            is_source_checked=has_ipv4,
        )
        yield from link_local(netns, link, mac, has_ipv6=node.has_ipv6)
        yield from link_local(node.netns, pod.ifname, HOST_MAC, has_ipv6=node.has_ipv6)
        for family, address in zip(node.families, pod.addresses, strict=True):
            gateway = GATEWAY if family.version == 4 else names.link_local_of(HOST_MAC)
            host = f"{address}/{family.host_length}"
            yield Address(netns, link, host)
            if family.version == 4:
                yield Route(netns, f"{gateway}/32", link)
            yield Route(netns, DEFAULT_ROUTES[family.version], link, via=gateway)
            yield Route(node.netns, host, pod.ifname)
            if node.neighbors == "permanent":
                yield Neighbor(netns, link, gateway, HOST_MAC)
                yield Neighbor(node.netns, pod.ifname, address, mac)
