"""Ports of policies that are ports of Services: policies see the ports of pods."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kubenetlab.api.core import Service, ServicePort
from kubenetlab.diagnostics.templates import PodTemplate


def translated_port(
    destinations: Sequence[PodTemplate], number: int, protocol: str
) -> tuple[str, str] | None:
    """Return (message, hint) if a Service translates a rule's port, and no destination has it.

    A rule with that port does not allow the connections to the Service.
    """
    if not destinations or any(_has(template, number, protocol) for template in destinations):
        return None
    for template in destinations:
        for service, port in _translated_ports(template):
            target = _target(port, template)
            if (port.port, port.protocol) == (number, protocol) and target not in (None, number):
                return (
                    f"no destination has the port {number}/{protocol}: it is the port of Service "
                    f"{service.full_name}, which sends connections to port {target} of its pods",
                    f"policies see the port of the pod: allow {target}/{protocol}",
                )
    return None


def _translated_ports(template: PodTemplate) -> Iterator[tuple[Service, ServicePort]]:
    """Yield the ports of the Services with an address of their own that select a pod."""
    for service in template.services:
        if not service.is_headless:
            yield from ((service, port) for port in service.spec.ports)


def _has(template: PodTemplate, number: int, protocol: str) -> bool:
    """Return True if a pod declares a port. One that declares none has those it listens on."""
    declared = {
        (port.protocol, port.container_port)
        for container in template.spec.long_running_containers
        for port in container.ports
    }
    present = declared or template.listening
    return present is None or (protocol, number) in present


def _target(port: ServicePort, template: PodTemplate) -> int | None:
    """Return the port of a pod to which a Service sends connections; None if it has none."""
    target = port.target_port if port.target_port is not None else port.port
    return target if isinstance(target, int) else template.number_of(target, port.protocol)
