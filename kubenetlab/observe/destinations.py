"""Destinations of probes: the address of a target, and the object behind it."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct, structs

from kubenetlab.errors import UsageError
from kubenetlab.observe.expect import ClusterFacts, Destination, Expectation, ServiceTarget, expect
from kubenetlab.observe.node_ports import at_node
from kubenetlab.observe.policies.reasons import reasons
from kubenetlab.observe.request import ProbeSpecification, Transport
from kubenetlab.observe.service_ports import service_ports
from kubenetlab.observe.targets.grammar import Target, with_port
from kubenetlab.observe.targets.locations import Location
from kubenetlab.observe.targets.lookups import service_named
from kubenetlab.observe.targets.meanings import Meaning, resolve_name
from kubenetlab.observe.targets.resolution import node_ports, resolve
from kubenetlab.observe.targets.suggestions import suggest_similar

if TYPE_CHECKING:
    from kubenetlab.observe.inspection import Inspection


class SourceResolver(Protocol):
    """Name resolution of a source: its hosts file and its DNS servers."""

    async def resolve(self, name: str, versions: Sequence[int] = ()) -> str:
        """Return an address of `name`. Raises OSError with a readable message."""


class ResolvedDestination(Struct, frozen=True):
    """Destination of a probe: an address, and the object behind it where the lab knows it."""

    title: str
    """Target that leads to the same object, with the port of a Service."""
    address: str
    """Destination address; empty if DNS returns no address of the Service (see `unresolved`)."""
    port: int = 0
    protocol: Transport = "ICMP"
    known: Destination | None = None
    """Object behind the address whose reachability can be predicted."""
    lacking: str = ""
    """Ports of the Service, if it does not have the requested one; else empty."""
    service: tuple[str, str] | None = None
    """Namespace and name of the Service."""
    choice: str = ""
    """Object chosen for a bare name, if that is not obvious; else empty."""
    unresolved: str = ""
    """Error of the name resolution."""
    lookup_denials: tuple[str, ...] = ()
    """Network policies that deny the query of an unresolved name."""


async def find(
    resolver: SourceResolver,
    seen: Inspection,
    source: Location,
    target: Target,
    request: ProbeSpecification,
) -> ResolvedDestination:
    """Return the destination of a probe from `source` to `target`.

    Raises UsageError if there is none.
    """
    meant = resolve_name(target, seen, source)
    destination = await _find(resolver, seen, source, meant, request)
    is_service_too = any(text.startswith("svc:") for text in meant.alternatives)
    if target.kind != "word" or (meant.target.kind == "pod" and not is_service_too):
        return destination
    return structs.replace(destination, choice=meant.explanation(str(target.bare)))


async def _find(
    resolver: SourceResolver,
    seen: Inspection,
    source: Location,
    meant: Meaning,
    request: ProbeSpecification,
) -> ResolvedDestination:
    target, protocol = meant.target, request.protocol
    if meant.service is not None and source.kind == "pod":
        return await _by_name(resolver, seen, source, meant, request)
    if target.kind in ("svc", "lb"):
        return service_port(
            seen, source, target, protocol if protocol != "ICMP" else "", request.port
        )
    if target.kind == "nodeport":
        protocol = "TCP" if protocol == "ICMP" else protocol
        (first, *_) = node_ports(target, seen, request.port, protocol)
        node, _, name = target.name.partition("/")
        address = common(source, first.title, first.addresses)[0]
        at_addresses = at_node(seen, node, target.namespace, name, first.port, protocol)
        return ResolvedDestination(
            first.title,
            address,
            first.port,
            protocol,
            next((entry for entry in at_addresses if entry.address == address), None),
            service=(target.namespace, name),
        )
    port = _port_of(target, request)
    if target.kind in ("ip", "name"):
        title = str(target if target.scheme else target.bare)
        address = await _address(resolver, seen, source, meant)
        known = _service_at(seen, address, port, protocol)
        return ResolvedDestination(
            title,
            address,
            port,
            protocol,
            known,
            service=(known.namespace, known.name) if known is not None else None,
        )
    place = resolve(target, seen, is_destination=True)
    place = structs.replace(place, addresses=common(source, place.title, place.addresses))
    return ResolvedDestination(
        place.title, place.address, port, protocol, place if protocol == "ICMP" else None
    )


async def _address(
    resolver: SourceResolver, seen: Inspection, source: Location, meant: Meaning
) -> str:
    """Return the address itself, or the result of the source's name resolution."""
    target = meant.target
    if target.kind == "ip":
        return target.name
    try:
        return await resolver.resolve(target.name, source.versions)
    except OSError as error:
        if meant.service is not None:
            service = "/".join(meant.service)
            hint = f"; {source.title} does not use the cluster's DNS, use svc:{service}"
        elif error.errno == errno.ETIMEDOUT:  # no name server has answered about the name
            hint = ""
        else:
            hint = suggest_similar(target.name.partition(".")[0], seen, with_services=True)
        raise UsageError(f"{source.title}: {error.strerror or error}{hint}") from None


def _service_at(seen: Inspection, address: str, port: int, protocol: str) -> ServiceTarget | None:
    """Return the Service port at an address and port; None unless there is exactly one."""
    matching = [
        entry
        for entry in service_ports(seen)
        if (entry.address, entry.port, entry.protocol) == (address, port, protocol)
    ]
    return matching[0] if len(matching) == 1 else None


async def _by_name(
    resolver: SourceResolver,
    seen: Inspection,
    source: Location,
    meant: Meaning,
    request: ProbeSpecification,
) -> ResolvedDestination:
    """Return a Service's port at the address that the source's DNS returns.

    The destination is unresolved if this is not an address of the Service.
    """
    assert meant.service is not None
    namespace, name = meant.service
    entry = service_named(seen, namespace, name)
    assert entry is not None
    protocol = request.protocol if request.protocol != "ICMP" else ""
    if entry["cluster_ips"]:
        destination = service_port(
            seen, source, Target("svc", namespace, name), protocol, request.port
        )
        own = tuple(entry["cluster_ips"])
    else:
        # Without a port a headless Service is pinged: its addresses are those of pods.
        destination = ResolvedDestination("", "", request.http_port, request.protocol)
        own = tuple(endpoint["address"] for endpoint in entry["endpoints"] if endpoint["ready"])
    title = with_port(str(meant.target.bare), destination.port or None, destination.protocol)
    # Results are predicted only for ports of the Service: another port may be a mistake.
    known = None if destination.lacking else destination.known
    destination = structs.replace(destination, title=title, service=meant.service, known=known)
    try:
        address = await resolver.resolve(meant.target.name, source.versions)
    except OSError as error:
        return structs.replace(destination, address="", unresolved=error.strerror or str(error))
    if own and address not in own:
        wrong = (
            f"lookup {meant.target.name}: DNS answers {address}, "
            f"but Service {namespace}/{name} has {', '.join(own)}"
        )
        return structs.replace(destination, address="", unresolved=wrong)
    return structs.replace(destination, address=address)


def expected_outcome(
    source: Location, destination: ResolvedDestination, facts: ClusterFacts
) -> Expectation | None:
    """Return the expected outcome of a probe; None if Kubernetes promises nothing about it.

    For example, it does not promise that a pod listens on a port. But if network policies deny the
    connection, nothing answers.
    """
    if destination.known is not None:
        return expect(source, destination.known, facts)
    if facts.policies is None or not destination.address:
        return None
    decision = facts.policies.decision(
        source, destination.address, destination.port, destination.protocol
    )
    return "nothing" if decision == "denied" else None


def policy_reasons(
    source: Location, destination: ResolvedDestination, facts: ClusterFacts
) -> list[str]:
    """Return the effect of network policies on a probe; nothing without policies about it."""
    if facts.policies is None or not destination.address:
        return []
    return reasons(
        facts.policies, source, destination.address, destination.port, destination.protocol
    )


def _port_of(target: Target, request: ProbeSpecification) -> int:
    """Return the port of the request; 0 for a ping.

    Raises UsageError where the protocol needs a port.
    """
    if request.protocol != "ICMP" and not request.http_port:
        raise UsageError(
            f"{target}: {request.protocol} needs a port, such as {with_port(str(target), 80)}"
        )
    return request.http_port


def common(source: Location, title: str, addresses: Sequence[str]) -> tuple[str, ...]:
    """Return the addresses of families that the source has, its primary family first.

    Raises UsageError if there is none.
    """
    shared = tuple(
        address
        for version in source.versions
        for address in addresses
        if ip_address(address).version == version
    )
    if not shared:
        raise UsageError(
            f"{source.title} ({', '.join(source.addresses)}) and {title} ({', '.join(addresses)}) "
            "have no family in common"
        )
    return shared


def service_port(
    seen: Inspection, source: Location, target: Target, protocol: str, port: int | None
) -> ResolvedDestination:
    """Return a port of a Service at its address of the source's first common family.

    The port is the requested one, or the first of the protocol.
    protocol: empty for any. Raises UsageError for a Service without such an address.
    """
    service = (target.namespace, target.name)
    of_kind = [
        entry
        for entry in service_ports(seen)
        if entry.is_outside == (target.kind == "lb") and not entry.is_external_ip
    ]
    all_ports = [entry for entry in of_kind if (entry.namespace, entry.name) == service]
    ports = [
        entry
        for version in source.versions
        for entry in all_ports
        if ip_address(entry.address).version == version
    ]
    if all_ports and not ports:
        raise UsageError(
            f"{source.title} and svc:{target.namespace}/{target.name} ({all_ports[0].address}) "
            "have no family in common"
        )
    if not ports:
        _require_address(seen, target)
        known = sorted({f"{target.kind}:{entry.namespace}/{entry.name}" for entry in of_kind})
        address_kind = "cluster IP" if target.kind == "svc" else "load balancer's address"
        similar = (
            suggest_similar(target.name, seen, with_services=True)
            if service_named(seen, *service) is None
            else ""
        )
        raise UsageError(
            f"there is no Service {'/'.join(service)} with a {address_kind}{similar}; "
            f"known: {', '.join(known) or 'none'}"
        )
    matching = [
        entry
        for entry in ports
        if (not protocol or entry.protocol == protocol) and (port is None or entry.port == port)
    ]
    if matching:
        return ResolvedDestination(
            matching[0].title,
            matching[0].address,
            matching[0].port,
            matching[0].protocol,
            matching[0],
            service=service,
        )
    missing = structs.replace(
        ports[0], port=port or ports[0].port, protocol=protocol or "TCP", endpoints=(), nodes=()
    )
    has = ", ".join(dict.fromkeys(f"{entry.port}/{entry.protocol}" for entry in ports))
    lacking = f"the Service has no port {missing.port}/{missing.protocol}; it has {has}"
    # A load balancer's address leads nowhere at ports that the Service does not have.
    known_object = None if missing.is_outside else missing
    return ResolvedDestination(
        missing.title,
        missing.address,
        missing.port,
        missing.protocol,
        known_object,
        lacking,
        service,
    )


def _require_address(seen: Inspection, target: Target) -> None:
    """Raise UsageError for a Service without an address of its own.

    The message proposes a ping of its DNS name instead.
    """
    entry = service_named(seen, target.namespace, target.name)
    if entry is None or entry["cluster_ips"]:
        return
    kind = "of type ExternalName" if entry["type"] == "ExternalName" else "headless"
    ports = [endpoint["port"] for endpoint in entry["endpoints"]] or [
        port["port"] for port in entry["ports"]
    ]
    port = f" --{entry['ports'][0]['protocol'].lower()} {ports[0]}" if entry["ports"] else ""
    command = f"kubenetlab ping SRC {target.name}.{target.namespace}{port}"
    raise UsageError(
        f"Service {target.namespace}/{target.name} is {kind}, it has no address of its own; "
        f"use its name: {command}"
    )
