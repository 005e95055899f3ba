"""NodeView: what the agents on one node may know. Layers get this and nothing more, so node-locality is real.

A view is a value: two views are equal when nothing changed for the node, and then nothing is computed again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache, partial
from typing import Any, Final, Literal

from msgspec import Struct, structs

from kubenetlab import names
from kubenetlab.api import ip
from kubenetlab.api.config import ClusterConfig, Network
from kubenetlab.api.core import ZONE_LABEL, Node, Service
from kubenetlab.api.discovery import Endpoint, EndpointSlice
from kubenetlab.api.lab import Attachment, Decisions, NetworkFacts
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster
from kubenetlab.controllers.addresses import dns_address
from kubenetlab.controllers.ipam import attachment_of, network
from kubenetlab.versioned import VersionedMap

DEFAULT_ROUTES: Final = {4: "0.0.0.0/0", 6: "::/0"}


class Family(Struct, frozen=True):
    """One address family of a node: its own address, its pods' range, and the gateway of that."""

    address: str
    pod_cidr: str

    @property
    def pod_network(self) -> Network:
        return ip.network(self.pod_cidr)

    @property
    def version(self) -> int:
        """4 or 6."""
        return self.pod_network.version

    @property
    def gateway(self) -> str:
        """The bridge's address, the pods' default gateway."""
        return _first_of(self.pod_cidr)

    @property
    def default_route(self) -> str:
        return DEFAULT_ROUTES[self.version]

    @property
    def host_length(self) -> int:
        """The prefix length of a single address: 32 or 128."""
        return self.pod_network.max_prefixlen


@lru_cache(maxsize=2048)  # every pod asks for its gateway
def _first_of(cidr: str) -> str:
    return str(ip.network(cidr)[1])


class Peer(Struct, frozen=True):
    """Another node, as every node knows it from the API."""

    name: str
    families: tuple[Family, ...]


class PodView(Struct, frozen=True):
    """What the wiring must know of a pod on this node; nothing that changes while the pod runs."""

    namespace: str
    name: str
    uid: str
    hostname: str
    is_host_network: bool
    addresses: tuple[str, ...]
    """One per family of its node; a hostNetwork pod has its node's."""
    ifname: str
    """The node's end of its link; none for a hostNetwork pod."""
    host_ports: tuple[tuple[str, str, int, int], ...] = ()
    """(hostIP or nothing, protocol, port of the node, port of the pod) of each that it takes; none for a hostNetwork pod."""

    @property
    def netns(self) -> str:
        return names.pod_netns(self.namespace, self.name, self.uid)

    @property
    def full_name(self) -> str:
        return f"{self.namespace}/{self.name}"


class NodeView(Struct, frozen=True, dict=True):
    """One node: itself, its pods, the other nodes, and the lab's ranges and decisions. Whatever has an address has one per family,
    the primary family first."""

    name: str
    families: tuple[Family, ...]
    peers: tuple[Peer, ...]
    pods: tuple[PodView, ...]
    """Those that have or get a sandbox."""
    cluster_cidrs: tuple[str, ...]
    service_cidrs: tuple[str, ...]
    node_cidrs: tuple[str, ...]
    dns_domain: str
    dns_addresses: tuple[str, ...]
    layout: Literal["onlink", "routed"]
    neighbors: Literal["dynamic", "permanent"]
    mtu: int = 1500
    zone: str = ""
    """By its label topology.kubernetes.io/zone."""

    @property
    def netns(self) -> str:
        return names.node_netns(self.name)

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(family.address for family in self.families)

    @property
    def has_ipv6(self) -> bool:
        return any(family.version == 6 for family in self.families)

    @cached_property
    def pod_macs(self) -> tuple[tuple[tuple[str, str], ...], ...]:
        """(address, MAC) of all pods with a link of their own, family by family: one value for all who share a bridge."""
        pods = [
            (pod.addresses, names.mac_of(pod.addresses[0]))
            for pod in self.pods
            if not pod.is_host_network
        ]
        return tuple(
            tuple((addresses[place], mac) for addresses, mac in pods)
            for place in range(len(self.families))
        )


class NodePlace(Struct, frozen=True):
    """The node on which a Service's rules are, as far as they depend on that."""

    node: str = ""
    families: tuple[Family, ...] = ()
    zone: str = ""

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(family.address for family in self.families)


ANYWHERE: Final = NodePlace()


Claim = tuple[str, str, int]
"""(address outside, protocol, port)"""


class ServiceView(Struct, frozen=True, dict=True):
    """A Service and the slices behind it."""

    service: Service
    slices: tuple[EndpointSlice, ...]
    taken: tuple[Claim, ...] = ()
    """Of its addresses outside those that another Service has already."""

    @cached_property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Those of the Service's primary family: a pod has an address in each."""
        families = self.service.spec.ip_families
        return tuple(
            endpoint
            for piece in self.slices
            if not families or piece.address_type == families[0]
            for endpoint in piece.endpoints
        )

    @cached_property
    def ready(self) -> int:
        """How many of them are ready."""
        return sum(endpoint.conditions.is_ready for endpoint in self.endpoints)


def router_address(subnet: Network) -> str:
    """The fabric's way out in one of the nodes' networks: every node's default gateway."""
    return str(subnet[1])


def node_views(cluster: Cluster, decisions: Decisions) -> Sequence[NodeView]:
    """A view for each node, in order."""
    known: list[tuple[Decisions, list[NodeView]]] = cluster.derived(
        "node views", list, (ClusterConfig, NetworkFacts, Node, Pod, Attachment)
    )
    found = next((views for others, views in known if others is decisions), None)
    if found is None:
        found = _node_views(cluster, decisions)
        known.append((decisions, found))
    return found


def _node_views(cluster: Cluster, decisions: Decisions) -> list[NodeView]:
    config = cluster.config
    networking = config.networking
    has_network = network(cluster).has_network
    nodes = cluster.all(Node)
    peers = tuple(Peer(node.name, _families(node)) for node in nodes)
    return [
        NodeView(
            name=node.name,
            families=me.families,
            peers=tuple(peer for peer in peers if peer is not me),
            pods=tuple(_pod_views(cluster, node, has_network)),
            cluster_cidrs=tuple(str(cidr) for cidr in networking.pod_networks),
            service_cidrs=tuple(str(cidr) for cidr in networking.service_networks),
            node_cidrs=tuple(str(cidr) for cidr in config.node_networks),
            dns_domain=networking.dns_domain,
            dns_addresses=tuple(dns_address(cidr) for cidr in networking.service_networks),
            layout=decisions.pod_layout,
            neighbors=decisions.neighbors,
            zone=node.labels.get(ZONE_LABEL, ""),
        )
        for node, me in zip(nodes, peers, strict=True)
    ]


def _families(node: Node) -> tuple[Family, ...]:
    return tuple(
        Family(address, cidr)
        for address, cidr in zip(node.addresses, node.spec.pod_cidrs, strict=True)
    )


def without_pods(node: NodeView) -> NodeView:
    """The node for who need not know its pods: the view stays equal while those come and go."""
    return structs.replace(node, pods=())


def by_itself(node: NodeView) -> NodeView:
    """The node for who need not know the other nodes either."""
    return structs.replace(node, pods=(), peers=())


def service_views(cluster: Cluster) -> VersionedMap[tuple[str, str], ServiceView]:
    """Every Service with its slices, in order. Of several that claim the same port of an address outside the first has it.

    A view that is like the one before the last change is that very value.
    """
    _, found = cluster.renewed("service views", partial(_service_views, cluster))
    return found  # type: ignore[no-any-return]


_Parts = tuple[VersionedMap[tuple[str, str], Any], ...]


def _service_views(
    cluster: Cluster, former: tuple[_Parts, VersionedMap[tuple[str, str], ServiceView]] | None
) -> Any:
    """The Services, their slices and what others have taken; and the views made of them."""
    services, slices = cluster.keyed(Service), cluster.slices_by_service
    taken: VersionedMap[tuple[str, str], tuple[Claim, ...]] = cluster.derived(
        "contested ports", lambda: VersionedMap(_taken(cluster)), (Service,)
    )
    parts: _Parts = (services, slices, taken)
    before, views = former or ((VersionedMap(), VersionedMap(), VersionedMap()), VersionedMap())
    touched = dict.fromkeys(
        key for now, then in zip(parts, before, strict=True) for key in now.news(then)
    )
    changes: dict[tuple[str, str], ServiceView | None] = {}
    for key in touched:
        service, view = services.get(key), views.get(key)
        made = (
            ServiceView(service, slices.get(key, ()), taken.get(key, ()))
            if service is not None
            else None
        )
        changes[key] = view if made == view else made
    return parts, views.with_changes(changes)


def _taken(cluster: Cluster) -> dict[tuple[str, str], tuple[Claim, ...]]:
    """Of each Service that is reached from outside: its ports at addresses where an earlier one has the same port."""
    claimed: set[Claim] = set()
    found: dict[tuple[str, str], tuple[Claim, ...]] = {}
    for service in reached_from_outside(cluster):
        outside = dict.fromkeys((*service.external_ips, *service.load_balancer_ips))
        claims = [
            (address, port.protocol, port.port)
            for address in outside
            for port in service.spec.ports
        ]
        if taken := tuple(claim for claim in claims if claim in claimed):
            found[service.key] = taken
        claimed.update(claims)
    return found


def reached_from_outside(cluster: Cluster) -> Sequence[Service]:
    """The Services with addresses outside: external IPs, or a load balancer's."""
    found: Sequence[Service] = cluster.derived(
        "reached from outside",
        lambda: [
            service
            for service in cluster.all(Service)
            if service.spec.external_ips or service.status.load_balancer.ingress
        ],
        (Service,),
    )
    return found


def pod_view(pod: Pod, node: Node, attachment: Attachment | None) -> PodView | None:
    """The pod as the wiring sees it; None while it cannot have a sandbox."""
    if pod.spec.host_network:
        found = PodView(
            pod.namespace, pod.name, pod.uid, names.hostname(node.name), True, node.addresses, ""
        )
    elif attachment is not None:
        hostname = names.hostname(pod.hostname)
        found = PodView(
            pod.namespace,
            pod.name,
            pod.uid,
            hostname,
            False,
            attachment.addresses,
            attachment.host_ifname,
            _host_ports(pod),
        )
    else:
        return None
    return None if pod.is_finished else found


def _host_ports(pod: Pod) -> tuple[tuple[str, str, int, int], ...]:
    ports = (
        port
        for container in pod.spec.long_running_containers
        for port in container.ports
        if port.host_port
    )
    return tuple(
        (port.host_ip, port.protocol, port.host_port, port.container_port) for port in ports
    )


def _pod_views(cluster: Cluster, node: Node, has_network: bool) -> Iterator[PodView]:
    for pod in cluster.pods_on(node.name):
        view = pod_view(pod, node, attachment_of(cluster, pod) if has_network else None)
        if view is not None:
            yield view
