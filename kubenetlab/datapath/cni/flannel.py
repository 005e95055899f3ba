"""flannel: a bridge on each node, and a VXLAN tunnel or plain routes between nodes.

  pod eth0 ─ veth ┐             UDP datagrams              ┌ veth ─ eth0 pod
                  ├ cni0 flannel.1 ═ eth0 ═ flannel.1 cni0 ┤
  pod eth0 ─ veth ┘      (node)     fabric     (node)      └ veth ─ eth0 pod

The pods of a node are attached to the bridge cni0. With the backend `vxlan`, the pod range of every
other node is routed to flannel.1, which puts the packet with an Ethernet header into a UDP
datagram to that node. Nothing is learned: for each node there is a route, a permanent neighbour and
a forwarding entry. With the backend `host-gw` the route leads to the node itself, and nothing is
encapsulated. Packets between pods keep both addresses; packets from pods to nodes and to the
outside get the address of their node.

flannel has no network policies: a NetworkPolicy is accepted and not enforced. flannel masquerades
by itself, so the ConfigMap of ip-masq-agent has no effect. Its configuration of a node is in
/run/flannel/subnet.env there.

With the backend `ipip`, IPv4 packets between nodes are encapsulated in IPv4 by the link
flannel.ipip, to which the pod ranges of other nodes are routed with these nodes as gateways. It has
no IPv6.

With the backend `wireguard`, packets between nodes are encrypted. The link is flannel-wg (IPv6:
flannel-wg-v6), and each other node is a peer with its pod range. The keys are made at random with
the lab and kept in its store; nothing shows them.

Packets from a node to its own pods have the address of cni0 as source. With `vxlan`, pods have the
MTU of the IPv4 tunnel in both families, as flanneld writes it to subnet.env; the node answers
larger IPv6 packets with "packet too big".

Overhead: 50 bytes with `vxlan` (IPv6 between nodes: 70), 0 bytes with `host-gw`, 20 with `ipip`, 60
with `wireguard` (IPv6: 80).
Needs: with `host-gw`, all nodes on one layer-2 segment. On a routed fabric, the kernel would refuse
a route by a node that is on another segment: pods there are not reachable, as in a real cluster,
and `up`, `plan` and `check` say so.
As in: flannel v0.28 with EnableNFTables, and the CNI plugins flannel, bridge and host-local.
Differences, as comparisons with the programs found them: the routes have the protocol `static`,
which tells the lab's routes from those of others. cni0 does not snoop multicast, and addresses have
no broadcast address. IPv6 addresses are used without duplicate address detection, and the sysctls
arp_notify and keep_addr_on_down of eth0 in pods are not set, because addresses are never taken from
another pod. Also, links of pods and bridges have link-local addresses, which the lab chooses, and
cni0 exists before the first pod of its node.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final, Literal

from msgspec import Meta, structs

from kubenetlab import names
from kubenetlab.api.config import ClusterConfig
from kubenetlab.api.core import Namespace
from kubenetlab.api.json_types import JsonValue
from kubenetlab.api.lab import NetworkFacts
from kubenetlab.api.masquerade import MasqueradeConfig
from kubenetlab.api.meta import ObjectMeta, Resource
from kubenetlab.api.plugins.cni_agents import CniAgent
from kubenetlab.api.store import Cluster
from kubenetlab.api.text.decode import Finding
from kubenetlab.api.values import ip
from kubenetlab.datapath.cni import agents
from kubenetlab.datapath.cni.pods_on_bridge import PodsOnBridge
from kubenetlab.datapath.cni.tunnels import vxlan_end, vxlan_peer
from kubenetlab.datapath.cni.unused_options import unused_options
from kubenetlab.datapath.encapsulation import Encapsulation, by_wireguard, encapsulations
from kubenetlab.datapath.modes import Needs, OverlayLink
from kubenetlab.datapath.pod_view import PodView
from kubenetlab.datapath.view import Family, NodeView
from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.encryption.wireguard import WireguardDevice, WireguardPeer
from kubenetlab.hoststate.encryption.wireguard_keys import node_keys
from kubenetlab.hoststate.files import File
from kubenetlab.hoststate.links import ipip
from kubenetlab.hoststate.links.ipip import Ipip
from kubenetlab.hoststate.links.vxlan import OVERHEAD_BYTES
from kubenetlab.hoststate.links.wireguard import Wireguard
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.route import Route
from kubenetlab.hoststate.rules.nftables import NFT_FAMILIES, Chain, Hook, Table, rule
from kubenetlab.hoststate.rules.nftables.statements import (
    Masquerade,
    Match,
    accept,
    return_,
)

AGENT: Final = CniAgent(
    daemon_set="kube-flannel-ds",
    namespace="kube-flannel",
    labels={"app": "flannel", "k8s-app": "flannel"},
    container="kube-flannel",
    title="flanneld",
)
IMAGE: Final = "ghcr.io/flannel-io/flannel:v0.27.0"
SUBNET_FILE = "/run/flannel/subnet.env"
_KUBE_PROXY_MARK = "0x4000"
_FEATURES: Final = {"vxlan": "vxlan", "ipip": "ipip", "wireguard": "wireguard"}
"""Backend → feature of the kernel that it needs."""
_IPIP_LINK: Final = "flannel.ipip"
_WIREGUARD_LINKS: Final = {4: "flannel-wg", 6: "flannel-wg-v6"}
_WIREGUARD_PORTS: Final = {4: 51820, 6: 51821}
_WIREGUARD_OVERHEAD_BYTES: Final = 80
"""Overhead that flannel subtracts in both families; with IPv4 between nodes it is 60."""


class Mode(PodsOnBridge, frozen=True):
    """Options of the backend, `layout` and `neighbors`.

    backend: vxlan | host-gw | ipip | wireguard
        vxlan      Packets between nodes are encapsulated.
        host-gw    They are routed by the nodes' addresses.
        ipip       They are encapsulated in IPv4, with less overhead; only with ipFamily ipv4.
        wireguard  They are encrypted and encapsulated.

    directRouting: true | false
        With the backends vxlan and ipip: routes as with host-gw to nodes on the same subnet.

    vni, port: identifier of the tunnel (1) and its UDP port (8472).
    """

    needs = Needs(
        programs=("nft",),
        features=("bridge", "veth", "nft nat"),
        own_features=tuple(_FEATURES.values()),
    )
    facts = NetworkFacts(plugin="flannel", host_ifname="veth{id}", bridge="cni0", agent=AGENT)
    bridge = "cni0"
    component = "cni flannel"
    policy_engines = ("none", "nftables", "iptables")
    masquerader = "flannel"
    gateway_is_source = True

    backend: Literal["vxlan", "host-gw", "ipip", "wireguard"] = "vxlan"
    direct_routing: bool = False
    vni: Annotated[int, Meta(ge=1, le=0xFFFFFF)] = 1
    port: Annotated[int, Meta(ge=1, le=0xFFFF)] = 8472

    @property
    def requirements(self) -> Needs:
        feature = _FEATURES.get(self.backend)
        return structs.replace(self.needs, own_features=(feature,) if feature else ())

    def findings(self) -> Iterator[Finding]:
        if self.backend != "vxlan":
            direct = () if self.backend == "ipip" else ("direct_routing",)
            because = f"backend: {self.backend}"
            yield from unused_options(self, *direct, "vni", "port", because=because)

    def config_findings(self, config: ClusterConfig) -> Iterator[Finding]:
        versions = config.networking.versions
        if self.backend == "ipip" and versions != (4,):
            yield Finding(
                ("networking", "cni", "backend"),
                f"ipip has IPv4 only, and ipFamily is {config.networking.ip_family}",
                hints=("use ipFamily: ipv4, or the backend vxlan",),
            )

    def manifests(self, cluster: Cluster) -> Iterator[Resource]:
        """Yield what kube-flannel.yml has.

        Source: flannel-io/flannel Documentation/kube-flannel.yml (v0.27).
        """
        config: dict[str, JsonValue] = {"EnableNFTables": True}
        for network in cluster.config.networking.pod_networks:
            if network.version == 4:
                config["Network"] = str(network)
            else:
                config |= {"EnableIPv6": True, "IPv6Network": str(network)}
        backend: dict[str, JsonValue] = {"Type": self.backend}
        if self.backend == "vxlan":
            backend |= {"VNI": self.vni, "Port": self.port}
        if self.backend in ("vxlan", "ipip"):
            backend["DirectRouting"] = self.direct_routing
        config["Backend"] = backend
        delegate = {"hairpinMode": True, "isDefaultGateway": True}
        yield Namespace(ObjectMeta(name=AGENT.namespace))
        data = {
            "cni-conf.json": agents.cni_list("cbr0", {"type": "flannel", "delegate": delegate}),
            "net-conf.json": agents.as_json(config),
        }
        yield agents.config_map(AGENT, "kube-flannel-cfg", data)
        args = ("--ip-masq", "--kube-subnet-mgr")
        yield agents.daemon_set(
            AGENT, IMAGE, ("flanneld", "-health"), args=args, labels={"tier": "node"}
        )

    def mtu(self, node: NodeView) -> int:
        if self._is_routed:
            return node.mtu
        if self.backend == "wireguard":
            return node.mtu - _WIREGUARD_OVERHEAD_BYTES
        if self.backend == "ipip":
            return node.mtu - ipip.OVERHEAD_BYTES
        return node.mtu - OVERHEAD_BYTES[4]

    @property
    def encapsulations(self) -> tuple[Encapsulation, ...]:
        if self.backend == "wireguard":
            return by_wireguard(_WIREGUARD_PORTS.values())
        if self.backend == "ipip":
            return encapsulations(has_ipip=True)
        return encapsulations(0 if self._is_routed else self.port)

    def overlay_links(self, node: NodeView) -> Iterator[OverlayLink]:
        for family in () if self._is_routed else node.families:
            is_encrypted = self.backend == "wireguard"
            link = _WIREGUARD_LINKS[family.version] if is_encrypted else self._link(family)
            yield OverlayLink(link, (_tunnel_address(family),), is_bare=self.backend != "vxlan")

    def node(self, node: NodeView) -> Iterator[Object]:
        yield from super().node(node)
        for index, family in enumerate(node.families):
            if self.backend == "wireguard":
                yield from self._wireguard(node, index)
                continue
            if not self._is_routed:
                yield from self._tunnel_end(node, family)
            for peer in node.peers:
                there = peer.families[index]
                if node.is_on_link(peer) and (self._is_routed or self.direct_routing):
                    yield self._direct_route(node, there)
                elif not self._is_routed:
                    yield from self._tunnel_to(node, there)
        yield self._subnet_file(node)

    def pod(self, node: NodeView, pod: PodView) -> Iterator[Object]:
        """Yield the attachment, with the routes that the CNI plugin `flannel` asks `bridge` for.

        Source: flannel-io/cni-plugin flannel_linux.go (getDelegateIPAM).
        """
        yield from super().pod(node, pod)
        if not pod.is_host_network:
            for family, cluster in zip(node.families, node.cluster_cidrs, strict=True):
                yield Route(pod.netns, cluster, names.POD_LINK, via=family.gateway)

    @property
    def needs_one_segment(self) -> bool:
        return self._is_routed

    @property
    def _is_routed(self) -> bool:
        """True if nodes route packets between pods without tunnels."""
        return self.backend == "host-gw"

    def _wireguard(self, node: NodeView, index: int) -> Iterator[Object]:
        """Yield the link of one family, with the other nodes as peers.

        Both families have the same keys. Source: pkg/backend/wireguard in flannel-io/flannel.
        """
        family, cluster = node.families[index], node.cluster_cidrs[index]
        link, port = _WIREGUARD_LINKS[family.version], _WIREGUARD_PORTS[family.version]
        alias = names.link_alias(self.component, f"tunnels of {node.name}")
        keys = node_keys(node.seed, node.name)
        yield Wireguard(node.netns, link, self.mtu(node), alias)
        yield Address(node.netns, link, f"{_tunnel_address(family)}/{family.host_length}")
        yield WireguardDevice(node.netns, link, keys.public, keys.private, port)
        for peer in node.peers:
            there = peer.families[index]
            key = node_keys(node.seed, peer.name).public
            allowed = (there.pod_cidr,)
            yield WireguardPeer(node.netns, link, key, there.address, port, allowed)
        yield Route(node.netns, cluster, link)

    def _direct_route(self, node: NodeView, peer: Family) -> Route:
        """Return the route to a node on the same subnet; flanneld's for ipip has a flag more."""
        is_onlink = self.backend == "ipip"
        link, gateway = names.NODE_UPLINK, peer.address
        return Route(node.netns, peer.pod_cidr, link, via=gateway, is_onlink=is_onlink)

    def _tunnel_end(self, node: NodeView, family: Family) -> Iterator[Object]:
        link, address = self._link(family), _tunnel_address(family)
        if self.backend == "ipip":
            alias = names.link_alias(self.component, f"tunnels of {node.name}")
            yield Ipip(node.netns, link, family.address, "", self.mtu(node), alias)
        else:
            yield vxlan_end(node, family, link, self.vni, self.port, self.component)
        yield Address(node.netns, link, f"{address}/{family.host_length}")

    def _tunnel_to(self, node: NodeView, peer: Family) -> Iterator[Object]:
        link, address = self._link(peer), _tunnel_address(peer)
        if self.backend == "ipip":
            yield Route(node.netns, peer.pod_cidr, link, peer.address, is_onlink=True)
            return
        yield from vxlan_peer(node, link, peer, address)
        yield Route(node.netns, peer.pod_cidr, link, address, is_onlink=True)

    def _link(self, family: Family) -> str:
        if self.backend == "ipip":
            return _IPIP_LINK
        return f"flannel.{self.vni}" if family.version == 4 else f"flannel-v6.{self.vni}"

    def _subnet_file(self, node: NodeView) -> File:
        """Return the file by which flanneld tells the CNI plugin about the node.

        Source: flannel-io/flannel pkg/subnet/subnet.go (WriteSubnetFile).
        """
        lines = []
        for family, cluster in zip(node.families, node.cluster_cidrs, strict=True):
            prefix = "FLANNEL_" if family.version == 4 else "FLANNEL_IPV6_"
            lines.append(f"{prefix}NETWORK={cluster}")
            lines.append(f"{prefix}SUBNET={family.gateway}/{family.pod_network.prefixlen}")
        lines.sort(key=lambda line: line.startswith("FLANNEL_IPV6"))  # IPv4 first
        lines += [f"FLANNEL_MTU={self.mtu(node)}", "FLANNEL_IPMASQ=true"]
        return File(node.netns, SUBNET_FILE, "".join(f"{line}\n" for line in lines))

    def masquerade(self, node: NodeView, config: MasqueradeConfig | None) -> Iterator[Object]:
        """Yield flannel's own tables; the ConfigMap of ip-masq-agent has no effect.

        There is a table for each family, also for one that the cluster does not have.

        Source: flannel-io/flannel pkg/trafficmngr/nftables/nftables.go.
        """
        for version, nft in NFT_FAMILIES.items():
            table = _table(version)
            yield Table(node.netns, nft, table, f"rules for {table}")
        for family, cluster in zip(node.families, node.cluster_cidrs, strict=True):
            nft, table = NFT_FAMILIES[family.version], _table(family.version)
            source, target, own = f"{nft} saddr", f"{nft} daddr", family.pod_cidr
            yield Chain(
                node.netns,
                nft,
                table,
                "forward",
                (rule(Match(source, cluster), accept), rule(Match(target, cluster), accept)),
                Hook("filter", "forward", 0),
                "chain to accept flannel traffic",
            )
            masquerade = Masquerade(is_fully_random=True)
            multicast = Match(target, ip.MULTICAST[family.version], is_negated=True)
            rules = (
                rule(Match("mark", _KUBE_PROXY_MARK), return_),
                rule(Match(source, own), Match(target, cluster), return_),
                rule(Match(source, cluster), Match(target, own), return_),
                rule(Match(source, own, is_negated=True), Match(target, cluster), return_),
                rule(Match(source, cluster), multicast, masquerade),
                rule(Match(source, cluster, is_negated=True), Match(target, cluster), masquerade),
            )
            hook = Hook("nat", "postrouting", 100)
            comment = "chain to manage traffic masquerading by flannel"
            yield Chain(node.netns, nft, table, "postrtg", rules, hook, comment)


def _table(version: int) -> str:
    return f"flannel-ipv{version}"


def _tunnel_address(family: Family) -> str:
    """Return the address of a node's end of the tunnel: the network address of its pod range."""
    return str(family.pod_network[0])
