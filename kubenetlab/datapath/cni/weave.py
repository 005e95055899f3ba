"""weave: one layer-2 network of all pods, over VXLAN tunnels between all nodes.

  pod eth0 ─ veth… ┐             UDP datagrams             ┌ veth… ─ eth0 pod
                   ├ weave vxlan-6784 ═══ vxlan-6784 weave ┤
  pod eth0 ─ veth… ┘      (node)               (node)      └ veth… ─ eth0 pod

The pods of all nodes are in one subnet, 10.32.0.0/12 by default, and resolve each other by ARP
across nodes: a tunnel sends broadcasts to every node and learns which MAC address is behind which
node. There are no routes to pods of other nodes. The node has an address of the same subnet on the
bridge weave, which is the gateway of its pods and the source of packets from the node to all pods.
Nodes have no pod ranges of their own: they divide the subnet evenly, a node that needs more gets
half of another's free part, and the parts of a removed node go to others.

Packets between pods keep both addresses; packets from pods to nodes and to the outside get the
address of their node. Weave's Open vSwitch datapath is replaced by a bridge with a VXLAN link as a
port. Weave Net has IPv4 only; this mode has IPv6, too.

With `passwordSecret` the datagrams between nodes are encrypted: ESP in transport mode, AES-256 in
Galois/counter mode, one key for each pair of nodes and each direction. The keys follow from the
password, the random seed of the lab and the names of the nodes; nothing shows them. Policies of
XFRM select UDP to the port of the tunnels; unencrypted datagrams to it are dropped. In Weave Net,
rules of netfilter mark these packets, and nodes agree on keys over TCP. Without the Secret, nodes
have no tunnels: packets never cross the fabric unencrypted.

Overhead: 50 bytes (IPv6 between nodes: 70), with an MTU of 1376 as in Weave, which leaves room for
encryption (34 to 37 bytes more).
Needs: with `passwordSecret`, a kernel with ESP.
As in: Weave Net 2.8 with the fast datapath.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Annotated, Final

from msgspec import Meta, structs

from kubenetlab import names
from kubenetlab.api.config import ClusterConfig
from kubenetlab.api.lab import NetworkFacts
from kubenetlab.api.links import MIN_MTU, link_settings
from kubenetlab.api.masquerade import MasqueradeConfig
from kubenetlab.api.meta import Resource
from kubenetlab.api.plugins.cni_agents import CniAgent
from kubenetlab.api.store import Cluster
from kubenetlab.api.text.decode import Finding
from kubenetlab.api.values import ip
from kubenetlab.controllers.nodes.ipam.ring import BRIDGE
from kubenetlab.datapath.cni import agents
from kubenetlab.datapath.cni.tunnels import vxlan_end
from kubenetlab.datapath.encapsulation import Encapsulation
from kubenetlab.datapath.modes import (
    LabSize,
    ModeOptions,
    Needs,
    Neighbors,
    OverlayLink,
    PodNetwork,
)
from kubenetlab.datapath.network import esp
from kubenetlab.datapath.pod_view import PodView
from kubenetlab.datapath.sandboxes import link_local
from kubenetlab.datapath.view import NodeView
from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.encryption import xfrm
from kubenetlab.hoststate.fdb import ANY_MAC, BridgeFdbEntry, FdbEntry
from kubenetlab.hoststate.links.bridge import Bridge
from kubenetlab.hoststate.links.veth import Port, Veth
from kubenetlab.hoststate.links.vxlan import OVERHEAD_BYTES
from kubenetlab.hoststate.neighbor import Neighbor
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.route import Route
from kubenetlab.hoststate.rules.nftables import NFT_FAMILIES, Chain, Hook, Table, rule
from kubenetlab.hoststate.rules.nftables.statements import Masquerade, Match, return_
from kubenetlab.hoststate.sandbox import Sysctl

AGENT: Final = CniAgent(
    daemon_set="weave-net",
    labels={"name": "weave-net"},
    container="weave",
    title="weave",
    enforces_policies=True,
    attach_error='unable to allocate IP address: Post "http://127.0.0.1:6784/ip/": '
    "dial tcp 127.0.0.1:6784: connect: connection refused",
)
IMAGE: Final = "docker.io/weaveworks/weave-kube:2.8.1"
_BRIDGE_LINK: Final = "weave"
_COMPONENT: Final = "cni weave"
_DEFAULT_MTU: Final = 1376
_VNI: Final = 1
_TABLE: Final = "weave"


class Mode(ModeOptions, frozen=True):
    """Options of the tunnels, of encryption and of neighbours.

    mtu: MTU of pods and bridge (1376). It is smaller on nodes whose link carries less.

    port: UDP port of the tunnels (6784).

    passwordSecret: name of a Secret in the namespace kube-system
        Encrypt packets between nodes with its password, the value of the key weave-passwd.

    neighbors: auto | dynamic | permanent
        dynamic    All MAC addresses are resolved by ARP and neighbour discovery.
        permanent  Entries for pods and their gateways on each node, and forwarding entries of
                   its bridge for its pods, for larger labs. Pods of other nodes are always
                   resolved.
        auto       `up` decides: dynamic while the lab needs at most 256 entries, else permanent.
    """

    needs = Needs(
        programs=("nft",), features=("bridge", "veth", "nft nat"), own_features=("vxlan", "ESP")
    )
    facts = NetworkFacts(
        plugin="weave-net",
        host_ifname="vethwepl{id:.7}",
        bridge=_BRIDGE_LINK,
        ipam="weave",
        has_gateway=False,
        agent=AGENT,
        credential=("passwordSecret", "weave-passwd"),
    )
    masquerader = "weave"
    policy_engines = ("iptables", "nftables", "none")

    mtu: Annotated[int, Meta(ge=576, le=65000)] = _DEFAULT_MTU
    port: Annotated[int, Meta(ge=1, le=0xFFFF)] = 6784
    password_secret: str = ""
    neighbors: Neighbors = "auto"

    @property
    def requirements(self) -> Needs:
        features = ("vxlan", "ESP") if self.password_secret else ("vxlan",)
        return structs.replace(self.needs, own_features=features)

    @property
    def desired_neighbors(self) -> Neighbors:
        return self.neighbors

    def manifests(self, cluster: Cluster) -> Iterator[Resource]:
        """Yield Weave's DaemonSet; it has no ConfigMap.

        Source: weaveworks/weave prog/weave-kube/weave-daemonset-k8s-1.11.yaml (2.8.1).
        """
        ranges = ",".join(map(str, cluster.config.networking.pod_networks))
        env = {"IPALLOC_RANGE": ranges, "WEAVE_MTU": str(self.mtu)}
        yield agents.daemon_set(AGENT, IMAGE, ("weave", "status"), env=env)

    def dynamic_neighbors(self, lab: LabSize) -> int:
        """Return how many entries the kernel may learn: each pod resolves its gateway and peers."""
        pods = sum(lab.pods_per_node)
        return super().dynamic_neighbors(lab) + pods * min(pods, 8)

    def network(self, node: NodeView) -> PodNetwork:
        outer = Encapsulation("udp", self.port, "esp" if self.password_secret else "")
        gateways = (_gateway(node, index) for index in range(len(node.families)))
        own = tuple(gateway for gateway in gateways if gateway)
        return PodNetwork(
            self._mtu(node),
            node.cluster_cidrs,
            _BRIDGE_LINK,
            "vethwepl",
            overlay_links=(OverlayLink(self._tunnel_link, own, _BRIDGE_LINK),),
            encapsulations=(outer,),
        )

    def config_findings(self, config: ClusterConfig) -> Iterator[Finding]:
        """Yield a warning if the fabric carries no packets of the MTU that the user asks for."""
        try:
            version = config.networking.versions[0]
        except ValueError:
            return  # the validation of podSubnet reports it
        if 6 in config.networking.versions and self.mtu < MIN_MTU:
            yield Finding(
                ("networking", "cni", "mtu"),
                f"expected at least {MIN_MTU}, which IPv6 needs; found {self.mtu}",
            )
        largest = {
            name: link_settings(config, name).mtu - self._overhead_bytes(version)
            for name in config.node_names
        }
        node = min(largest, key=lambda name: largest[name])
        if largest[node] < self.mtu != _DEFAULT_MTU:
            yield Finding(
                ("networking", "cni", "mtu"),
                f"{self.mtu} is more than the links of the fabric carry: pods of {node} get "
                f"{largest[node]}",
                is_warning=True,
            )

    def _mtu(self, node: NodeView) -> int:
        """Return the MTU of pods, bridge and tunnels, with which no packet is fragmented.

        The kernel itself reduces that of a tunnel, and no host on a bridge gets to know of it.
        """
        return min(self.mtu, node.mtu - self._overhead_bytes(node.families[0].version))

    def _overhead_bytes(self, version: int) -> int:
        encryption = xfrm.OVERHEAD_BYTES if self.password_secret else 0
        return OVERHEAD_BYTES[version] + encryption

    def node(self, node: NodeView) -> Iterator[Object]:
        mac = _gateway_mac(node)
        alias = names.link_alias(_COMPONENT, f"pods of {node.name}")
        yield Sysctl(node.netns, "net/bridge/bridge-nf-call-iptables", "1")
        yield Bridge(node.netns, _BRIDGE_LINK, mac, self._mtu(node), alias)
        for index, cidr in enumerate(node.cluster_cidrs):
            if gateway := _gateway(node, index):
                length = ip.network(cidr).prefixlen
                yield Address(node.netns, _BRIDGE_LINK, f"{gateway}/{length}")
        yield from link_local(node.netns, _BRIDGE_LINK, mac, has_ipv6=node.has_ipv6)
        yield from self._tunnels(node)

    @property
    def _tunnel_link(self) -> str:
        return f"vxlan-{self.port}"

    def _tunnels(self, node: NodeView) -> Iterator[Object]:
        """Yield the link to all other nodes, which sends broadcasts to each of them."""
        family, link = node.families[0], self._tunnel_link
        end = vxlan_end(node, family, link, _VNI, self.port, _COMPONENT)
        yield structs.replace(end, mtu=self._mtu(node), is_learning=True, master=_BRIDGE_LINK)
        if self.password_secret and not node.password.reveal:
            return
        if self.password_secret:
            yield from esp.tunnels(node, node.password, 0, self.port)
        for peer in node.peers:
            yield FdbEntry(node.netns, link, ANY_MAC, peer.families[0].address)

    def netfilter_bypass(self, *, has_br_netfilter: bool) -> str:
        if has_br_netfilter:
            return ""
        return "pods of all nodes share a network of bridges, and this kernel has no br_netfilter"

    def masquerade(self, node: NodeView, config: MasqueradeConfig | None) -> Iterator[Object]:
        """Yield the rules for packets that leave the subnet; ip-masq-agent has no effect.

        Source: weaveworks/weave net/{bridge,ipset,iptables}.go (chain WEAVE of the table nat).
        """
        for family, cluster in zip(node.families, node.cluster_cidrs, strict=True):
            nft = NFT_FAMILIES[family.version]
            source, target = f"{nft} saddr", f"{nft} daddr"
            yield Table(node.netns, nft, _TABLE, "rules of weave")
            rules = (
                rule(Match(source, cluster), Match(target, ip.MULTICAST[family.version]), return_),
                rule(
                    Match(source, cluster, is_negated=True),
                    Match(target, cluster),
                    Masquerade(is_fully_random=True),
                ),
                rule(
                    Match(source, cluster),
                    Match(target, cluster, is_negated=True),
                    Masquerade(is_fully_random=True),
                ),
            )
            yield Chain(node.netns, nft, _TABLE, "WEAVE", rules, Hook("nat", "postrouting", 100))

    def pod(self, node: NodeView, pod: PodView) -> Iterator[Object]:
        if pod.is_host_network:
            return
        mtu = self._mtu(node)
        netns, link = pod.netns, names.POD_LINK
        mac = pod.mac if pod.is_duplicate else _mac(pod.addresses[0])
        alias = names.link_alias(_COMPONENT, f"pod {pod.full_name}")
        yield Veth(netns, link, mac, node.netns, pod.ifname, mtu, alias)
        yield Port(
            node.netns,
            pod.ifname,
            _BRIDGE_LINK,
            pod.port_mac,
            mtu,
            alias,
            is_hairpin=True,
        )
        for index, (family, address) in enumerate(zip(node.families, pod.addresses, strict=True)):
            length = ip.network(node.cluster_cidrs[index]).prefixlen
            yield Address(netns, link, f"{address}/{length}")
            if gateway := _gateway(node, index):
                yield Route(netns, family.default_route, link, via=gateway)
            if node.neighbors == "permanent":
                if gateway:
                    yield Neighbor(netns, link, gateway, _gateway_mac(node))
                yield Neighbor(node.netns, _BRIDGE_LINK, address, mac)
        if node.neighbors == "permanent":
            # The bridge would flood the first packet to each pod to the pods of all nodes.
            yield BridgeFdbEntry(node.netns, pod.ifname, mac)
        yield from link_local(netns, link, mac, has_ipv6=node.has_ipv6)


def _mac(address: str) -> str:
    """Return the MAC of the link with this address, which no other link of the subnet has.

    All nodes share one layer-2 network, and parts of an IPv6 range begin alike in the last bytes.
    """
    if ":" not in address:
        return names.mac_of(address)
    return f"0a:5a:{zlib.crc32(ip_address(address).packed).to_bytes(4).hex(':')}"


def _gateway(node: NodeView, index: int) -> str:
    """Return the node's own address in the subnet of pods; empty while none is left for it."""
    return node.families[index].tunnels.get(BRIDGE, "")


def _gateway_mac(node: NodeView) -> str:
    return _mac(_gateway(node, 0) or node.addresses[0])
