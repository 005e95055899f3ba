"""Input of every kube-proxy mode: Service ports and the endpoints usable from a node.

Source: k8s.io/kubernetes pkg/proxy/{serviceport,endpoint,topology}.go (CategorizeEndpoints), 1.33.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_address, ip_network

from msgspec import Struct

from kubenetlab.api.config import Network
from kubenetlab.api.core import Service, ServicePort, ServiceSpec
from kubenetlab.api.discovery import Endpoint
from kubenetlab.api.values import ip
from kubenetlab.datapath.services.view import ServiceView, is_proxied
from kubenetlab.datapath.view import NodePlace, NodeView
from kubenetlab.names import socket_address

PRIMARY = "primary"
"""Value of `nodePortAddresses` that stands for the node's own address."""


class EndpointAddress(Struct, frozen=True, order=True):
    """Address and port of an endpoint."""

    address: str
    port: int

    def __str__(self) -> str:
        return socket_address(self.address, self.port)


class PortView(Struct, frozen=True):
    """One port of one Service in one address family, with its endpoints as one node uses them."""

    namespace: str
    service: str
    port_name: str
    protocol: str
    """Protocol in lower case, as nft writes it."""
    cluster_ip: str
    port: int
    cluster_endpoints: tuple[EndpointAddress, ...]
    """Endpoints for new connections with the policy Cluster."""
    local_endpoints: tuple[EndpointAddress, ...] = ()
    """Endpoints for new connections with the policy Local: those on this node."""
    is_internal_local: bool = False
    """True if internalTrafficPolicy is Local."""
    virtual_ips: tuple[str, ...] = ()
    """Load balancer addresses that nodes translate (ipMode VIP)."""
    external_ips: tuple[str, ...] = ()
    """External IPs."""
    node_port: int = 0
    """Node port; 0 without one."""
    sources: tuple[str, ...] = ()
    """Ranges from which load balancer addresses may be reached; empty allows every client."""
    is_external_local: bool = False
    """True if externalTrafficPolicy is Local."""
    serving: tuple[EndpointAddress, ...] = ()
    """All endpoints that answer, also terminating ones: existing flows may continue to them."""
    affinity_s: int = 0
    """Timeout of session affinity in seconds; 0 without affinity."""

    @property
    def title(self) -> str:
        """`namespace/service:port`, as kube-proxy's comments name it."""
        return f"{self.namespace}/{self.service}" + (f":{self.port_name}" if self.port_name else "")

    @property
    def internal(self) -> tuple[EndpointAddress, ...]:
        """Endpoints for traffic to the cluster IP."""
        return self.local_endpoints if self.is_internal_local else self.cluster_endpoints

    @property
    def external(self) -> tuple[EndpointAddress, ...]:
        """Endpoints for traffic from outside."""
        return self.local_endpoints if self.is_external_local else self.cluster_endpoints

    @property
    def outside_ips(self) -> tuple[str, ...]:
        """External IPs and load balancer addresses, without the nodes' own addresses."""
        return tuple(dict.fromkeys((*self.external_ips, *self.virtual_ips)))

    @property
    def is_reached_from_outside(self) -> bool:
        """True if the port has any external address or a node port."""
        return bool(self.outside_ips or self.node_port)

    @property
    def uses_cluster_policy(self) -> bool:
        """True if some traffic may go to any endpoint."""
        return not self.is_internal_local or self.is_reached_from_outside

    @property
    def uses_local_policy(self) -> bool:
        """True if some traffic may go only to endpoints on this node."""
        return self.is_internal_local or (self.is_external_local and self.is_reached_from_outside)


def node_port_addresses(
    option: Sequence[str], node: NodeView | NodePlace, version: int
) -> tuple[str, ...] | None:
    """Return the addresses of one family at which node ports answer; None for all local addresses.

    option: `nodePortAddresses`: ranges, or `primary` for the node's own address. Ranges of the
    other family are ignored, and a range of length 0 means all.
    """
    ranges = [ip_network(text, strict=False) for text in option if text != PRIMARY]
    if not option or any(cidr.version == version and not cidr.prefixlen for cidr in ranges):
        return None
    family = next(family for family in node.families if family.version == version)
    inside = (
        address
        for address in family.local_addresses
        if any(ip_address(address) in cidr for cidr in ranges)
    )
    return tuple(dict.fromkeys((*((family.address,) if PRIMARY in option else ()), *inside)))


def depends_on_node(view: ServiceView) -> bool:
    """Return True if the rules of a Service differ between nodes."""
    spec = view.service.spec
    if (
        "Local" in (spec.internal_traffic_policy, spec.external_traffic_policy)
        or spec.load_balancer_source_ranges
    ):
        return True
    return any(
        endpoint.hints is not None for slice_ in view.slices for endpoint in slice_.endpoints
    )


def has_node_ports(service: Service) -> bool:
    """Return True if the Service has a node port."""
    return any(port.node_port for port in service.spec.ports)


def port_views(place: NodePlace, view: ServiceView, version: int) -> tuple[PortView, ...]:
    """Return the view of every port of a Service, for each of its cluster IPs of this family."""
    service = view.service
    if not is_proxied(service):
        return ()
    return tuple(
        _port_view(place, view, service, port, cluster_ip)
        for cluster_ip in ip.of_version(service.cluster_ips, version)
        for port in service.spec.ports
    )


def _port_view(
    place: NodePlace, view: ServiceView, service: Service, port: ServicePort, cluster_ip: str
) -> PortView:
    """Return the view of one port.

    An external address that an earlier Service has at the same port is left out.
    """
    version = ip.version_of(cluster_ip)
    endpoints = list(_endpoints(view, port, version))
    spec = service.spec

    def own(addresses: Iterable[str]) -> tuple[str, ...]:
        return tuple(
            address
            for address in addresses
            if ip.version_of(address) == version
            and (address, port.protocol, port.port) not in view.taken
        )

    balanced = own(service.virtual_ips)
    is_internal_local, is_external_local = (
        spec.internal_traffic_policy == "Local",
        spec.external_traffic_policy == "Local",
    )
    local = [
        (endpoint, address) for endpoint, address in endpoints if endpoint.node_name == place.node
    ]
    return PortView(
        namespace=service.namespace,
        service=service.name,
        port_name=port.name,
        protocol=port.protocol.lower(),
        cluster_ip=cluster_ip,
        port=port.port,
        cluster_endpoints=categorize(_hinted(endpoints, place)) or categorize(endpoints),
        local_endpoints=categorize(local) if is_internal_local or is_external_local else (),
        is_internal_local=is_internal_local,
        virtual_ips=balanced,
        external_ips=own(service.external_ips),
        node_port=port.node_port,
        sources=tuple(_sources(spec, place, balanced, version)) if balanced else (),
        is_external_local=is_external_local,
        serving=tuple(
            sorted(
                {
                    address
                    for endpoint, address in endpoints
                    if endpoint.conditions.is_ready or endpoint.conditions.is_serving
                }
            )
        ),
        affinity_s=spec.session_affinity_config.client_ip.timeout_seconds
        if spec.session_affinity == "ClientIP"
        else 0,
    )


def categorize(
    endpoints: Sequence[tuple[Endpoint, EndpointAddress]],
) -> tuple[EndpointAddress, ...]:
    """Return the ready endpoints, or if there are none those that serve while they terminate."""
    ready = [address for endpoint, address in endpoints if endpoint.conditions.is_ready]
    serving = [
        address
        for endpoint, address in endpoints
        if endpoint.conditions.is_serving and endpoint.conditions.is_terminating
    ]
    return tuple(sorted(set(ready or serving)))


def _hinted(
    endpoints: Sequence[tuple[Endpoint, EndpointAddress]], place: NodePlace
) -> list[tuple[Endpoint, EndpointAddress]]:
    """Return the ready endpoints hinted for this node, else for its zone; empty without either.

    Hints count only if every ready endpoint has one.
    """
    ready = [(endpoint, address) for endpoint, address in endpoints if endpoint.conditions.is_ready]
    for own, names in ((place.node, _for_nodes), (place.zone, _for_zones)):
        hinted = [(endpoint, address) for endpoint, address in ready if own in names(endpoint)]
        if own and hinted and all(names(endpoint) for endpoint, _ in ready):
            return hinted
    return []


def _for_nodes(endpoint: Endpoint) -> list[str]:
    return [node.name for node in endpoint.hints.for_nodes] if endpoint.hints else []


def _for_zones(endpoint: Endpoint) -> list[str]:
    return [zone.name for zone in endpoint.hints.for_zones] if endpoint.hints else []


def source_ranges(spec: ServiceSpec, version: int) -> list[Network]:
    """Return the loadBalancerSourceRanges of one family."""
    return [
        cidr
        for text in spec.load_balancer_source_ranges
        if (cidr := ip_network(text.strip(), strict=False)).version == version
    ]


def _sources(
    spec: ServiceSpec, place: NodePlace, balanced: Sequence[str], version: int
) -> Iterator[str]:
    """Yield the ranges of one family from which a load balancer's address may be reached.

    Ranges of only the other family exclude no client, as upstream. If the node is in a range, the
    load balancer's addresses are allowed too: what the node sends to one may come back from it.
    """
    ranges = source_ranges(spec, version)
    yield from (str(cidr) for cidr in ranges)
    own = [ip_address(address) for address in place.addresses]
    if any(address in cidr for cidr in ranges for address in own):
        yield from balanced


def _endpoints(
    view: ServiceView, port: ServicePort, version: int
) -> Iterator[tuple[Endpoint, EndpointAddress]]:
    for slice_ in view.slices:
        target_port = next(
            (
                entry.port
                for entry in slice_.ports
                if entry.name == port.name and entry.protocol == port.protocol
            ),
            None,
        )
        if target_port is None or slice_.address_type != f"IPv{version}":
            continue
        for endpoint in slice_.endpoints:
            yield endpoint, EndpointAddress(endpoint.addresses[0], target_port)
