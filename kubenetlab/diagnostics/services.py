"""Services that lead nowhere: a selector, a port or a name that fits nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from itertools import chain

from kubenetlab.api.core import Service, ServicePort
from kubenetlab.api.discovery import Endpoints
from kubenetlab.api.documents import Path
from kubenetlab.api.pods import LISTEN_ANNOTATION
from kubenetlab.api.store import Cluster
from kubenetlab.diagnostics.model import PORT_NOT_SERVED, Diagnostic, Scope
from kubenetlab.diagnostics.templates import PodTemplate, Templates
from kubenetlab.errors import did_you_mean


def check_services(cluster: Cluster, templates: Templates) -> Iterator[Diagnostic]:
    """Check every Service that a user gave; those that the lab makes itself are as they should be."""
    for service in cluster.all(Service):
        if (service.kind, *service.key) in cluster.given and not service.is_terminating:
            yield from check_service(cluster, service, templates)


def check_service(cluster: Cluster, service: Service, templates: Templates) -> Iterator[Diagnostic]:
    """Check one Service against what it selects."""
    if service.spec.type == "ExternalName":
        if _is_address(service.spec.external_name):
            message = f"{service.spec.external_name} is an address, and DNS answers with it as if it were a name: nothing resolves"
            hints = (
                "for an address: a Service without a selector, and an EndpointSlice with the address",
            )
            yield _of(service, "external-name-is-address", ("spec", "externalName"), message, hints)
    elif not service.spec.selector:
        yield from _check_endpoints(cluster, service)
    elif selected := templates.selected_by(service):
        for index, port in enumerate(service.spec.ports):
            yield from _check_port(service, index, port, selected)
    else:
        words = ",".join(f"{key}={value}" for key, value in service.spec.selector.items())
        message = f"no pod and no workload has the labels {words}{_nearest(service, templates)}"
        yield _of(service, "selector-matches-no-pod", ("spec", "selector"), message)


def _check_endpoints(cluster: Cluster, service: Service) -> Iterator[Diagnostic]:
    """Check the endpoints that a user gave to a Service without a selector: kube-proxy finds them by name and protocol of the port."""
    given = cluster.get(Endpoints, *service.key)  # before an EndpointSlice mirrors it
    subsets = (
        [one for one in given.subsets if one.addresses or one.not_ready_addresses]
        if given is not None
        else []
    )
    slices = [piece for piece in cluster.slices_of(service) if piece.endpoints]
    if not slices and not subsets:
        message = "it has neither a selector nor endpoints: connections are refused"
        hints = (
            f"add a selector, or an EndpointSlice with the label kubernetes.io/service-name: {service.name}",
        )
        yield _of(service, "no-selector-no-endpoints", ("spec",), message, hints)
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
            wanted = f"named {port.name}" if port.name else "without a name"
            message = (
                f"no endpoint has a {port.protocol} port {wanted}{guess}: connections are refused"
            )
            yield _of(
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
            ports = [
                known
                for template in selected
                for container in template.spec.long_running_containers
                for known in container.ports
            ]
            names = list(
                dict.fromkeys(
                    known.name for known in ports if known.name and known.protocol == port.protocol
                )
            )
            message = f"no selected pod has a {port.protocol} port named {port.target_port}{did_you_mean(port.target_port, names)}"
            declared = ", ".join(
                dict.fromkeys(
                    f"{known.name or '(no name)'} {known.container_port}/{known.protocol}"
                    for known in ports
                )
            )
            known_ports = f"{_titles(selected)} declares: {declared or 'no port'}"
            yield _of(service, "port-name-unknown", path, message, (known_ports,), port.port)
            return
    elif service.is_headless:
        return  # clients connect to the pods themselves, and the number is often a placeholder
    else:
        numbers = dict.fromkeys(selected, port.target_port)
    lacking = [
        template
        for template, number in numbers.items()
        if number is not None
        and template.listening is not None
        and (port.protocol, number) not in template.listening
    ]
    if lacking:
        number = numbers[lacking[0]]
        message = f"nothing listens on {number}/{port.protocol} in the pods of {_titles(lacking)}: connections are refused"
        listening = sorted(
            {
                f"{one}/{protocol}"
                for template in lacking
                for protocol, one in template.listening or ()
            }
        )
        hints = [f"they listen on {', '.join(listening) or 'no port'}"]
        if any(template.may_be_stated for template in lacking):
            stated = f'annotation {LISTEN_ANNOTATION}: "{number}/{port.protocol}" on the pod'
            hints.append(f"if the real image does listen there: {stated}, or --allow-undeclared")
        yield _of(service, PORT_NOT_SERVED, path, message, tuple(hints), port.port)


def _nearest(service: Service, templates: Templates) -> str:
    """Return what was perhaps meant: the nearest value of a label, or the nearest label."""
    for key, value in service.spec.selector.items():
        values = templates.values_of(service.namespace, key)
        if not values:
            if guess := did_you_mean(key, templates.labels_in(service.namespace)):
                return guess
        elif value not in values and (
            guess := did_you_mean(f"{key}={value}", [f"{key}={one}" for one in values])
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


def _of(
    service: Service,
    code: str,
    path: Path,
    message: str,
    hints: tuple[str, ...] = (),
    port: int = 0,
) -> Diagnostic:
    scope = Scope(services=(f"{service.namespace}/{service.name}",), port=port)
    return Diagnostic(
        code, service.kind, service.namespace, service.name, path, message, hints, scope
    )
