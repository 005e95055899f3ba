"""Port forwarding: `8080:80`, `:http` and Services' ports, resolved to ports of one pod.

Source: k8s.io/kubectl pkg/cmd/portforward/portforward.go (translateServicePortToTargetPort,
convertPodNamedPortToNumber) and pkg/util (1.33).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from kubenetlab.api.containers import ContainerPort
from kubenetlab.api.core import Service, ServicePort
from kubenetlab.api.meta import matches_labels
from kubenetlab.api.pods import Pod
from kubenetlab.controllers.services.endpointslices import resolved_ports
from kubenetlab.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from kubenetlab.observe.inspection import Inspection

LOCALHOST = ("127.0.0.1", "::1")
MAX_PORT = 65535
_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]([-a-z0-9]*[a-z0-9])?")


class PortArgument(Struct, frozen=True):
    """One port argument as given."""

    remote: str
    """Number or name."""
    local: int | None = None
    """Port of this machine; 0 for any free port, None for the same number as the remote port."""


class Forward(Struct, frozen=True):
    """Port of this machine (0: any free port), and the port inside the lab to which it leads."""

    local: int
    remote: int


def parse_ports(arguments: Sequence[str]) -> list[PortArgument]:
    """Parse the port arguments: `80`, `8080:80`, `:80`, `8080:http`. Raises UsageError."""
    ports = [_parse_port(word) for word in arguments]
    taken: dict[int, str] = {}
    for word, port in zip(arguments, ports, strict=True):
        local = int(port.remote) if port.local is None and _is_number(port.remote) else port.local
        if local and local in taken:
            raise UsageError(
                f"{taken[local]} and {word} both use port {local} of this machine; "
                f"give one of them another, or :{port.remote}"
            )
        taken[local or 0] = word
    return ports


def parse_addresses(text: str) -> list[str]:
    """Parse `127.0.0.1,::1`; `localhost` stands for both. Raises UsageError."""
    addresses: dict[str, None] = {}
    for word in text.split(","):
        try:
            addresses |= dict.fromkeys(
                LOCALHOST if word == "localhost" else (str(ip_address(word)),)
            )
        except ValueError:
            raise UsageError(
                f'--address "{word}": expected localhost or IP addresses of this machine, '
                "separated by commas"
            ) from None
    return list(addresses)


def service_pod(service: Service, pods: Iterable[Pod], seen: Inspection) -> Pod:
    """Return the pod that is used for a Service: the first ready pod, else the first running one.

    Raises UsageError if there is none.
    """
    if not service.spec.selector or service.spec.type == "ExternalName":
        raise UsageError(f"{service.title} has no selector, and so no pods; name a pod")
    states = {
        (pod["namespace"], pod["name"]): (not pod["ready"], pod["name"])
        for pod in seen["pods"]
        if pod["pid"]
    }
    running = [
        pod
        for pod in pods
        if matches_labels(service.spec.selector, pod.labels) and pod.key in states
    ]
    if not running:
        raise UsageError(
            f"{service.title} has no pod that runs; "
            f"see: kubenetlab describe service {service.name} -n {service.namespace}"
        )
    return min(running, key=lambda pod: states[pod.key])


def to_service(asked: PortArgument, service: Service, pod: Pod) -> Forward:
    """Return the port of this pod for a port of a Service. Raises UsageError."""
    named = [port for port in service.spec.ports if asked.remote in (port.name, str(port.port))]
    ports = [port for port in named if port.protocol == "TCP"]
    if not ports:
        if named:
            raise UsageError(_not_tcp(f"port {asked.remote} of {service.title}", named[0].protocol))
        raise UsageError(
            f"{service.title} has no port {asked.remote}; "
            f"it has: {', '.join(map(_shown, service.spec.ports)) or 'none'}"
        )
    port = ports[0]
    # Ports of a headless Service are not translated: its clients connect to the pod itself.
    remote = port.port if service.is_headless else _in_pod(service, port, pod)
    return Forward(port.port if asked.local is None else asked.local, remote)


def to_pod(asked: PortArgument, pod: Pod) -> Forward:
    """Return a port of a pod, given as a number or as the name of a container's port.

    Raises UsageError.
    """
    declared = [port for container in pod.spec.long_running_containers for port in container.ports]
    named = [port for port in declared if asked.remote in (port.name, str(port.container_port))]
    ports = [port for port in named if port.protocol == "TCP"]
    if named and not ports:
        raise UsageError(_not_tcp(f"port {asked.remote} of {pod.title}", named[0].protocol))
    return _forward(
        asked, ports[0].container_port if ports else _number(asked, pod.title, declared)
    )


def to_host(asked: PortArgument, title: str) -> Forward:
    """Return a port of a node or an external host, whose ports have no names. Raises UsageError."""
    return _forward(asked, _number(asked, title, ()))


def _parse_port(word: str) -> PortArgument:
    local, colon, remote = word.rpartition(":")
    if remote.lower().endswith(("/udp", "/sctp")):
        raise UsageError(_not_tcp(word, remote.rpartition("/")[2].upper()))
    is_remote = (
        1 <= int(remote) <= MAX_PORT if _is_number(remote) else bool(_NAME.fullmatch(remote))
    )
    is_local = not local or (_is_number(local) and int(local) <= MAX_PORT)
    if not (is_remote and is_local):
        raise UsageError(
            f'"{word}": expected [LOCAL:]PORT, such as 80, 8080:80, :80 (any free local port) '
            "or 8080:http"
        )
    return PortArgument(remote, int(local or 0) if colon else None)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5


def _forward(asked: PortArgument, remote: int) -> Forward:
    return Forward(remote if asked.local is None else asked.local, remote)


def _number(asked: PortArgument, title: str, declared: Sequence[ContainerPort]) -> int:
    if _is_number(asked.remote):
        return int(asked.remote)
    names = [port.name for port in declared if port.name and port.protocol == "TCP"]
    raise UsageError(
        f'{title} has no port named "{asked.remote}"{did_you_mean(asked.remote, names)}; '
        f"it has: {', '.join(names) or 'none with a name'}"
    )


def _in_pod(service: Service, port: ServicePort, pod: Pod) -> int:
    resolved = resolved_ports(
        structs.replace(service, spec=structs.replace(service.spec, ports=(port,))), pod
    )
    if not resolved or resolved[0].port is None:
        raise UsageError(
            f'{service.title} sends port {port.port} to "{port.target_port}", '
            f"and {pod.title} has no port of that name"
        )
    return resolved[0].port


def _shown(port: ServicePort) -> str:
    return f"{port.port}/{port.protocol}" + (f" ({port.name})" if port.name else "")


def _not_tcp(subject: str, protocol: str) -> str:
    return (
        f"{subject}: {protocol} cannot be forwarded, only TCP can; from inside the lab, use "
        "kubenetlab ping SRC DST --udp PORT, or kubenetlab exec"
    )
