"""Node ports: the port of a Service on every node, and its health check node port.

A number belongs to one Service, whatever the protocol. Ports of a Service with the same number
(53 over UDP and over TCP) share one node port.
Source: k8s.io/kubernetes pkg/registry/core/service/storage/alloc.go, portallocator/allocator.go
(1.33); KEP-3668 for the bands.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator, Mapping
from itertools import chain

from msgspec import structs

from kubenetlab.api.core import Service, ServicePort, ServiceSpec
from kubenetlab.api.text.decode import Finding
from kubenetlab.api.text.documents import Path
from kubenetlab.api.validate.services import NODE_PORTS

STATIC_BAND = min(max(16, len(NODE_PORTS) // 32), 128)
"""Number of ports, from the start of the range, that are reserved for explicit requests."""


def node_ports_of(spec: ServiceSpec) -> tuple[int, ...]:
    """Return all node ports of a Service, each once."""
    return tuple(
        dict.fromkeys(
            number
            for number in (*(port.node_port for port in spec.ports), spec.health_check_node_port)
            if number
        )
    )


def has_node_ports(spec: ServiceSpec) -> bool:
    """Return True for the Service types that may have node ports."""
    return spec.type in ("NodePort", "LoadBalancer")


def needs_health_check(spec: ServiceSpec) -> bool:
    """Return True when a load balancer must know which nodes have local endpoints."""
    return spec.type == "LoadBalancer" and spec.external_traffic_policy == "Local"


def allocate(service: Service, taken: Mapping[int, str]) -> tuple[Service, list[Finding]]:
    """Return the Service with its node ports, and its problems.

    taken: node port → title of the Service that has it.
    """
    spec = service.spec
    if not has_node_ports(spec):
        ports = tuple(
            structs.replace(port, node_port=0) if port.node_port else port for port in spec.ports
        )
        return structs.replace(
            service, spec=structs.replace(spec, ports=ports, health_check_node_port=0)
        ), []
    unavailable = {number for number, owner in taken.items() if owner != service.title}
    findings: list[Finding] = []
    requested: dict[int, int] = {}
    """Node port → port of the Service that requests it."""
    for index, port in enumerate(spec.ports):
        if port.node_port and (
            port.node_port in unavailable
            or requested.setdefault(port.node_port, port.port) != port.port
        ):
            findings.append(
                _taken_finding(("spec", "ports", index, "nodePort"), port.node_port, taken)
            )
    numbers = {port_number: number for number, port_number in requested.items()}
    is_allocated = spec.type == "NodePort" or spec.allocate_load_balancer_node_ports is not False
    for index, port in enumerate(spec.ports if is_allocated else ()):
        if port.port not in numbers:
            numbers[port.port] = _draw(
                f"{service.full_name} {port.port}", {*unavailable, *numbers.values()}
            )
            findings += _range_full_findings(
                ("spec", "ports", index, "nodePort"), numbers[port.port]
            )
    health = spec.health_check_node_port if needs_health_check(spec) else 0
    if health in unavailable:
        findings.append(_taken_finding(("spec", "healthCheckNodePort"), health, taken))
    elif needs_health_check(spec) and not health:
        health = _draw(f"{service.full_name} health", {*unavailable, *numbers.values()})
        findings += _range_full_findings(("spec", "healthCheckNodePort"), health)
    spec = structs.replace(
        spec,
        ports=tuple(
            structs.replace(port, node_port=numbers[port.port])
            if is_allocated and not port.node_port
            else port
            for port in spec.ports
        ),
        health_check_node_port=health,
        allocate_load_balancer_node_ports=is_allocated if spec.type == "LoadBalancer" else None,
    )
    return structs.replace(service, spec=spec), findings


def keep_allocations(old: Service, new: Service) -> Service:
    """Return the new Service with the node ports that it leaves open.

    They are taken from the old Service, as far as the ports still exist.
    """
    before, spec = old.spec, new.spec
    if not (has_node_ports(before) and has_node_ports(spec)):
        return new
    requested = {port.node_port for port in spec.ports if port.node_port}
    known: dict[tuple[int, str], int] = {
        (port.port, port.protocol): port.node_port
        for port in before.ports
        if port.node_port not in requested
    }
    ports = tuple(_with_node_port(port, known) for port in spec.ports)
    health = spec.health_check_node_port or (
        before.health_check_node_port if needs_health_check(spec) else 0
    )
    return structs.replace(
        new, spec=structs.replace(spec, ports=ports, health_check_node_port=health)
    )


def forbidden_changes(old: Service, new: Service) -> Iterator[Finding]:
    """Yield the changes that are not allowed in an existing Service.

    Source: pkg/apis/core/validation ValidateServiceUpdate (1.33).
    """
    before, spec = old.spec, new.spec
    if (
        before.type == spec.type == "LoadBalancer"
        and before.load_balancer_class != spec.load_balancer_class
    ):
        yield Finding(
            ("spec", "loadBalancerClass"),
            f"may not change once set; it is {before.load_balancer_class or 'the default'}",
        )
    requested = spec.health_check_node_port
    if (
        needs_health_check(before)
        and needs_health_check(spec)
        and requested not in (0, before.health_check_node_port)
    ):
        yield Finding(
            ("spec", "healthCheckNodePort"),
            f"field is immutable; it is {before.health_check_node_port}",
        )


def _with_node_port(port: ServicePort, known: Mapping[tuple[int, str], int]) -> ServicePort:
    return (
        port
        if port.node_port
        else structs.replace(port, node_port=known.get((port.port, port.protocol), 0))
    )


def _draw(name: str, taken: Container[int]) -> int:
    """Return a free port number; 0 when there is none.

    Kubernetes draws at random above the static band and uses the band only when the rest is full.
    Here the draw is a hash of `name`, so that equal manifests give equal numbers.
    """
    first = NODE_PORTS[0] + STATIC_BAND
    count = NODE_PORTS[-1] + 1 - first
    draw = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])
    candidates = chain(
        (first + (draw + step) % count for step in range(count)), range(NODE_PORTS[0], first)
    )
    return next((number for number in candidates if number not in taken), 0)


def _taken_finding(path: Path, number: int, taken: Mapping[int, str]) -> Finding:
    owner = taken.get(number, "another port of this Service")
    return Finding(
        path,
        f"Invalid value: {number}: provided port is already allocated",
        hints=(f"it belongs to {owner}",),
    )


def _range_full_findings(path: Path, number: int) -> Iterator[Finding]:
    """Yield a finding when no free port number was drawn."""
    if not number:
        hints = (f"the range is {NODE_PORTS[0]}-{NODE_PORTS[-1]}",)
        yield Finding(path, "failed to allocate a nodePort: range is full", hints=hints)
