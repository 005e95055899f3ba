"""cilium: no bridge; eBPF programs forward packets between pods, each pod with an identity.

  pod eth0 ─ lxc… ┐              UDP datagrams               ┌ lxc… ─ eth0 pod
                  ├ cilium_vxlan ═ eth0 ═ eth0 ═ cilium_vxlan ┤
  pod eth0 ─ lxc… ┘      (node)      fabric      (node)      └ lxc… ─ eth0 pod
                  └ stack ─ cilium_host ─ programs ─ pods

Each pod has a /32 address, and its gateway is the address of cilium_host: the first address of its
node's range. A program at the pod's link (cil_from_container) sends packets for pods of the same
node to their links, and packets for other nodes to the tunnel. Packets of the node itself, and
from outside, are routed to cilium_host, where another program (cil_from_host) sends them on. With
`routingMode: native` the nodes route packets for each other's pods, and nothing is encapsulated.

Every set of labels has a numeric identity from 256 on; 1 is the host, 2 the world, 6 a remote node.
The VXLAN network identifier of a packet is the identity of its sender. The map cilium_ipcache holds
the identity of every address, cilium_lxc the node's own pods, cilium_ct the connections, and the
ring buffer cilium_events has an event for each verdict. The same programs enforce network policies
(`kubenetlab explain ebpf`).

Without `kubeProxyMode` there is no kube-proxy, and programs at the same links implement Services
(as in the kube-proxy mode ebpf). With a kube-proxy, packets pass the stack of their nodes, where
its rules are.

With `enableWireguard: true` the packets of tunnels are encrypted after they were encapsulated: the
link is cilium_wg0, and each other node is a peer with its own address. All packets in tunnels have
the firewall mark 0xe00, which selects the routing table 201 with a default route to cilium_wg0. The
keys are made at random with the lab and kept in its store; nothing shows them. Cilium 1.18 has the
same packets on the fabric; there a program at eth0 sends them to cilium_wg0, and the mark and the
table are those of Cilium up to 1.13.

Differences to Cilium: one map holds both families; cilium_ipcache has the tunnel of a node's own
pods, too; Services are translated at the links and not at the sockets; there is no health endpoint
(identity 4).

Overhead: 50 bytes with tunnels (IPv6 between nodes: 70), 0 bytes with native routing; 110 bytes
with encryption (IPv6 between nodes: 150) and up to 15 of padding, for which the MTU leaves 130
(IPv6: 150) as in Cilium.
Needs: with native routing, all nodes on one layer-2 segment. On a routed fabric there are no routes
to the pods of other segments, and `up` says so. With encryption, a kernel with WireGuard and policy
routing.
As in: Cilium with kubeProxyReplacement and masquerade by iptables. Routes have the protocol
`static`; Cilium's have `kernel`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, Self

from msgspec import Meta, structs

from kubenetlab import names
from kubenetlab.api.config import ClusterConfig
from kubenetlab.api.json_types import JsonMapping
from kubenetlab.api.lab import NetworkFacts
from kubenetlab.api.masquerade import MasqueradeConfig
from kubenetlab.api.meta import Resource
from kubenetlab.api.plugins.node_range_pools import NodeRangePools
from kubenetlab.api.store import Cluster
from kubenetlab.api.text.decode import Finding
from kubenetlab.datapath.cni import cilium_agent, cilium_masquerade, cilium_pools
from kubenetlab.datapath.cni import cilium_wireguard as wireguard
from kubenetlab.datapath.cni.unused_options import unused_options
from kubenetlab.datapath.encapsulation import Encapsulation, encapsulations
from kubenetlab.datapath.identities import ClusterPod
from kubenetlab.datapath.modes import (
    LabSize,
    ModeOptions,
    Needs,
    Neighbors,
    PodNetwork,
    ServiceProxy,
    load,
)
from kubenetlab.datapath.pod_view import PodView
from kubenetlab.datapath.sandboxes import link_local
from kubenetlab.datapath.view import DEFAULT_ROUTES, Family, NodeView
from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.links.veth import LocalVethPeer, Veth, VethPeer
from kubenetlab.hoststate.links.vxlan import OVERHEAD_BYTES
from kubenetlab.hoststate.links.vxlan_external import VxlanExternal
from kubenetlab.hoststate.neighbor import Neighbor
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.route import Route
from kubenetlab.hoststate.rules.cilium import (
    HOST,
    POD_LINK_PREFIX,
    TUNNEL,
    CiliumEndpoint,
    CiliumPrograms,
    IpcacheEntry,
)
from kubenetlab.hoststate.rules.cilium_entries import HOST as HOST_IDENTITY
from kubenetlab.hoststate.rules.cilium_entries import REMOTE_NODE, UNMANAGED, WORLD
from kubenetlab.hoststate.rules.rulesets import SubjectRules

_COMPONENT = "cni cilium"
_NET = "cilium_net"
"""Peer of cilium_host."""


class Mode(ModeOptions, frozen=True):
    """Options, named as in Cilium's configuration (except neighbors).

    routingMode: tunnel | native
        tunnel  Packets between nodes are encapsulated in VXLAN.
        native  They are routed by the nodes' addresses.

    tunnelPort: UDP port of the tunnel (8472).

    ipam: kubernetes | cluster-pool
        kubernetes    The pod range of a node is its podCIDR (default).
        cluster-pool  Cilium's operator assigns the range, a part of a pool. A node gets one of each
                      family, and no further one. This is Cilium's own default.

    clusterPoolIPv4PodCIDRList, clusterPoolIPv6PodCIDRList: pools, parts of podSubnet (podSubnet).

    clusterPoolIPv4MaskSize, clusterPoolIPv6MaskSize: prefix length of a node's range
        From that of the pools to 30 (IPv6: 126). With 0 (the default) it is nodeCIDRMaskSizeIPv4 or
        nodeCIDRMaskSizeIPv6 of the cluster.

    enableWireguard: true | false
        Encrypt the packets of tunnels (false).

    hostLegacyRouting: auto | true | false
        true   Packets between pods pass the stacks of their nodes, and its netfilter hooks.
        false  Programs send them from link to link.
        auto   true beside a kube-proxy, whose rules the packets need, else false.

    monitorAggregation: medium | none
        medium  The first packet of a connection, those with the TCP flags SYN, FIN and RST, and
                one in five seconds are events of the ring buffer.
        none    Every packet is one.

    neighbors: auto | dynamic | permanent
        dynamic    Pods resolve the MAC address of their gateway.
        permanent  Neighbour entries with deterministic MACs, for larger labs.
        auto       `up` decides: dynamic while the lab needs at most 256 entries, else permanent.
    """

    needs = Needs(
        programs=("libbpf.so.1", "iptables-nft-restore"),
        features=("veth",),
        own_features=("tc programs", "vxlan", "iptables", *wireguard.FEATURES),
        root="eBPF programs",
    )
    _facts: ClassVar = NetworkFacts(
        plugin="cilium-cni", host_ifname=f"{POD_LINK_PREFIX}{{id}}", agent=cilium_agent.AGENT
    )
    masquerader = "cilium"
    policy_engines = ("ebpf", "none")
    knows_all_pods = True

    routing_mode: Literal["tunnel", "native"] = "tunnel"
    tunnel_port: Annotated[int, Meta(ge=1, le=0xFFFF)] = 8472
    ipam: Literal["kubernetes", "cluster-pool"] = "kubernetes"
    cluster_pool_ipv4_pod_cidr_list: tuple[str, ...] = ()
    cluster_pool_ipv4_mask_size: Annotated[int, Meta(ge=0, le=30)] = 0
    cluster_pool_ipv6_pod_cidr_list: tuple[str, ...] = ()
    cluster_pool_ipv6_mask_size: Annotated[int, Meta(ge=0, le=126)] = 0
    enable_wireguard: bool = False
    host_legacy_routing: bool | Literal["auto"] = "auto"
    monitor_aggregation: Literal["medium", "none"] = "medium"
    neighbors: Neighbors = "auto"

    @property
    def facts(self) -> NetworkFacts:
        if self.ipam == "kubernetes":
            return self._facts
        return structs.replace(self._facts, ipam=self.ipam, node_range_pools=self._pools)

    @property
    def _pools(self) -> tuple[NodeRangePools, ...]:
        ipv4, ipv6 = self.cluster_pool_ipv4_pod_cidr_list, self.cluster_pool_ipv6_pod_cidr_list
        return (
            NodeRangePools(4, ipv4, self.cluster_pool_ipv4_mask_size),
            NodeRangePools(6, ipv6, self.cluster_pool_ipv6_mask_size),
        )

    @classmethod
    def implied_proxy_mode(cls, options: JsonMapping) -> str:
        return "none"

    @property
    def requirements(self) -> Needs:
        features: tuple[str, ...] = ("tc programs", "iptables")
        features += ("vxlan",) if self._has_tunnels else ()
        features += wireguard.FEATURES if self.enable_wireguard else ()
        return structs.replace(self.needs, own_features=features)

    def findings(self) -> Iterator[Finding]:
        if self.enable_wireguard and not self._has_tunnels:
            yield Finding(
                ("enableWireguard",),
                "expected false with routingMode native, found true: only the packets of tunnels "
                "are encrypted",
                hints=("use routingMode: tunnel",),
            )
        if not self._has_tunnels:
            yield from unused_options(self, "tunnel_port", because="routingMode: native")
        yield from cilium_pools.findings(self._pools, is_used=self.ipam == "cluster-pool")

    def config_findings(self, config: ClusterConfig) -> Iterator[Finding]:
        if self.ipam == "cluster-pool":
            yield from cilium_pools.config_findings(self._pools, config)

    @property
    def desired_neighbors(self) -> Neighbors:
        return self.neighbors

    @property
    def service_proxy(self) -> ServiceProxy:
        return load("proxy", "ebpf", {})

    def beside(self, proxy_mode: str) -> Self:
        if self.host_legacy_routing != "auto":
            return self
        return structs.replace(self, host_legacy_routing=proxy_mode != "none")

    @property
    def needs_one_segment(self) -> bool:
        return not self._has_tunnels

    @property
    def _has_tunnels(self) -> bool:
        return self.routing_mode == "tunnel"

    def _mtu(self, node: NodeView) -> int:
        """Return the MTU of the path between pods; links have that of the node."""
        if not self._has_tunnels:
            return node.mtu
        encryption = wireguard.OVERHEAD_BYTES if self.enable_wireguard else 0
        return node.mtu - encryption - OVERHEAD_BYTES[_underlay(node.families).version]

    @property
    def _encapsulations(self) -> tuple[Encapsulation, ...]:
        if self.enable_wireguard:
            return (Encapsulation("udp", wireguard.PORT, "wireguard", has_vxlan=True),)
        return encapsulations(self.tunnel_port if self._has_tunnels else 0)

    def manifests(self, cluster: Cluster) -> Iterator[Resource]:
        """Yield Cilium's ConfigMap and DaemonSet."""
        options: dict[str, str] = {
            "ipam": self.ipam,
            "routing-mode": self.routing_mode,
            "monitor-aggregation": self.monitor_aggregation,
        }
        if self._has_tunnels:
            options |= {"tunnel-protocol": "vxlan", "tunnel-port": str(self.tunnel_port)}
        if self.enable_wireguard:
            options["enable-wireguard"] = "true"
        if self.ipam == "cluster-pool":
            options |= cilium_pools.settings(self._pools, cluster.config.networking)
        yield from cilium_agent.manifests(cluster, options)

    def network(self, node: NodeView) -> PodNetwork:
        tunnels = (TUNNEL,) if self._has_tunnels else ()
        return PodNetwork(
            self._mtu(node),
            node.cluster_cidrs,
            link_prefix=POD_LINK_PREFIX,
            tunnels=tunnels,
            encapsulations=self._encapsulations,
        )

    def node(self, node: NodeView) -> Iterator[Object]:
        mac, alias = _gateway_mac(node), names.link_alias(_COMPONENT, f"pods of {node.name}")
        mtu, primary = node.mtu, node.families[0]
        yield Veth(node.netns, HOST, mac, node.netns, _NET, mtu, alias, has_arp=False)
        yield LocalVethPeer(
            node.netns, _NET, names.port_mac_of(primary.gateway), mtu, alias, has_arp=False
        )
        for family in _with_range(node.families):
            router = f"{family.gateway}/{family.host_length}"
            yield Address(node.netns, HOST, router, is_source=False, has_route=False)
            yield Route(node.netns, router, HOST)
            yield _route_to_programs(node, family, family.pod_cidr)
        if self._has_tunnels:
            tunnel_mac = names.tunnel_mac_of(primary.address)
            yield VxlanExternal(
                node.netns,
                TUNNEL,
                tunnel_mac,
                self.tunnel_port,
                node.mtu,
                names.link_alias(_COMPONENT, f"tunnels of {node.name}"),
            )
        for peer in node.peers:
            for own, family in zip(node.families, peer.families, strict=True):
                if not family.ranges:
                    continue
                if self._has_tunnels:
                    yield _route_to_programs(node, own, family.pod_cidr, self._mtu(node))
                elif node.is_on_link(peer):
                    yield Route(node.netns, family.pod_cidr, names.NODE_UPLINK, via=family.address)
        yield CiliumPrograms(
            node.netns,
            tuple(family.gateway for family in _with_range(node.families)),
            mac,
            names.NODE_UPLINK,
            _underlay(node.families).address if self._has_tunnels else "",
            self.host_legacy_routing is True,
            self.monitor_aggregation == "medium",
            self.enable_wireguard,
        )
        if self.enable_wireguard:
            own, there = _underlay(node.families), [_underlay(peer.families) for peer in node.peers]
            yield from wireguard.encryption(node, own, there, _COMPONENT)
        yield from self._ipcache(node)

    def _ipcache(self, node: NodeView) -> Iterator[Object]:
        """Yield the identities of addresses that do not belong to pods."""
        for family in node.families:
            yield IpcacheEntry(node.netns, DEFAULT_ROUTES[family.version], WORLD)
            for address in family.local_addresses:
                yield IpcacheEntry(node.netns, f"{address}/{family.host_length}", HOST_IDENTITY)
        for peer in node.peers:
            tunnel = _underlay(peer.families).address if self._has_tunnels else ""
            for family in peer.families:
                length = family.host_length
                if family.ranges:
                    yield IpcacheEntry(node.netns, family.pod_cidr, UNMANAGED, tunnel)
                yield IpcacheEntry(node.netns, f"{family.address}/{length}", REMOTE_NODE)
                if family.ranges:
                    router = f"{family.gateway}/{length}"
                    yield IpcacheEntry(node.netns, router, REMOTE_NODE, tunnel)

    def cluster_pod(self, pod: ClusterPod, identity: int) -> SubjectRules[IpcacheEntry]:
        tunnel = _underlay_address(pod.node_addresses) if self._has_tunnels else ""
        entries = tuple(
            IpcacheEntry("", f"{address}/{128 if ':' in address else 32}", identity, tunnel)
            for address in pod.addresses
        )
        return SubjectRules("cilium", "", pod.full_name, entries)

    def pod(self, node: NodeView, pod: PodView) -> Iterator[Object]:
        if pod.is_host_network:
            return
        netns, link = pod.netns, names.POD_LINK
        alias = names.link_alias(_COMPONENT, f"pod {pod.full_name}")
        mac, gateway_mac = pod.mac, _gateway_mac(node)
        mtu = self._mtu(node) if self._has_tunnels else 0
        yield Veth(netns, link, mac, node.netns, pod.ifname, node.mtu, alias)
        yield VethPeer(node.netns, pod.ifname, gateway_mac, node.mtu, alias)
        for family, address in zip(node.families, pod.addresses, strict=True):
            yield Address(netns, link, f"{address}/{family.host_length}")
            yield Route(netns, f"{family.gateway}/{family.host_length}", link)
            yield Route(netns, family.default_route, link, via=family.gateway, mtu=mtu)
            if node.neighbors == "permanent":
                yield Neighbor(netns, link, family.gateway, gateway_mac)
        yield from link_local(netns, link, mac, has_ipv6=node.has_ipv6)
        number = int(pod.ifname.removeprefix(POD_LINK_PREFIX), 16)
        # The map has one endpoint for each address.
        owned = () if node.successor_of(pod) is not None else pod.addresses
        yield CiliumEndpoint(node.netns, pod.ifname, pod.full_name, number, owned, mac)

    def dynamic_neighbors(self, lab: LabSize) -> int:
        """Return how many entries the kernel may learn: nodes resolve no pods."""
        return sum(lab.pods_per_node) + len(lab.pods_per_node) ** 2

    def masquerade(self, node: NodeView, config: MasqueradeConfig | None) -> Iterator[Object]:
        return cilium_masquerade.rules(node, has_tunnels=self._has_tunnels)


def _route_to_programs(node: NodeView, own: Family, cidr: str, mtu: int = 0) -> Route:
    """Return the route by which the stack gives packets for pods to the programs.

    IPv6 accepts no gateway that is an address of the machine itself.
    """
    via = own.gateway if own.version == 4 and own.ranges else ""
    source = own.gateway if own.ranges else own.address
    return Route(node.netns, cidr, HOST, via=via, source=source, mtu=mtu)


def _with_range(families: tuple[Family, ...]) -> Iterator[Family]:
    """Yield the families in which a node has a range of addresses, and so a router address."""
    return (family for family in families if family.ranges)


def _underlay(families: tuple[Family, ...]) -> Family:
    """Return the family of the tunnels between nodes: IPv4 where there is both."""
    return next((family for family in families if family.version == 4), families[0])


def _underlay_address(addresses: tuple[str, ...]) -> str:
    return next((address for address in addresses if ":" not in address), addresses[0])


def _gateway_mac(node: NodeView) -> str:
    """Return the MAC address of cilium_host, and of the node's ends of all pod links."""
    return names.mac_of(node.families[0].gateway)
