"""Ports of pods and of hosts outside as destinations of probes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

from kubenetlab.api.containers import Protocol
from kubenetlab.observe.expect import ClusterFacts, Destination, Expectation, ServiceTarget
from kubenetlab.observe.targets.grammar import pod_title, with_port
from kubenetlab.observe.targets.locations import Location

if TYPE_CHECKING:
    from kubenetlab.observe.inspection import InspectedExternalHost, Inspection


class PodPort(ServiceTarget, frozen=True):
    """One port of a pod at one of its addresses, which is also its only endpoint."""

    is_served: bool = True
    """False for a port on which nothing listens: the kernel refuses allowed connections."""

    @property
    def title(self) -> str:
        family = f" {self.family}" if self.family else ""
        return with_port(pod_title(self.namespace, self.name), self.port, self.protocol) + family


class HostPort(ServiceTarget, frozen=True):
    """One port of an external host at one of its addresses."""

    is_served: bool = True
    """False for a port on which nothing listens: the kernel refuses allowed connections."""

    @property
    def title(self) -> str:
        family = f" {self.family}" if self.family else ""
        return with_port(f"ext:{self.name}", self.port, self.protocol) + family


def pod_ports(seen: Inspection) -> Iterator[PodPort]:
    """Yield the ports on which the containers of running pods listen.

    Pods with hostNetwork are left out: their ports are those of their node.
    """
    for pod in seen["pods"]:
        if not pod["pid"] or pod["host_network"]:
            continue
        listening = dict.fromkeys(
            text for container in pod["containers"] for text in container.get("listening", ())
        )
        for address in pod["addresses"]:
            family = "IPv6" if ":" in address else "IPv4"
            for text in listening:
                number, _, protocol = text.partition("/")
                yield PodPort(
                    pod["namespace"],
                    pod["name"],
                    address,
                    int(number),
                    cast(Protocol, protocol),
                    ((address, int(number)),),
                    family=family if len(pod["addresses"]) > 1 else "",
                )


def host_ports(seen: Inspection) -> Iterator[HostPort]:
    """Yield the ports on which external hosts serve."""
    for host in seen["external"]:
        if host["pid"]:
            for address in host["addresses"]:
                for number in host.get("ports", ()):  # absent from an agent of an earlier version
                    yield host_port(host, address, number)


def host_port(
    host: InspectedExternalHost,
    address: str,
    number: int,
    protocol: Protocol = "TCP",
    *,
    is_served: bool = True,
) -> HostPort:
    """Return a port of an external host at one of its addresses."""
    family = "IPv6" if ":" in address else "IPv4"
    return HostPort(
        "",
        host["name"],
        address,
        number,
        protocol,
        ((address, number),),
        family=family if len(host["addresses"]) > 1 else "",
        is_served=is_served,
    )


def is_served(destination: Destination) -> bool:
    """Return False for a port on which nothing listens."""
    return not isinstance(destination, PodPort | HostPort) or destination.is_served


def expect_port(source: Location, port: PodPort | HostPort, context: ClusterFacts) -> Expectation:
    """Return the expected outcome of a connection to a port of a pod or of an external host."""
    if isinstance(port, HostPort):
        is_known = True
    elif source.kind not in ("pod", "node") and not context.is_announced(port.address):
        return "nothing"
    else:
        # The port of a program of the user may be open later, or never.
        is_known = port.address in context.listening
    if context.policies is not None:
        decision = context.policies.decision(source, port.address, port.port, port.protocol)
        if decision == "denied":
            return "nothing"
        is_known = is_known and decision == "allowed"
    if not is_known:
        return "any"
    return "answer" if port.is_served else "refused"
