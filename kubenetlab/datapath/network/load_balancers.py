"""The lab's load balancer: routes on the router to the addresses of Services.

The router forwards packets for a load balancer's address or an external IP to nodes, whose
kube-proxies translate them. (In a real cluster, routing external IPs is the task of the network's
administrator. Addresses with ipMode Proxy: balanced_ports.py.)

Each address has a group of next hops: all ready nodes with a healthy kube-proxy, or with
externalTrafficPolicy Local those with a ready endpoint. Flows are distributed by a hash of
addresses and ports, and a flow stays with its node as long as the node is in the group (a resilient
group). If no node qualifies, the group has every ready node, since a load balancer without healthy
targets still forwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_address
from zlib import crc32

from kubenetlab import names
from kubenetlab.api.core import Node, Service
from kubenetlab.api.store import Cluster
from kubenetlab.api.values import ip
from kubenetlab.controllers.nodes.nodes import CONTROL_PLANE_LABEL
from kubenetlab.datapath.proxy_views import ProxyViews, passes_health_check
from kubenetlab.datapath.services.view import reached_from_outside
from kubenetlab.hoststate.nexthop import Nexthop, NexthopGroup
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.route import Route
from kubenetlab.hoststate.sandbox import Sysctl

_EXCLUDING = frozenset(
    (CONTROL_PLANE_LABEL, "node.kubernetes.io/exclude-from-external-load-balancers")
)
"""Labels of nodes that get no traffic from outside as long as there are others."""

AddressNextHops = tuple[str, tuple[str, ...]]
"""(address of a load balancer, addresses of the nodes that get its packets)"""


def next_hops(
    cluster: Cluster, proxies: ProxyViews, announced: Sequence[str] = ()
) -> tuple[AddressNextHops, ...]:
    """Return the next hops of every external address of every Service, in order.

    announced: prefixes to which the router has routes by BGP; their addresses are left out.

    The address of a node or of an external host is left out, and an address of two Services belongs
    to the first.
    """
    owned = {address for node in cluster.all(Node) for address in node.addresses}
    owned |= {address for host in cluster.config.external for address in host.addresses((4, 6))}
    nodes_by_address: dict[str, tuple[str, ...]] = {}
    for service in reached_from_outside(cluster):
        if addresses := (*service.virtual_ips, *service.external_ips):
            free = [
                address
                for address in addresses
                if address not in owned
                and address not in nodes_by_address
                and not any(ip.is_in(address, prefix) for prefix in announced)
            ]
            nodes_by_address |= _next_hops(target_nodes(cluster, proxies, service), free)
    return tuple(nodes_by_address.items())


def routes(hops: Sequence[AddressNextHops], nodes: Sequence[tuple[str, int]]) -> Iterator[Object]:
    """Yield the objects of the router for these addresses.

    nodes: addresses of all nodes, each with the number of its segment. Each gets a next hop that
    stays, because a next hop that is deleted deletes its group and the route with it.
    """
    netns = names.ROUTER
    versions = {ip.version_of(address) for address, _ in hops}
    for version in sorted(versions):
        yield Sysctl(netns, f"net/ipv{version}/fib_multipath_hash_policy", "1")
    for node, segment in nodes:
        if ip.version_of(node) in versions:
            yield Nexthop(netns, node_number(node), names.router_link(segment), node)
    for address, chosen in hops:
        yield NexthopGroup(netns, group_number(address), tuple(sorted(map(node_number, chosen))))
        yield Route(
            netns, f"{address}/{128 if ':' in address else 32}", "", group=group_number(address)
        )


def node_number(address: str) -> int:
    """Return the id of a node's next hop.

    It is the last two bytes of an IPv4 address. For IPv6 the number of the subnet plus one, in the
    eighth byte, comes before them.
    """
    packed = ip_address(address).packed
    subnet = packed[7] + 1 if len(packed) == 16 else 0
    return subnet << 16 | int.from_bytes(packed[-2:], "big")


def group_number(address: str) -> int:
    """Return the id of an address's group of next hops."""
    return 1 << 30 | crc32(ip_address(address).packed) >> 2


def target_nodes(cluster: Cluster, proxies: ProxyViews, service: Service) -> Sequence[Node]:
    """Return the nodes that get the packets of a Service; all of them when no node is healthy.

    Source: k8s.io/cloud-provider controllers/service/controller.go (nodeIncludedPredicate).
    """
    ready = [node for node in cluster.all(Node) if node.is_ready]
    workers = [node for node in ready if not _EXCLUDING.intersection(node.labels)] or ready
    if service.spec.external_traffic_policy == "Local":
        return [
            node
            for node in workers
            if passes_health_check(proxies.of(node.name), node.name, service)
        ] or workers
    return [node for node in workers if proxies.of(node.name).is_healthy] or workers


def _next_hops(chosen: Sequence[Node], addresses: Iterable[str]) -> Iterator[AddressNextHops]:
    for address in addresses:
        if nodes := tuple(
            own for node in chosen for own in node.addresses if (":" in own) == (":" in address)
        ):
            yield address, nodes
