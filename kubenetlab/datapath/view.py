"""NodeView: what the agents on one node may know. Layers get this and nothing more, so node-locality is real.

A view is a value: two views are equal when nothing changed for the node, and then nothing is computed again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Network, ip_network
from typing import Literal

from msgspec import Struct, structs

from kubenetlab import names
from kubenetlab.api.config import NODE_SUBNET
from kubenetlab.api.core import Node, Service
from kubenetlab.api.discovery import EndpointSlice
from kubenetlab.api.lab import Attachment, Decisions
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster
from kubenetlab.controllers.ipam import attachment_of


class Peer(Struct, frozen=True):
    """Another node, as every node knows it from the API."""

    name: str
    address: str
    pod_cidr: str


class PodView(Struct, frozen=True):
    """What the wiring must know of a pod on this node; nothing that changes while the pod runs."""

    namespace: str
    name: str
    uid: str
    hostname: str
    is_host_network: bool
    address: str
    """Empty for a hostNetwork pod, which has its node's."""
    ifname: str
    """The node's end of its link."""

    @property
    def netns(self) -> str:
        return names.pod_netns(self.namespace, self.name, self.uid)

    @property
    def full_name(self) -> str:
        return f"{self.namespace}/{self.name}"


class NodeView(Struct, frozen=True):
    """One node: itself, its pods, the other nodes, and the lab's ranges and decisions."""

    name: str
    address: str
    pod_cidr: str
    peers: tuple[Peer, ...]
    pods: tuple[PodView, ...]
    """Those that have or get a sandbox."""
    cluster_cidr: str
    service_cidr: str
    dns_domain: str
    dns_address: str
    layout: Literal["onlink", "routed"]
    neighbors: Literal["dynamic", "permanent"]
    mtu: int = 1500

    @property
    def netns(self) -> str:
        return names.node_netns(self.name)

    @property
    def pod_network(self) -> IPv4Network:
        return IPv4Network(self.pod_cidr)

    @property
    def gateway(self) -> str:
        """The bridge's address, the pods' default gateway."""
        return str(self.pod_network[1])


class ServiceView(Struct, frozen=True):
    """A Service and the slices behind it."""

    service: Service
    slices: tuple[EndpointSlice, ...]


def router_address() -> str:
    """The fabric's way out, every node's default gateway."""
    return str(ip_network(NODE_SUBNET)[1])


def node_views(cluster: Cluster, decisions: Decisions, dns_address: str) -> list[NodeView]:
    """A view for each node, in order."""
    networking = cluster.config.networking
    has_network = networking.cni_mode[0] != "none"
    nodes = cluster.all(Node)
    peers = tuple(Peer(node.name, node.addresses[0], node.spec.pod_cidr) for node in nodes)
    return [
        NodeView(
            name=node.name,
            address=node.addresses[0],
            pod_cidr=node.spec.pod_cidr,
            peers=tuple(peer for peer in peers if peer.name != node.name),
            pods=tuple(_pod_views(cluster, cluster.pods_on(node.name), has_network)),
            cluster_cidr=str(networking.pod_networks[0]),
            service_cidr=str(networking.service_networks[0]),
            dns_domain=networking.dns_domain,
            dns_address=dns_address,
            layout=decisions.pod_layout,
            neighbors=decisions.neighbors,
        )
        for node in nodes
    ]


def without_pods(node: NodeView) -> NodeView:
    """The node for who need not know its pods and peers: the view stays equal while those come and go."""
    return structs.replace(node, pods=(), peers=())


def service_views(cluster: Cluster) -> tuple[ServiceView, ...]:
    """Every Service with its slices, in order."""
    return tuple(ServiceView(service, tuple(cluster.slices_of(service))) for service in cluster.all(Service))


def pod_view(pod: Pod, attachment: Attachment | None) -> PodView | None:
    """The pod as the wiring sees it; None while it cannot have a sandbox."""
    if pod.is_finished or (attachment is None and not pod.spec.host_network):
        return None
    hostname = names.hostname(pod.spec.node_name if pod.spec.host_network or attachment is None else pod.hostname)
    if pod.spec.host_network or attachment is None:
        return PodView(pod.namespace, pod.name, pod.uid, hostname, True, "", "")
    return PodView(pod.namespace, pod.name, pod.uid, hostname, False, attachment.addresses[0], attachment.host_ifname)


def _pod_views(cluster: Cluster, pods: Sequence[Pod], has_network: bool) -> Iterator[PodView]:
    for pod in pods:
        view = pod_view(pod, attachment_of(cluster, pod) if has_network else None)
        if view is not None:
            yield view
