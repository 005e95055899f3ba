"""Validation of Services, EndpointSlices and Endpoints."""

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address

from kubenetlab.api.core import Service, ServiceSpec, SessionAffinityConfig
from kubenetlab.api.discovery import EndpointPort, Endpoints, EndpointSlice
from kubenetlab.api.text.decode import Finding, found
from kubenetlab.api.text.documents import Path
from kubenetlab.api.validate.metadata import validate_labels
from kubenetlab.api.validate.syntax import (
    address_fault,
    not_a_range,
    port_name_fault,
    subdomain_fault,
)
from kubenetlab.api.values.ip import is_address, range_of
from kubenetlab.names import label_problem

NODE_PORTS = range(30000, 32768)
"""Range of node ports. Source: default of kube-apiserver --service-node-port-range."""
_LINK_LOCAL_MULTICAST = IPv4Network("224.0.0.0/24")
_NOT_IN_RANGE = (
    "provided port is not in the valid range. "
    f"The range of valid ports is {NODE_PORTS[0]}-{NODE_PORTS[-1]}"
)


def validate_service(service: Service) -> Iterator[Finding]:
    """Validate a Service on its own; yield every finding."""
    spec, path = service.spec, ("spec",)
    yield from validate_labels(spec.selector, (*path, "selector"))
    yield from _validate_external_ips(spec)
    if spec.type == "ExternalName":
        yield from _validate_external_name(spec)
        return
    if not spec.ports and spec.cluster_ip != "None":
        yield Finding(
            (*path, "ports"), "required: a Service with a cluster IP has at least one port"
        )
    yield from _validate_ports(spec)
    yield from _validate_addresses(spec)
    if spec.session_affinity == "None" and spec.session_affinity_config != SessionAffinityConfig():
        yield Finding(
            (*path, "sessionAffinityConfig"), "must not be set when session affinity is None"
        )
    yield from _validate_load_balancer(spec)
    if spec.cluster_ip == "None" and spec.type != "ClusterIP":
        yield Finding((*path, "clusterIP"), f"may not be None for a Service of type {spec.type}")
    if (
        spec.type == "ClusterIP"
        and spec.external_traffic_policy == "Local"
        and not spec.external_ips
    ):
        yield Finding(
            (*path, "externalTrafficPolicy"),
            "may only be set for externally-accessible Services "
            "(NodePort, LoadBalancer, externalIPs)",
        )


def _validate_load_balancer(spec: ServiceSpec) -> Iterator[Finding]:
    """Validate the fields for load balancers.

    Source: pkg/apis/core/validation ValidateService, validateLoadBalancerNodePorts (1.33).
    """
    is_balanced = spec.type == "LoadBalancer"
    if spec.load_balancer_source_ranges and not is_balanced:
        yield Finding(
            ("spec", "loadBalancerSourceRanges"), "may only be used when type is LoadBalancer"
        )
    for index, text in enumerate(spec.load_balancer_source_ranges):
        if not _is_range(text):
            message = not_a_range(text, "203.0.113.0/24")
            yield Finding(("spec", "loadBalancerSourceRanges", index), message)
    if spec.allocate_load_balancer_node_ports is not None and not is_balanced:
        yield Finding(
            ("spec", "allocateLoadBalancerNodePorts"), "may only be used when type is LoadBalancer"
        )
    if spec.health_check_node_port and not (
        is_balanced and spec.external_traffic_policy == "Local"
    ):
        message = "may only be set when type is LoadBalancer and externalTrafficPolicy is Local"
        yield Finding(("spec", "healthCheckNodePort"), message)
    elif spec.health_check_node_port and spec.health_check_node_port not in NODE_PORTS:
        yield Finding(
            ("spec", "healthCheckNodePort"),
            f"invalid value {spec.health_check_node_port}: {_NOT_IN_RANGE}",
        )
    if spec.load_balancer_class and not is_balanced:
        yield Finding(("spec", "loadBalancerClass"), "may only be used when type is LoadBalancer")


def _is_range(text: str) -> bool:
    """Return True for an address range. Spaces around it are allowed, as upstream."""
    return range_of(text.strip()) is not None


def _validate_external_name(spec: ServiceSpec) -> Iterator[Finding]:
    if not spec.external_name:
        yield Finding(("spec", "externalName"), "required with type ExternalName")
    elif fault := subdomain_fault(spec.external_name.removesuffix(".").lower()):
        yield Finding(("spec", "externalName"), fault)
    if spec.cluster_ip:
        yield Finding(("spec", "clusterIP"), "may not be set for a Service of type ExternalName")


def _validate_ports(spec: ServiceSpec) -> Iterator[Finding]:
    names: set[str] = set()
    ports: set[tuple[str, int]] = set()
    for index, port in enumerate(spec.ports):
        path: Path = ("spec", "ports", index)
        if port.name:
            if fault := label_problem(port.name):
                yield Finding((*path, "name"), fault)
            if port.name in names:
                yield Finding((*path, "name"), f"duplicate port name {found(port.name)}")
            names.add(port.name)
        elif len(spec.ports) > 1:
            yield Finding((*path, "name"), "required when a Service has several ports")
        if (port.protocol, port.port) in ports:
            yield Finding((*path, "port"), f"duplicate port {port.port}/{port.protocol}")
        ports.add((port.protocol, port.port))
        if isinstance(port.target_port, str) and (fault := port_name_fault(port.target_port)):
            yield Finding((*path, "targetPort"), fault)
    yield from _validate_node_ports(spec)


def _validate_node_ports(spec: ServiceSpec) -> Iterator[Finding]:
    node_ports: set[tuple[str, int]] = set()
    for index, port in enumerate(spec.ports):
        if not port.node_port:
            continue
        path: Path = ("spec", "ports", index, "nodePort")
        if spec.type == "ClusterIP":
            yield Finding(path, "may not be used when type is ClusterIP")
        elif port.node_port not in NODE_PORTS:
            yield Finding(path, f"invalid value {port.node_port}: {_NOT_IN_RANGE}")
        if (port.protocol, port.node_port) in node_ports:
            yield Finding(path, f"duplicate node port {port.node_port}/{port.protocol}")
        node_ports.add((port.protocol, port.node_port))


def _validate_external_ips(spec: ServiceSpec) -> Iterator[Finding]:
    """Validate external IPs, which Kubernetes does for every type of Service."""
    for index, address in enumerate(spec.external_ips):
        if fault := address_fault(address) or _special_fault(address):
            yield Finding(("spec", "externalIPs", index), fault)


def _validate_addresses(spec: ServiceSpec) -> Iterator[Finding]:
    path: Path = ("spec",)
    if spec.cluster_ip not in ("", "None") and not is_address(spec.cluster_ip):
        yield Finding(
            (*path, "clusterIP"),
            f'expected an IP address, "None" or nothing, found {found(spec.cluster_ip)}',
        )
    if spec.cluster_ips and spec.cluster_ip != spec.cluster_ips[0]:
        yield Finding(
            (*path, "clusterIPs", 0),
            f"expected the value of clusterIP ({spec.cluster_ip or 'nothing'}), "
            f"found {found(spec.cluster_ips[0])}",
        )
    if len(spec.cluster_ips) > 2:
        yield Finding(
            (*path, "clusterIPs"),
            f"expected at most 2, one per family, found {len(spec.cluster_ips)}",
        )
    for index, address in enumerate(spec.cluster_ips):
        if address != "None" and (fault := address_fault(address)):
            yield Finding((*path, "clusterIPs", index), fault)
    if len(set(spec.ip_families)) < len(spec.ip_families):
        yield Finding((*path, "ipFamilies"), "an IP family is listed twice")


def validate_endpoint_slice(piece: EndpointSlice) -> Iterator[Finding]:
    """Validate an EndpointSlice; yield every finding."""
    if len(piece.endpoints) > 1000:
        yield Finding(("endpoints",), f"expected at most 1000, found {len(piece.endpoints)}")
    version = {"IPv4": 4, "IPv6": 6}.get(piece.address_type)
    for index, endpoint in enumerate(piece.endpoints):
        path: Path = ("endpoints", index)
        for number, address in enumerate(endpoint.addresses):
            if version is None:
                if fault := subdomain_fault(address):
                    yield Finding((*path, "addresses", number), fault)
            elif not is_address(address) or ip_address(address).version != version:
                yield Finding(
                    (*path, "addresses", number),
                    f"expected an {piece.address_type} address, found {found(address)}",
                )
            elif fault := _special_fault(address):
                yield Finding((*path, "addresses", number), fault)
        if endpoint.node_name and (fault := subdomain_fault(endpoint.node_name)):
            yield Finding((*path, "nodeName"), fault)
        if endpoint.hostname and (fault := label_problem(endpoint.hostname)):
            yield Finding((*path, "hostname"), fault)
    yield from _validate_endpoint_ports(piece.ports, ())


def validate_endpoints(endpoints: Endpoints) -> Iterator[Finding]:
    """Validate an Endpoints object; yield every finding."""
    for index, subset in enumerate(endpoints.subsets):
        path: Path = ("subsets", index)
        if not subset.addresses and not subset.not_ready_addresses:
            yield Finding(path, "required: addresses or notReadyAddresses")
        for field, addresses in (
            ("addresses", subset.addresses),
            ("notReadyAddresses", subset.not_ready_addresses),
        ):
            for number, address in enumerate(addresses):
                if fault := address_fault(address.ip) or _special_fault(address.ip):
                    yield Finding((*path, field, number, "ip"), fault)
        yield from _validate_endpoint_ports(subset.ports, path)


def _special_fault(address: str) -> str | None:
    """Return the reason why an address cannot be an endpoint or external IP; None if it can.

    Source: pkg/apis/core/validation ValidateNonSpecialIP (1.33).
    """
    ip = ip_address(address)
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if ip.is_unspecified:
        return f"may not be unspecified, found {address}"
    if ip.is_loopback:
        return f"may not be in the loopback range (127.0.0.0/8, ::1/128), found {address}"
    if ip.is_link_local:
        return f"may not be in the link-local range (169.254.0.0/16, fe80::/10), found {address}"
    if _is_link_local_multicast(ip):
        ranges = "224.0.0.0/24, ffx2::/16"
        return f"may not be in the link-local multicast range ({ranges}), found {address}"
    return None


def _is_link_local_multicast(ip: IPv4Address | IPv6Address) -> bool:
    """Return True for a multicast address of link-local scope.

    The four flag bits of an IPv6 address are ignored (RFC 4291 section 2.7).
    """
    if isinstance(ip, IPv4Address):
        return ip in _LINK_LOCAL_MULTICAST
    return ip.packed[0] == 0xFF and ip.packed[1] & 0x0F == 2


def _validate_endpoint_ports(ports: Sequence[EndpointPort], path: Path) -> Iterator[Finding]:
    names = [port.name for port in ports]
    for index, port in enumerate(ports):
        if port.name and (fault := label_problem(port.name)):
            yield Finding((*path, "ports", index, "name"), fault)
        if port.name in names[:index]:
            yield Finding(
                (*path, "ports", index, "name"), f"duplicate port name {found(port.name)}"
            )
