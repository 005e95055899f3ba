"""The lab's load balancer: the router sends what is for a Service's address to a node, whose kube-proxy does the rest. So it does
with external IPs, which in a cluster is the network's administrator's task.

To one node for each Service, the same as long as it is ready and its kube-proxy is healthy; with externalTrafficPolicy Local to one that
has a ready endpoint. Where none is fit, to any that is ready: a load balancer that finds nobody healthy still sends.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

from kubenetlab import names
from kubenetlab.api.core import Node, Service
from kubenetlab.api.store import Cluster
from kubenetlab.controllers.nodes import CONTROL_PLANE_LABEL
from kubenetlab.datapath.proxy_views import passes, proxy_view
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.route import Route

_EXCLUDING = frozenset((CONTROL_PLANE_LABEL, "node.kubernetes.io/exclude-from-external-load-balancers"))
"""Labels of nodes that take nothing in from outside, as long as there are others."""

Way = tuple[str, str]
"""(a load balancer's address, the address of the node that gets its packets)"""


def ways_in(cluster: Cluster) -> tuple[Way, ...]:
    """For every address of every Service, in order."""
    owned = {address for node in cluster.all(Node) for address in node.addresses}
    owned |= {address for host in cluster.config.external for address in host.addresses((4, 6))}
    found: dict[str, str] = {}
    for service in cluster.all(Service):
        free = [address for address in (*service.load_balancer_ips, *service.external_ips) if address not in owned and address not in found]
        found |= _ways(cluster, service, free)
    return tuple(found.items())


def routes(ways: Sequence[Way]) -> Iterator[Object]:
    """What the router knows of them."""
    for address, node in ways:
        yield Route(names.ROUTER, f"{address}/{128 if ':' in address else 32}", names.ROUTER_FABRIC_LINK, via=node)


def _ways(cluster: Cluster, service: Service, addresses: Iterable[str]) -> Iterator[Way]:
    for address in addresses:
        ready = [node for node in cluster.all(Node) if node.is_ready]
        workers = [node for node in ready if not _EXCLUDING.intersection(node.labels)] or ready
        if service.spec.external_traffic_policy == "Local":
            workers = [node for node in ready if passes(cluster, node.name, service)] or workers
        else:
            workers = [node for node in workers if proxy_view(cluster, node.name).is_healthy] or workers
        if not workers:
            continue
        # Each node draws by itself (rendezvous hashing): when one comes or goes, only what is its own moves.
        chosen = max(workers, key=lambda node: hashlib.sha256(f"{service.full_name} {node.name}".encode()).digest())
        node_address = next((own for own in chosen.addresses if (":" in own) == (":" in address)), None)
        if node_address is not None:
            yield address, node_address
