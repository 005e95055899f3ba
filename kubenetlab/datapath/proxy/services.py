"""What every kube-proxy mode begins with: each Service port, and the endpoints usable from this node.

Source: k8s.io/kubernetes pkg/proxy/{serviceport,endpoint,topology}.go (CategorizeEndpoints), 1.33.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_address, ip_network

from msgspec import Struct

from kubenetlab.api import ip
from kubenetlab.api.config import Network
from kubenetlab.api.core import Service, ServicePort, ServiceSpec
from kubenetlab.api.discovery import Endpoint
from kubenetlab.datapath.view import NodePlace, NodeView, ServiceView
from kubenetlab.names import socket_address

SERVICE_PROXY_NAME_LABEL = "service.kubernetes.io/service-proxy-name"
HEADLESS_LABEL = "service.kubernetes.io/headless"
PRIMARY = "primary"
"""Among the addresses of node ports: the node's own one."""


class Backend(Struct, frozen=True, order=True):
    """One place to which a connection may go."""

    address: str
    port: int

    def __str__(self) -> str:
        return socket_address(self.address, self.port)


class PortView(Struct, frozen=True):
    """One port of one Service in one address family, with its endpoints as this node sees them."""

    namespace: str
    service: str
    port_name: str
    protocol: str
    """In lower case, as nft writes it."""
    cluster_ip: str
    port: int
    everywhere: tuple[Backend, ...]
    """Where new connections go by the policy Cluster."""
    here: tuple[Backend, ...] = ()
    """The same by the policy Local: those on this node."""
    is_internal_local: bool = False
    """By which policy what comes for the cluster IP goes."""
    balanced_ips: tuple[str, ...] = ()
    """Load balancers' addresses that nodes take in themselves."""
    external_ips: tuple[str, ...] = ()
    """Other addresses outside that are given it."""
    node_port: int = 0
    """Under which it is reached at every node; 0: under none."""
    sources: tuple[str, ...] = ()
    """Who may come in by a load balancer's address; everybody when nothing is given."""
    is_external_local: bool = False
    """By which policy what comes from outside goes."""
    serving: tuple[Backend, ...] = ()
    """All that answer, those that terminate among them: to them flows that are there may go on leading."""
    affinity_s: int = 0
    """How long a client stays with its endpoint; 0: each connection is drawn anew."""

    @property
    def title(self) -> str:
        """`namespace/service:port`, as kube-proxy's comments name it."""
        return f"{self.namespace}/{self.service}" + (f":{self.port_name}" if self.port_name else "")

    @property
    def internal(self) -> tuple[Backend, ...]:
        """Where what comes for the cluster IP goes."""
        return self.here if self.is_internal_local else self.everywhere

    @property
    def external(self) -> tuple[Backend, ...]:
        """Where what comes from outside goes."""
        return self.here if self.is_external_local else self.everywhere

    @property
    def outside_ips(self) -> tuple[str, ...]:
        """Every address at which it is reached from outside, but for the nodes' own."""
        return tuple(dict.fromkeys((*self.external_ips, *self.balanced_ips)))

    @property
    def is_reached_from_outside(self) -> bool:
        """True when there is any way in."""
        return bool(self.outside_ips or self.node_port)

    @property
    def uses_cluster_policy(self) -> bool:
        """True when some traffic may go to any endpoint."""
        return not self.is_internal_local or self.is_reached_from_outside

    @property
    def uses_local_policy(self) -> bool:
        """True when some traffic may only go to this node's."""
        return self.is_internal_local or (self.is_external_local and self.is_reached_from_outside)


def node_port_addresses(
    wanted: Sequence[str], node: NodeView | NodePlace, version: int
) -> tuple[str, ...] | None:
    """At which addresses of one family node ports answer, by kube-proxy's option `nodePortAddresses`; None: at all that are local.

    `primary` is the node's own one. Ranges of the other family say nothing, and ranges that are everything ask for all.
    """
    ranges = [ip_network(text, strict=False) for text in wanted if text != PRIMARY]
    if not wanted or any(found.version == version and not found.prefixlen for found in ranges):
        return None
    family = next(family for family in node.families if family.version == version)
    own = (family.address, family.gateway)
    inside = (address for address in own if any(ip_address(address) in found for found in ranges))
    return tuple(dict.fromkeys((*((family.address,) if PRIMARY in wanted else ()), *inside)))


def is_proxied(service: Service) -> bool:
    """True unless the Service says that another proxy, or none, is to take care of it."""
    return SERVICE_PROXY_NAME_LABEL not in service.labels and HEADLESS_LABEL not in service.labels


def knows_places(view: ServiceView) -> bool:
    """True when it matters to a Service on which node its rules are."""
    spec = view.service.spec
    if (
        "Local" in (spec.internal_traffic_policy, spec.external_traffic_policy)
        or spec.load_balancer_source_ranges
    ):
        return True
    return any(endpoint.hints is not None for piece in view.slices for endpoint in piece.endpoints)


def has_node_ports(service: Service) -> bool:
    """True when it is reached at the nodes' own addresses."""
    return any(port.node_port for port in service.spec.ports)


def port_views(place: NodePlace, view: ServiceView, version: int) -> tuple[PortView, ...]:
    """Every port of a Service with a cluster IP of this family, as a node sees it."""
    service = view.service
    if not is_proxied(service):
        return ()
    cluster_ips = [
        cluster_ip for cluster_ip in service.cluster_ips if ip.version_of(cluster_ip) == version
    ]
    return tuple(
        _port_view(place, view, service, port, cluster_ip)
        for cluster_ip in cluster_ips
        for port in service.spec.ports
    )


def _port_view(
    place: NodePlace, view: ServiceView, service: Service, port: ServicePort, cluster_ip: str
) -> PortView:
    version = ip.version_of(cluster_ip)
    found = list(_endpoints(view, port, version))
    spec = service.spec

    def own(addresses: Iterable[str]) -> tuple[str, ...]:
        return tuple(
            found
            for found in addresses
            if ip.version_of(found) == version
            and (found, port.protocol, port.port) not in view.taken
        )

    balanced = own(service.virtual_ips)
    is_internal_local, is_external_local = (
        spec.internal_traffic_policy == "Local",
        spec.external_traffic_policy == "Local",
    )
    near = [(endpoint, address) for endpoint, address in found if endpoint.node_name == place.node]
    return PortView(
        namespace=service.namespace,
        service=service.name,
        port_name=port.name,
        protocol=port.protocol.lower(),
        cluster_ip=cluster_ip,
        port=port.port,
        everywhere=categorize(_near(found, place)) or categorize(found),
        here=categorize(near) if is_internal_local or is_external_local else (),
        is_internal_local=is_internal_local,
        balanced_ips=balanced,
        external_ips=own(service.external_ips),
        node_port=port.node_port,
        sources=tuple(_sources(spec, place, balanced, version)) if balanced else (),
        is_external_local=is_external_local,
        serving=tuple(
            sorted(
                {
                    address
                    for endpoint, address in found
                    if endpoint.conditions.is_ready or endpoint.conditions.is_serving
                }
            )
        ),
        affinity_s=spec.session_affinity_config.client_ip.timeout_seconds
        if spec.session_affinity == "ClientIP"
        else 0,
    )


def categorize(found: Sequence[tuple[Endpoint, Backend]]) -> tuple[Backend, ...]:
    """The ready endpoints; when there is none, those that are still serving while they terminate."""
    ready = [address for endpoint, address in found if endpoint.conditions.is_ready]
    serving = [
        address
        for endpoint, address in found
        if endpoint.conditions.is_serving and endpoint.conditions.is_terminating
    ]
    return tuple(sorted(set(ready or serving)))


def _near(
    found: Sequence[tuple[Endpoint, Backend]], place: NodePlace
) -> list[tuple[Endpoint, Backend]]:
    """Those that are meant for a node, or for its zone: where every ready endpoint says for whom it is meant, and one is for here."""
    ready = [(endpoint, address) for endpoint, address in found if endpoint.conditions.is_ready]
    for own, names in ((place.node, _for_nodes), (place.zone, _for_zones)):
        here = [(endpoint, address) for endpoint, address in ready if own in names(endpoint)]
        if own and here and all(names(endpoint) for endpoint, _ in ready):
            return here
    return []


def _for_nodes(endpoint: Endpoint) -> list[str]:
    return [node.name for node in endpoint.hints.for_nodes] if endpoint.hints else []


def _for_zones(endpoint: Endpoint) -> list[str]:
    return [zone.name for zone in endpoint.hints.for_zones] if endpoint.hints else []


def source_ranges(spec: ServiceSpec, version: int) -> list[Network]:
    """Of one family: from where a load balancer's address may be reached."""
    return [
        found
        for text in spec.load_balancer_source_ranges
        if (found := ip_network(text.strip(), strict=False)).version == version
    ]


def _sources(
    spec: ServiceSpec, place: NodePlace, balanced: Sequence[str], version: int
) -> Iterator[str]:
    """The ranges of one family; without any the other family's shut nobody out, as upstream.

    Where the node itself is in one, so is the load balancer's address: what the node sends to it may come back to the node as from it.
    """
    ranges = source_ranges(spec, version)
    yield from (str(found) for found in ranges)
    own = [ip_address(address) for address in place.addresses]
    if any(address in found for found in ranges for address in own):
        yield from balanced


def _endpoints(
    view: ServiceView, port: ServicePort, version: int
) -> Iterator[tuple[Endpoint, Backend]]:
    for piece in view.slices:
        number = next(
            (
                entry.port
                for entry in piece.ports
                if entry.name == port.name and entry.protocol == port.protocol
            ),
            None,
        )
        if number is None or piece.address_type != f"IPv{version}":
            continue
        for endpoint in piece.endpoints:
            yield endpoint, Backend(endpoint.addresses[0], number)
