"""kube-router: a bridge on each node, and routes between nodes by BGP.

  pod eth0 ─ veth ┐                                        ┌ veth ─ eth0 pod
                  ├ kube-bridge ─ eth0 ═ eth0 ─ kube-bridge┤
  pod eth0 ─ veth ┘   (node)      fabric       (node)      └ veth ─ eth0 pod
                      bird ─── BGP, TCP 179 ─── bird

The pods of a node are attached to the bridge kube-bridge. BIRD on each node announces the pod range
of the node to all other nodes in AS 64512 (a full mesh of iBGP sessions). It adds the routes that
it learns to the kernel: `10.244.2.0/24 via 172.18.0.3 dev eth0 proto bird`. Nothing is
encapsulated. Packets between pods and from pods to nodes keep both addresses; packets from pods to
the outside get the address of their node. Packets from a node to its pods have the address of
kube-bridge as source.

Annotations of nodes configure BGP, too: kube-router.io/node.asn (without a full mesh), rr.server
and rr.client (route reflectors), peers or peer.ips, peer.asns, peer.ports, peer.passwords and
peer.localips (routers), path-prepend.as and path-prepend.repeat-n, node.bgp.communities, and
node.bgp.customimportreject.

Upstream has GoBGP built in, whose routes are `proto 17`; here it is BIRD: `kubenetlab exec
node:worker -- birdc show protocols` shows its sessions. Rules are in a table of nftables, with the
names of upstream's ipsets. Network policies are accepted and not enforced. kube-router masquerades
by itself, so the ConfigMap of ip-masq-agent has no effect.

Overhead: 0 bytes.
Needs: all nodes on one layer-2 segment; BIRD 2.
As in: kube-router with --run-router=true --run-service-proxy=false --run-firewall=false, and
the CNI plugins bridge and host-local (v1.9). Differences, as comparisons with the plugins found
them: the routes have the protocol `static`, and the bridge does not snoop multicast. Addresses have
no broadcast address. IPv6 addresses are used without duplicate address detection, and the sysctls
arp_notify and keep_addr_on_down of eth0 in pods are not set. Links have link-local addresses, which
the lab chooses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Final

from msgspec import Meta, field, structs

from kubenetlab.api.config import ClusterConfig
from kubenetlab.api.json_types import JsonMapping
from kubenetlab.api.lab import NetworkFacts
from kubenetlab.api.masquerade import MasqueradeConfig
from kubenetlab.api.meta import Resource
from kubenetlab.api.plugins.cni_agents import CniAgent
from kubenetlab.api.store import Cluster
from kubenetlab.api.text.decode import Finding
from kubenetlab.datapath.cni import agents, kube_router_bgp
from kubenetlab.datapath.cni.pods_on_bridge import PodsOnBridge
from kubenetlab.datapath.modes import Needs, ServiceProxy, load, proxy_mode
from kubenetlab.datapath.network import bgp, bird
from kubenetlab.datapath.services.addresses import ServiceAddress
from kubenetlab.datapath.view import NodeView
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.rules.nftables import (
    NFT_FAMILIES,
    Chain,
    Collection,
    Element,
    Hook,
    SetType,
    Table,
    rule,
)
from kubenetlab.hoststate.rules.nftables.statements import InSet, Masquerade

AGENT: Final = CniAgent(
    daemon_set="kube-router",
    labels={"k8s-app": "kube-router", "tier": "node"},
    container="kube-router",
    title="kube-router",
    announces_services=True,
    enforces_policies=True,
)
IMAGE: Final = "docker.io/cloudnativelabs/kube-router:v2.5.0"
TABLE: Final = "kube-router"
POD_SUBNETS: Final = "kube-router-pod-subnets"
NODE_IPS: Final = "kube-router-node-ips"
_SERVICE_PROXY: Final = "ipvs"


class Mode(PodsOnBridge, frozen=True):
    """Options of BGP, `layout` and `neighbors`.

    clusterAsn: autonomous system of the nodes (64512). Without a full mesh, the annotation
        kube-router.io/node.asn of a node takes precedence.

    nodesFullMesh: true | false
        Whether each node has a session with each other node. By default true, and false on a
        fabric whose router has BGP (`fabric.bgp`): there, nodes have sessions with the router.
        If it is false, nodes whose annotations kube-router.io/node.asn are equal have sessions.

    advertiseClusterIp, advertiseExternalIp, advertiseLoadbalancerIp: true | false
        Whether nodes announce the addresses of Services to routers (false). For one Service, the
        annotation kube-router.io/service.advertise.clusterip (externalip, loadbalancerip) takes
        precedence. With externalTrafficPolicy Local or the annotation kube-router.io/service.local
        only nodes with ready endpoints announce them.

    bgpGracefulRestart: true | false
        true   Routes stay while BIRD of a node is restarted.
        false  Other nodes drop the routes of a node as soon as its BIRD ends.

    serviceProxy: false | true
        false  Services are implemented by kube-proxy.
        true   kube-router implements them by IPVS, and there is no kube-proxy. Rules and virtual
               servers are those of kube-proxy's mode `ipvs`: the addresses of Services are on
               kube-ipvs0, which upstream calls kube-dummy-if.
    """

    needs = Needs(programs=("nft", bird.PROGRAM), features=("bridge", "veth", "nft nat"))
    facts = NetworkFacts(
        plugin="kube-router", host_ifname="veth{id}", bridge="kube-bridge", agent=AGENT
    )
    bridge = "kube-bridge"
    component = "cni kube-router"
    masquerader = "kube-router"
    policy_engines = ("iptables", "nftables", "none")
    gateway_is_source = True

    cluster_asn: Annotated[int, Meta(ge=1, le=0xFFFFFFFE)] = bgp.DEFAULT_AS
    nodes_full_mesh: bool | None = None
    advertise_cluster_ip: bool = field(default=False, name="advertiseClusterIp")
    advertise_external_ip: bool = field(default=False, name="advertiseExternalIp")
    advertise_loadbalancer_ip: bool = field(default=False, name="advertiseLoadbalancerIp")
    bgp_graceful_restart: bool = True
    runs_service_proxy: bool = field(default=False, name="serviceProxy")

    @classmethod
    def implied_proxy_mode(cls, options: JsonMapping) -> str:
        return "none" if options.get("serviceProxy") in (True, "true") else "nftables"

    @property
    def requirements(self) -> Needs:
        if not self.runs_service_proxy:
            return self.needs
        ipvs = load("proxy", _SERVICE_PROXY, {}).requirements
        return structs.replace(
            self.needs,
            programs=(*self.needs.programs, *ipvs.programs),
            own_features=ipvs.own_features,
            root=ipvs.root,
        )

    def config_findings(self, config: ClusterConfig) -> Iterator[Finding]:
        proxy, _ = proxy_mode(config.networking)
        if self.runs_service_proxy and proxy != "none":
            yield Finding(
                ("networking", "cni", "serviceProxy"),
                f"kube-proxy implements Services, too: its mode is {proxy}",
                hints=("leave out networking.kubeProxyMode (--proxy), or set it to none",),
            )

    @property
    def service_proxy(self) -> ServiceProxy | None:
        return load("proxy", _SERVICE_PROXY, {}) if self.runs_service_proxy else None

    @property
    def needs_one_segment(self) -> bool:
        return True

    def manifests(self, cluster: Cluster) -> Iterator[Resource]:
        """Yield kube-router's ConfigMap and DaemonSet.

        Source: cloudnativelabs/kube-router daemonset/kubeadm-kuberouter.yaml (v2.5).
        """
        plugin = {
            "name": "kubernetes",
            "type": "bridge",
            "bridge": self.bridge,
            "isDefaultGateway": True,
            "hairpinMode": True,
            "ipam": {"type": "host-local"},
        }
        data = {"cni-conf.json": agents.cni_list("mynet", plugin)}
        yield agents.config_map(AGENT, "kube-router-cfg", data)
        args = (
            "--run-router=true",
            "--run-firewall=false",
            f"--run-service-proxy={str(self.runs_service_proxy).lower()}",
            f"--bgp-graceful-restart={str(self.bgp_graceful_restart).lower()}",
            f"--cluster-asn={self.cluster_asn}",
        )
        yield agents.daemon_set(AGENT, IMAGE, ("kube-router", "--health-port=20244"), args=args)

    def node(self, node: NodeView) -> Iterator[Object]:
        yield from super().node(node)
        refused = self.refused(node)
        learned = [cidr for cidr in self._announced_to(node) if cidr not in refused]
        yield from bird.bird(node.netns, self.speaker(node), learned)

    @property
    def has_bgp(self) -> bool:
        return True

    def speaker(self, node: NodeView) -> bgp.Speaker:
        """Return the speaker that announces the node's pod ranges."""
        services = [service for service in node.services if self._announces(service)]
        settings = self._bgp_settings(node)
        return bgp.Speaker(
            bgp.router_id(node.addresses),
            node.addresses,
            kube_router_bgp.sessions(node, settings),
            announced=tuple(family.pod_cidr for family in node.families),
            services=tuple(
                service.prefix
                for service in services
                if service.nodes is None or node.name in service.nodes
            ),
            unprogrammed=tuple(service.prefix for service in services),
            as_number=kube_router_bgp.as_number(settings, node.bgp),
            cluster_id=node.bgp.kube_router.cluster_id,
            keeps_routes=self.bgp_graceful_restart,
        )

    def _announces(self, service: ServiceAddress) -> bool:
        """Return True if nodes announce an address: by its annotation, or else by the options.

        Source: cloudnativelabs/kube-router pkg/controllers/routing/ecmp_vip.go.
        """
        if service.requested is not None:
            return service.requested
        by_kind = {
            "clusterip": self.advertise_cluster_ip,
            "externalip": self.advertise_external_ip,
            "loadbalancerip": self.advertise_loadbalancer_ip,
        }
        return by_kind[service.kind]

    def heard(self, node: NodeView) -> frozenset[str]:
        return kube_router_bgp.heard(node, self._bgp_settings(node))

    def refused(self, node: NodeView) -> Mapping[str, str]:
        if not node.bgp.kube_router.refused:
            return {}
        return {
            cidr: name
            for cidr, name in self._announced_to(node).items()
            if kube_router_bgp.is_refused(node, cidr)
        }

    def _announced_to(self, node: NodeView) -> Mapping[str, str]:
        """Return the ranges of pods that are announced to a node: range → its node."""
        heard = self.heard(node)
        return {
            family.pod_cidr: peer.name
            for peer in node.peers
            if peer.name in heard
            for family in peer.families
        }

    def _bgp_settings(self, node: NodeView) -> kube_router_bgp.Settings:
        has_mesh = not node.router_as if self.nodes_full_mesh is None else self.nodes_full_mesh
        return kube_router_bgp.Settings(self.cluster_asn, has_mesh)

    def masquerade(self, node: NodeView, config: MasqueradeConfig | None) -> Iterator[Object]:
        """Yield kube-router's rule; the ConfigMap of ip-masq-agent has no effect.

        Source: cloudnativelabs/kube-router pkg/controllers/routing/pod_egress.go,
        network_routes_controller.go (syncNodeIPSets).
        """
        for index, family in enumerate(node.families):
            nft = NFT_FAMILIES[family.version]
            of_nodes = [family, *(peer.families[index] for peer in node.peers)]
            yield Table(node.netns, nft, TABLE, f"rules for {TABLE}")
            address_type = (f"ipv{family.version}_addr",)
            ranges, addresses = SetType(address_type, is_interval=True), SetType(address_type)
            yield Collection(node.netns, nft, TABLE, POD_SUBNETS, ranges)
            yield Collection(node.netns, nft, TABLE, NODE_IPS, addresses)
            for other in of_nodes:
                yield Element(node.netns, nft, TABLE, POD_SUBNETS, ranges, (other.pod_cidr,))
                yield Element(node.netns, nft, TABLE, NODE_IPS, addresses, (other.address,))
            egress = rule(
                InSet((f"{nft} saddr",), POD_SUBNETS, is_interval=True),
                InSet((f"{nft} daddr",), POD_SUBNETS, is_negated=True, is_interval=True),
                InSet((f"{nft} daddr",), NODE_IPS, is_negated=True),
                Masquerade(is_fully_random=True),
            )
            yield Chain(
                node.netns, nft, TABLE, "postrouting", (egress,), Hook("nat", "postrouting", 100)
            )
