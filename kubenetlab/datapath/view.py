"""NodeView: the part of the cluster that agents on one node know.

Layers get this and nothing more, so a node's objects cannot depend on what only other nodes know.
A view is a value: two views are equal when nothing changed for the node, and then nothing is
computed again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Final, Literal

from msgspec import Struct, structs

from kubenetlab import names
from kubenetlab.api.calico.bgp import PLUGIN_NAMESPACE
from kubenetlab.api.calico.ip_pools import IPPool
from kubenetlab.api.config import ClusterConfig, Network
from kubenetlab.api.core import ZONE_LABEL, Node
from kubenetlab.api.environment import Secret as SecretResource
from kubenetlab.api.lab import (
    Attachment,
    Decisions,
    LabSecret,
    NetworkFacts,
)
from kubenetlab.api.links import LinkSettings, link_settings
from kubenetlab.api.object_map import ObjectKey
from kubenetlab.api.plugins.host_local import host_local_options
from kubenetlab.api.pods import Pod
from kubenetlab.api.segments import router_address, segment_networks, segment_of
from kubenetlab.api.store import Cluster, Kind
from kubenetlab.api.values import ip
from kubenetlab.controllers.allocation.addresses import dns_address
from kubenetlab.controllers.nodes.ipam import ALLOCATORS, attachment_of, network, pod_cidrs
from kubenetlab.controllers.nodes.ipam.allocator import NodeRanges
from kubenetlab.datapath.bgp_view import BGP_KINDS, NO_BGP, BGPNode, BGPView, bgp_node, bgp_view
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.datapath.pod_view import PodView, pod_view
from kubenetlab.datapath.services.addresses import ServiceAddress, announced_addresses
from kubenetlab.hoststate.secret import Secret
from kubenetlab.versioned import VersionedMap

DEFAULT_ROUTES: Final = {4: "0.0.0.0/0", 6: "::/0"}
"""IP version → destination of the default route."""


class Family(Struct, frozen=True):
    """One address family of a node: its own address and the ranges of its pods."""

    address: str
    pod_cidr: str
    """Range that the cluster or the CNI mode assigns to the node; not every CNI mode uses it."""
    ranges: tuple[str, ...] = ()
    """Ranges from which the CNI mode assigns addresses on this node."""
    tunnels: Mapping[str, str] = {}
    """Kind of tunnel → address of the node's end, where the CNI mode assigns one."""
    has_gateway: bool = True
    """True if the node has the address `gateway`."""
    subnet: str = ""
    """Network of the node's link to the fabric."""
    gateway_number: int = 1
    """Number of the gateway in the pod range; a negative one counts from the end."""

    @property
    def pod_network(self) -> Network:
        return ip.network(self.pod_cidr)

    @property
    def version(self) -> int:
        """IP version, 4 or 6."""
        return self.pod_network.version

    @property
    def gateway(self) -> str:
        """Address of the bridge, and the pods' default gateway."""
        return _address_of(self.pod_cidr, self.gateway_number)

    def router_address(self, number: int = 1) -> str:
        """Return the address of a router of the fabric, by its number, on the node's network."""
        return router_address(ip.network(self.subnet), number)

    @property
    def local_addresses(self) -> tuple[str, ...]:
        """Addresses of the node at which its node ports may answer."""
        return (self.address, self.gateway) if self.has_gateway else (self.address,)

    @property
    def default_route(self) -> str:
        return DEFAULT_ROUTES[self.version]

    @property
    def host_length(self) -> int:
        """Prefix length of a single address: 32 or 128."""
        return self.pod_network.max_prefixlen


@lru_cache(maxsize=2048)  # called for the gateway of every pod
def _address_of(cidr: str, number: int) -> str:
    return str(ip.network(cidr)[number])


class Peer(Struct, frozen=True):
    """Another node, as every node knows it from the API."""

    name: str
    families: tuple[Family, ...]
    bgp: BGPNode = BGPNode()
    """Its settings of BGP."""


class NodeView(Struct, frozen=True, dict=True):
    """One node: itself, its pods, the other nodes, and the lab's ranges and decisions.

    Fields that hold addresses have one entry per family, the primary family first.
    """

    name: str
    families: tuple[Family, ...]
    peers: tuple[Peer, ...]
    pods: tuple[PodView, ...]
    """Pods that have or get a sandbox."""
    cluster_cidrs: tuple[str, ...]
    service_cidrs: tuple[str, ...]
    node_cidrs: tuple[str, ...]
    dns_domain: str
    dns_addresses: tuple[str, ...]
    neighbors: Literal["dynamic", "permanent"]
    link: LinkSettings = LinkSettings()
    """Settings of its link to the fabric."""
    seed: Secret = Secret(b"")
    """Random bytes of the lab from which keys are derived; empty before the lab is made."""
    password: Secret = Secret(b"")
    """Password of the CNI mode, from the Secret that its options name; empty without one."""
    ip_pools: tuple[IPPool, ...] = ()
    """Ranges from which CNI modes with blocks assign addresses, by name."""
    zone: str = ""
    """Value of the label topology.kubernetes.io/zone."""
    segment: int = 0
    """Number of its layer-2 segment; 0 on a switched fabric."""
    router_as: int = 0
    """Autonomous system of the fabric's router; 0 if the router has no BGP."""
    routers: int = 1
    """Number of routers between segments."""
    bgp: BGPNode = BGPNode()
    """Its settings of BGP."""
    bgp_view: BGPView = NO_BGP
    """Settings of BGP for all nodes."""
    services: tuple[ServiceAddress, ...] = ()
    """Addresses of Services, if the CNI plugin can announce them."""

    @property
    def netns(self) -> str:
        return names.node_netns(self.name)

    @property
    def mtu(self) -> int:
        """MTU of its link to the fabric, in bytes."""
        return self.link.mtu

    def is_on_link(self, peer: Peer) -> bool:
        """Return True if a peer is on the same segment, so that it can be a gateway."""
        return self.families[0].subnet == peer.families[0].subnet

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(family.address for family in self.families)

    def successor_of(self, pod: PodView) -> PodView | None:
        """Return the pod of this node that got the addresses of `pod` later."""
        if not pod.superseded_by:
            return None
        return next((other for other in self.pods if other.full_name == pod.superseded_by), None)

    @property
    def has_ipv6(self) -> bool:
        return any(family.version == 6 for family in self.families)

    @cached_property
    def pod_macs(self) -> tuple[tuple[tuple[str, str], ...], ...]:
        """(address, MAC) of all pods with a link of their own, for each family.

        Cached, so that all pods of a bridge share one value.
        """
        pods = [
            (pod.addresses, pod.mac)
            for pod in self.pods
            if not pod.is_host_network and self.successor_of(pod) is None
        ]
        return tuple(
            tuple((addresses[index], mac) for addresses, mac in pods)
            for index in range(len(self.families))
        )


class NodePlace(Struct, frozen=True):
    """The properties of a node on which the rules of a Service may depend."""

    node: str = ""
    families: tuple[Family, ...] = ()
    zone: str = ""

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(family.address for family in self.families)


ANYWHERE: Final = NodePlace()
"""Place of rules that are the same on every node."""


_NODE_VIEW_KINDS: Final[tuple[Kind, ...]] = (
    ClusterConfig,
    NetworkFacts,
    LabSecret,
    SecretResource,
    Node,
    Pod,
    Attachment,
    *BGP_KINDS,
    *dict.fromkeys(kind for type_ in ALLOCATORS.values() for kind in type_.watches),
)
"""Kinds from which node views are computed."""


def node_views(cluster: Cluster, decisions: Decisions, cache: PlanCache) -> Sequence[NodeView]:
    """Return a view for each node, in order."""
    decisions = same_decisions(decisions, cache)
    inputs = (decisions, *(cluster.by_key(kind) for kind in _NODE_VIEW_KINDS))
    views = cache.by_identity("node views", lambda: _node_views(cluster, decisions, cache), *inputs)
    # Apart from the other inputs, because endpoints change often.
    services = announced_addresses(cluster, network(cluster).agent, cache)
    if not services:
        return views
    return cache.by_identity(
        "views with services",
        lambda: [structs.replace(view, services=services) for view in views],
        views,
        services,
    )


def same_decisions(decisions: Decisions, cache: PlanCache) -> Decisions:
    """Return the decisions; the identical value while they are equal to the last ones."""
    return cache.same("decisions", "", decisions)


def _node_views(cluster: Cluster, decisions: Decisions, cache: PlanCache) -> list[NodeView]:
    """Return the views; those of nodes for which nothing changed are the identical values."""
    config = cluster.config
    networking = config.networking
    facts = network(cluster)
    pools = tuple(sorted(cluster.all(IPPool), key=lambda pool: pool.name))
    has_network = facts.has_network
    nodes = cluster.all(Node)
    seed = (cluster.get(LabSecret, "", "secret") or LabSecret()).seed
    bgp = bgp_view(cluster)
    password = cni_password(cluster, facts)
    peers = tuple(
        Peer(node.name, _families(cluster, facts, node), bgp_node(node, bgp)) for node in nodes
    )
    pods = _pod_views(cluster, cache, has_network=has_network)
    views = (
        NodeView(
            name=node.name,
            families=me.families,
            peers=tuple(peer for peer in peers if peer is not me),
            pods=tuple(
                view
                for pod in cluster.pods_on(node.name)
                if (view := pods.get(pod.key)) is not None
            ),
            cluster_cidrs=tuple(str(cidr) for cidr in networking.pod_networks),
            service_cidrs=tuple(str(cidr) for cidr in networking.service_networks),
            node_cidrs=tuple(str(cidr) for cidr in config.node_networks),
            dns_domain=networking.dns_domain,
            dns_addresses=tuple(dns_address(cidr) for cidr in networking.service_networks),
            neighbors=decisions.neighbors,
            ip_pools=pools,
            zone=node.labels.get(ZONE_LABEL, ""),
            segment=segment_of(config, node.addresses[0]),
            link=link_settings(config, node.name),
            seed=Secret(bytes.fromhex(seed)),
            bgp=me.bgp,
            bgp_view=bgp,
            router_as=config.fabric.bgp.as_number if config.fabric.bgp is not None else 0,
            routers=config.fabric.routers,
            password=password,
        )
        for node, me in zip(nodes, peers, strict=True)
    )
    return [cache.same("node view", view.name, view) for view in views]


def cni_password(cluster: Cluster, facts: NetworkFacts) -> Secret:
    """Return the password of the CNI mode; empty if it has none, or there is no such Secret."""
    resource = cluster.get(SecretResource, PLUGIN_NAMESPACE, facts.credential_name)
    return Secret(resource.decoded(facts.credential[1]) if resource is not None else b"")


def _families(cluster: Cluster, facts: NetworkFacts, node: Node) -> tuple[Family, ...]:
    ranges = ALLOCATORS[facts.ipam].ranges(cluster, node)
    return families(cluster.config, facts, node, ranges)


def families(
    config: ClusterConfig, facts: NetworkFacts, node: Node, ranges: Sequence[NodeRanges]
) -> tuple[Family, ...]:
    """Return the address families of a node to which the IPAM has assigned these ranges."""
    subnets = segment_networks(config, segment_of(config, node.addresses[0]))
    gateway = host_local_options(config.networking).gateway_number
    cidrs = pod_cidrs(facts, node, [own.cidrs for own in ranges])
    return tuple(
        Family(
            address,
            cidr or given,
            own.cidrs,
            own.tunnels,
            facts.has_gateway and bool(cidr),
            str(subnet),
            gateway,
        )
        for address, cidr, given, own, subnet in zip(
            node.addresses, cidrs, node.spec.pod_cidrs, ranges, subnets, strict=True
        )
    )


def without_pods(node: NodeView) -> NodeView:
    """Return the view without pods, which stays equal while pods come and go."""
    return structs.replace(node, pods=())


def without_pods_and_peers(node: NodeView) -> NodeView:
    """Return the view without pods and without other nodes."""
    return structs.replace(node, pods=(), peers=())


def _pod_views(
    cluster: Cluster, cache: PlanCache, *, has_network: bool
) -> VersionedMap[ObjectKey, PodView]:
    """Return the views of all pods that have or get a sandbox; only changed pods are compared."""
    pods = cluster.by_key(Pod)

    def view(key: ObjectKey) -> PodView | None:
        pod = pods.get(key)
        node = cluster.node(pod.spec.node_name) if pod is not None else None
        if pod is None or node is None:
            return None
        return pod_view(pod, node, attachment_of(cluster, pod) if has_network else None)

    nodes = cluster.by_key(Node)
    given = has_network, tuple((node.name, node.addresses) for node in nodes.values())
    return cache.each_key("pod views", view, pods, cluster.by_key(Attachment), given=given)
