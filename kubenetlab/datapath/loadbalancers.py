"""The lab's load balancer: the router sends what is for a Service's address to nodes, whose kube-proxies do the rest. So it does with
external IPs, which in a cluster is the network's administrator's task. (Addresses with ipMode Proxy: balanced_ports.py.)

Each address leads to a group of next hops: all nodes that are ready and whose kube-proxies are healthy, with externalTrafficPolicy
Local those that have a ready endpoint. Flows are shared out by addresses and ports, and each stays with its node as long as that is in
the group (a resilient group). Where no node is fit, any that is ready is: a load balancer that finds nobody healthy still sends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_address
from zlib import crc32

from kubenetlab import names
from kubenetlab.api import ip
from kubenetlab.api.core import Node, Service
from kubenetlab.api.store import Cluster
from kubenetlab.controllers.nodes import CONTROL_PLANE_LABEL
from kubenetlab.datapath.proxy_views import passes, proxy_view
from kubenetlab.datapath.view import reached_from_outside
from kubenetlab.hoststate.nexthop import Nexthop, NexthopGroup
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.route import Route
from kubenetlab.hoststate.sandbox import Sysctl

_EXCLUDING = frozenset(
    (CONTROL_PLANE_LABEL, "node.kubernetes.io/exclude-from-external-load-balancers")
)
"""Labels of nodes that take nothing in from outside, as long as there are others."""

Way = tuple[str, tuple[str, ...]]
"""(a load balancer's address, the addresses of the nodes that get its packets)"""


def ways_in(cluster: Cluster) -> tuple[Way, ...]:
    """For every address of every Service, in order."""
    owned = {address for node in cluster.all(Node) for address in node.addresses}
    owned |= {address for host in cluster.config.external for address in host.addresses((4, 6))}
    found: dict[str, tuple[str, ...]] = {}
    for service in reached_from_outside(cluster):
        if addresses := (*service.virtual_ips, *service.external_ips):
            free = [
                address for address in addresses if address not in owned and address not in found
            ]
            found |= _ways(cluster, service, free)
    return tuple(found.items())


def routes(ways: Sequence[Way], nodes: Sequence[str]) -> Iterator[Object]:
    """What the router knows of them. `nodes` are the addresses of all: a next hop that went would take its group along, and the route."""
    here, link = names.ROUTER, names.ROUTER_FABRIC_LINK
    versions = {ip.version_of(address) for address, _ in ways}
    for version in sorted(versions):
        yield Sysctl(here, f"net/ipv{version}/fib_multipath_hash_policy", "1")
    for node in nodes:
        if ip.version_of(node) in versions:
            yield Nexthop(here, node_number(node), link, node)
    for address, fit in ways:
        yield NexthopGroup(here, group_number(address), tuple(sorted(map(node_number, fit))))
        yield Route(
            here, f"{address}/{128 if ':' in address else 32}", "", group=group_number(address)
        )


def node_number(address: str) -> int:
    """A next hop's number: the end of its address, those of IPv6 above all others."""
    packed = ip_address(address).packed
    return int.from_bytes(packed[-2:], "big") + (1 << 16 if len(packed) == 16 else 0)


def group_number(address: str) -> int:
    """A group's number, by the address that leads to it."""
    return 1 << 30 | crc32(ip_address(address).packed) >> 2


def fit_nodes(cluster: Cluster, service: Service) -> Sequence[Node]:
    """The nodes that get a Service's packets."""
    ready = [node for node in cluster.all(Node) if node.is_ready]
    workers = [node for node in ready if not _EXCLUDING.intersection(node.labels)] or ready
    if service.spec.external_traffic_policy == "Local":
        return [node for node in ready if passes(cluster, node.name, service)] or workers
    return [node for node in workers if proxy_view(cluster, node.name).is_healthy] or workers


def _ways(cluster: Cluster, service: Service, addresses: Iterable[str]) -> Iterator[Way]:
    fit = fit_nodes(cluster, service)
    for address in addresses:
        if nodes := tuple(
            own for node in fit for own in node.addresses if (":" in own) == (":" in address)
        ):
            yield address, nodes
