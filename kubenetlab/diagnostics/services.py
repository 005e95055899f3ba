"""Diagnostics of Services whose selector, port or external name matches nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from itertools import chain

from kubenetlab.api.core import Service, ServicePort
from kubenetlab.api.discovery import Endpoints
from kubenetlab.api.pods import LISTEN_ANNOTATION
from kubenetlab.api.store import Cluster
from kubenetlab.api.text.documents import Path
from kubenetlab.diagnostics.model import PORT_NOT_SERVED, Diagnostic, Scope
from kubenetlab.diagnostics.templates import PodTemplate, Templates
from kubenetlab.errors import did_you_mean


def check_services(cluster: Cluster, templates: Templates) -> Iterator[Diagnostic]:
    """Check every Service that a user created."""
    for service in cluster.all(Service):
        if (service.kind, *service.key) in cluster.given and not service.is_terminating:
            yield from check_service(cluster, service, templates)


def check_service(cluster: Cluster, service: Service, templates: Templates) -> Iterator[Diagnostic]:
    """Check one Service against the pods that it selects, or against its endpoints."""
    if service.spec.type == "ExternalName":
        if _is_address(service.spec.external_name):
            message = (
                f"{service.spec.external_name} is an address, not a DNS name: "
                "the name of the Service does not resolve"
            )
            hints = (
                "to reach an address, use a Service without a selector and an EndpointSlice with "
                "the address",
            )
            path = ("spec", "externalName")
            yield _diagnostic(service, "external-name-is-address", path, message, hints)
    elif not service.spec.selector:
        yield from _check_endpoints(cluster, service)
    elif selected := templates.selected_by(service):
        for index, port in enumerate(service.spec.ports):
            yield from _check_port(service, index, port, selected)
    else:
        labels = ",".join(f"{key}={value}" for key, value in service.spec.selector.items())
        message = f"no pod and no workload has the labels {labels}{_guess(service, templates)}"
        yield _diagnostic(service, "selector-matches-no-pod", ("spec", "selector"), message)


def _check_endpoints(cluster: Cluster, service: Service) -> Iterator[Diagnostic]:
    """Check the endpoints of a Service without a selector.

    kube-proxy matches their ports by name and protocol.
    """
    endpoints = cluster.get(Endpoints, *service.key)  # its mirroring slices may not exist yet
    subsets = [
        subset
        for subset in (endpoints.subsets if endpoints is not None else ())
        if subset.addresses or subset.not_ready_addresses
    ]
    slices = [piece for piece in cluster.slices_of(service) if piece.endpoints]
    if not slices and not subsets:
        message = "it has neither a selector nor endpoints: connections are refused"
        hints = (
            "add a selector, or an EndpointSlice with the label "
            f"kubernetes.io/service-name: {service.name}",
        )
        yield _diagnostic(service, "no-selector-no-endpoints", ("spec",), message, hints)
        return
    ports = chain(*(piece.ports for piece in slices), *(subset.ports for subset in subsets))
    known = dict.fromkeys((port.name, port.protocol) for port in ports)
    for index, port in enumerate(service.spec.ports if not service.is_headless else ()):
        if (port.name, port.protocol) not in known:
            names = (
                ", ".join(f"{name or '(no name)'}/{protocol}" for name, protocol in known)
                or "no port"
            )
            guess = did_you_mean(
                port.name, [name for name, protocol in known if name and protocol == port.protocol]
            )
            port_name = f"named {port.name}" if port.name else "without a name"
            message = (
                f"no endpoint has a {port.protocol} port {port_name}{guess}: "
                "connections are refused"
            )
            yield _diagnostic(
                service,
                "port-name-unknown",
                ("spec", "ports", index, "name"),
                message,
                (f"its endpoints have {names}",),
                port.port,
            )


def _check_port(
    service: Service, index: int, port: ServicePort, selected: Sequence[PodTemplate]
) -> Iterator[Diagnostic]:
    path: Path = ("spec", "ports", index, "targetPort")
    if isinstance(port.target_port, str):
        numbers = {
            template: template.number_of(port.target_port, port.protocol) for template in selected
        }
        if not any(numbers.values()):
            yield _unknown_port_diagnostic(service, port, port.target_port, path, selected)
            return
    elif service.is_headless:
        return  # clients connect to the pods directly, and the number is often a placeholder
    else:
        numbers = dict.fromkeys(selected, port.target_port)
    not_listening = [
        template
        for template, number in numbers.items()
        if number is not None
        and template.listening is not None
        and (port.protocol, number) not in template.listening
    ]
    if not_listening:
        target = f"{numbers[not_listening[0]]}/{port.protocol}"
        message = (
            f"nothing listens on {target} in the pods of {_titles(not_listening)}: "
            "connections are refused"
        )
        listening = sorted(
            {
                f"{number}/{protocol}"
                for template in not_listening
                for protocol, number in template.listening or ()
            }
        )
        hints = [f"they listen on {', '.join(listening) or 'no port'}"]
        if any(template.accepts_listen_annotation for template in not_listening):
            hints.append(
                "if the real image listens there: "
                f'annotation {LISTEN_ANNOTATION}: "{target}" on the pod, or --allow-undeclared'
            )
        yield _diagnostic(service, PORT_NOT_SERVED, path, message, tuple(hints), port.port)


def _unknown_port_diagnostic(
    service: Service, port: ServicePort, target: str, path: Path, selected: Sequence[PodTemplate]
) -> Diagnostic:
    """Return the diagnostic of a target port whose name no selected pod declares."""
    declared = [
        container_port
        for template in selected
        for container in template.spec.long_running_containers
        for container_port in container.ports
    ]
    names = dict.fromkeys(
        declaration.name
        for declaration in declared
        if declaration.name and declaration.protocol == port.protocol
    )
    guess = did_you_mean(target, list(names))
    message = f"no selected pod has a {port.protocol} port named {target}{guess}"
    shown = dict.fromkeys(
        f"{declaration.name or '(no name)'} {declaration.container_port}/{declaration.protocol}"
        for declaration in declared
    )
    hint = f"{_titles(selected)} declares: {', '.join(shown) or 'no port'}"
    return _diagnostic(service, "port-name-unknown", path, message, (hint,), port.port)


def _guess(service: Service, templates: Templates) -> str:
    """Return `; did you mean X?` for the nearest existing label of a selector, or nothing."""
    for key, value in service.spec.selector.items():
        values = templates.values_of(service.namespace, key)
        if not values:
            if guess := did_you_mean(key, templates.labels_in(service.namespace)):
                return guess
        elif value not in values and (
            guess := did_you_mean(f"{key}={value}", [f"{key}={known}" for known in values])
        ):
            return guess
    return ""


def _titles(templates: Sequence[PodTemplate]) -> str:
    titles = [template.owner.title for template in templates]
    return ", ".join(titles[:3]) + (f" and {len(titles) - 3} more" if len(titles) > 3 else "")


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _diagnostic(
    service: Service,
    code: str,
    path: Path,
    message: str,
    hints: tuple[str, ...] = (),
    port: int = 0,
) -> Diagnostic:
    scope = Scope(services=(f"{service.namespace}/{service.name}",), port=port)
    return Diagnostic.of(service, code, path, message, *hints, scope=scope)
