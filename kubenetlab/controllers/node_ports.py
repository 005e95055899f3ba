"""Node ports: the number under which a port of a Service is reached at every node, and the one at which its health is asked for.

A number belongs to one Service, whatever the protocol; ports of one number in the same Service (53 by UDP and by TCP) share theirs.
Source: k8s.io/kubernetes pkg/registry/core/service/storage/alloc.go, portallocator/allocator.go (1.33); KEP-3668 for the bands.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator, Mapping
from itertools import chain

from msgspec import structs

from kubenetlab.api.core import Service, ServicePort, ServiceSpec
from kubenetlab.api.decode import Finding
from kubenetlab.api.documents import Path
from kubenetlab.api.validate.services import NODE_PORTS

STATIC_BAND = min(max(16, len(NODE_PORTS) // 32), 128)
"""So many ports at the beginning of the range are kept for those who ask for one."""


def node_ports_of(spec: ServiceSpec) -> tuple[int, ...]:
    """Every number of the range that a Service has."""
    return tuple(
        dict.fromkeys(
            number
            for number in (*(port.node_port for port in spec.ports), spec.health_check_node_port)
            if number
        )
    )


def has_node_ports(spec: ServiceSpec) -> bool:
    """True for the types that may have node ports."""
    return spec.type in ("NodePort", "LoadBalancer")


def needs_health_check(spec: ServiceSpec) -> bool:
    """True where a load balancer has to know which nodes have endpoints of their own."""
    return spec.type == "LoadBalancer" and spec.external_traffic_policy == "Local"


def allocate(service: Service, taken: Mapping[int, str]) -> tuple[Service, list[Finding]]:
    """The Service with its node ports; `taken` says whose each number is."""
    spec = service.spec
    if not has_node_ports(spec):
        ports = tuple(
            structs.replace(port, node_port=0) if port.node_port else port for port in spec.ports
        )
        return structs.replace(
            service, spec=structs.replace(spec, ports=ports, health_check_node_port=0)
        ), []
    others = {number for number, whose in taken.items() if whose != service.title}
    findings: list[Finding] = []
    own: dict[int, int] = {}
    """Node port → the Service's port that asks for it."""
    for index, port in enumerate(spec.ports):
        if port.node_port and (
            port.node_port in others or own.setdefault(port.node_port, port.port) != port.port
        ):
            findings.append(_taken(("spec", "ports", index, "nodePort"), port.node_port, taken))
    numbers = {asking: number for number, asking in own.items()}
    is_allocated = spec.type == "NodePort" or spec.allocate_load_balancer_node_ports is not False
    for index, port in enumerate(spec.ports if is_allocated else ()):
        if port.port not in numbers:
            numbers[port.port] = _drawn(
                f"{service.full_name} {port.port}", {*others, *numbers.values()}
            )
            findings += _full(("spec", "ports", index, "nodePort"), numbers[port.port])
    health = spec.health_check_node_port if needs_health_check(spec) else 0
    if health in others:
        findings.append(_taken(("spec", "healthCheckNodePort"), health, taken))
    elif needs_health_check(spec) and not health:
        health = _drawn(f"{service.full_name} health", {*others, *numbers.values()})
        findings += _full(("spec", "healthCheckNodePort"), health)
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
    """The new Service with the node ports that it leaves open as they were: those of ports that are there still."""
    before, spec = old.spec, new.spec
    if not (has_node_ports(before) and has_node_ports(spec)):
        return new
    asked = {port.node_port for port in spec.ports if port.node_port}
    known: dict[tuple[int, str], int] = {
        (port.port, port.protocol): port.node_port
        for port in before.ports
        if port.node_port not in asked
    }
    ports = tuple(_with_number(port, known) for port in spec.ports)
    health = spec.health_check_node_port or (
        before.health_check_node_port if needs_health_check(spec) else 0
    )
    return structs.replace(
        new, spec=structs.replace(spec, ports=ports, health_check_node_port=health)
    )


def forbidden_changes(old: Service, new: Service) -> Iterator[Finding]:
    """What may not change in a Service that exists. Source: pkg/apis/core/validation ValidateServiceUpdate (1.33)."""
    before, spec = old.spec, new.spec
    if (
        before.type == spec.type == "LoadBalancer"
        and before.load_balancer_class != spec.load_balancer_class
    ):
        yield Finding(
            ("spec", "loadBalancerClass"),
            f"may not change once set; it is {before.load_balancer_class or 'the default'}",
        )
    asked = spec.health_check_node_port
    if (
        needs_health_check(before)
        and needs_health_check(spec)
        and asked not in (0, before.health_check_node_port)
    ):
        yield Finding(
            ("spec", "healthCheckNodePort"),
            f"field is immutable; it is {before.health_check_node_port}",
        )


def _with_number(port: ServicePort, known: Mapping[tuple[int, str], int]) -> ServicePort:
    return (
        port
        if port.node_port
        else structs.replace(port, node_port=known.get((port.port, port.protocol), 0))
    )


def _drawn(name: str, taken: Container[int]) -> int:
    """A free number, 0 when there is none: at random above the static band, which is used only when the rest is full.

    The draw is a hash of the name, so that the same manifests give the same numbers.
    """
    first = NODE_PORTS[0] + STATIC_BAND
    count = NODE_PORTS[-1] + 1 - first
    draw = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])
    candidates = chain(
        (first + (draw + step) % count for step in range(count)), range(NODE_PORTS[0], first)
    )
    return next((number for number in candidates if number not in taken), 0)


def _taken(path: Path, number: int, taken: Mapping[int, str]) -> Finding:
    whose = taken.get(number, "another port of this Service")
    return Finding(
        path,
        f"Invalid value: {number}: provided port is already allocated",
        hints=(f"it belongs to {whose}",),
    )


def _full(path: Path, drawn: int) -> Iterator[Finding]:
    """What there is to say of a draw that found nothing."""
    if not drawn:
        hints = (f"the range is {NODE_PORTS[0]}-{NODE_PORTS[-1]}",)
        yield Finding(path, "failed to allocate a nodePort: range is full", hints=hints)
