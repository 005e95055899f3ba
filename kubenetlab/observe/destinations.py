"""Destinations of probes: the address of a target, and the object behind it that an expectation needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Any, Protocol

from msgspec import Struct, structs

from kubenetlab.errors import UsageError
from kubenetlab.observe.expect import Destination, ServiceTarget, service_ports
from kubenetlab.observe.grammar import Target, with_port
from kubenetlab.observe.locations import Location
from kubenetlab.observe.lookups import service_named
from kubenetlab.observe.meanings import Meaning, meaning
from kubenetlab.observe.request import ProbeSpecification
from kubenetlab.observe.suggestions import near
from kubenetlab.observe.targets import node_ports, resolve


class SourceResolver(Protocol):
    """Name resolution of a source: its hosts file and its DNS servers."""

    async def resolve(self, name: str, versions: Sequence[int] = ()) -> str:
        """Return an address of `name`. Raises OSError with a readable message."""


class ResolvedDestination(Struct, frozen=True):
    """Destination of a probe: an address, and the object behind it where the lab knows it."""

    title: str
    """A target that leads to the same object; of a Service with its port."""
    address: str
    """Empty where DNS gives no address of the Service; `unresolved` has the reason."""
    port: int = 0
    protocol: str = "ICMP"
    known: Destination | None = None
    lacking: str = ""
    """Ports of the Service, where it does not have the requested one."""
    service: tuple[str, str] | None = None
    """Namespace and name of the Service."""
    choice: str = ""
    """The object chosen for a bare name, where that is not obvious."""
    unresolved: str = ""


async def find(
    resolver: SourceResolver,
    seen: Mapping[str, Any],
    source: Location,
    target: Target,
    request: ProbeSpecification,
) -> ResolvedDestination:
    """Return where a probe from `source` to `target` goes. Raises UsageError."""
    meant = meaning(target, seen, source)
    where = await _find(resolver, seen, source, meant, request)
    is_service_too = any(text.startswith("svc:") for text in meant.alternatives)
    if target.kind != "word" or (meant.target.kind == "pod" and not is_service_too):
        return where
    return structs.replace(where, choice=meant.explanation(str(target.bare)))


async def _find(
    resolver: SourceResolver,
    seen: Mapping[str, Any],
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
        service = (target.namespace, target.name.rpartition("/")[2])
        return ResolvedDestination(
            first.title,
            common(source, first.title, first.addresses)[0],
            first.port,
            protocol,
            service=service,
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
    resolver: SourceResolver, seen: Mapping[str, Any], source: Location, meant: Meaning
) -> str:
    """Return the address itself, or the one that the source's DNS gives for the name."""
    target = meant.target
    if target.kind == "ip":
        return target.name
    try:
        return await resolver.resolve(target.name, source.versions)
    except OSError as error:
        if meant.service is not None:
            hint = f"; {source.title} does not use the cluster's DNS, use svc:{'/'.join(meant.service)}"
        else:
            hint = near(target.name.partition(".")[0], seen, with_services=True)
        raise UsageError(f"{source.title}: {error.strerror or error}{hint}") from None


def _service_at(
    seen: Mapping[str, Any], address: str, port: int, protocol: str
) -> ServiceTarget | None:
    """Return the Service port at an address and port; None where there is none, or several."""
    found = [
        each
        for each in service_ports(seen)
        if (each.address, each.port, each.protocol) == (address, port, protocol)
    ]
    return found[0] if len(found) == 1 else None


async def _by_name(
    resolver: SourceResolver,
    seen: Mapping[str, Any],
    source: Location,
    meant: Meaning,
    request: ProbeSpecification,
) -> ResolvedDestination:
    """Return a Service's port at the address that the source's DNS gives, which has to be an address of the Service."""
    assert meant.service is not None
    namespace, name = meant.service
    entry = service_named(seen, namespace, name) or {}
    protocol = request.protocol if request.protocol != "ICMP" else ""
    if entry["cluster_ips"]:
        where = service_port(seen, source, Target("svc", namespace, name), protocol, request.port)
        own = tuple(entry["cluster_ips"])
    else:
        # Without a port a headless Service is pinged: its addresses are those of pods.
        where = ResolvedDestination("", "", request.http_port, request.protocol)
        own = tuple(endpoint["address"] for endpoint in entry["endpoints"] if endpoint["ready"])
    title = with_port(str(meant.target.bare), where.port or None, where.protocol)
    # Only the Service's own ports are compared with its promise: a name with another port may be a mistake.
    known = None if where.lacking else where.known
    where = structs.replace(where, title=title, service=meant.service, known=known)
    try:
        address = await resolver.resolve(meant.target.name, source.versions)
    except OSError as error:
        return structs.replace(where, address="", unresolved=error.strerror or str(error))
    if own and address not in own:
        wrong = f"lookup {meant.target.name}: DNS answers {address}, but Service {namespace}/{name} has {', '.join(own)}"
        return structs.replace(where, address="", unresolved=wrong)
    return structs.replace(where, address=address)


def _port_of(target: Target, request: ProbeSpecification) -> int:
    """Return the port of the request; 0 for a ping. Raises UsageError where the protocol needs a port."""
    if request.protocol != "ICMP" and not request.http_port:
        raise UsageError(
            f"{target}: {request.protocol} needs a port, such as {with_port(str(target), 80)}"
        )
    return request.http_port


def common(source: Location, title: str, addresses: Sequence[str]) -> tuple[str, ...]:
    """Return the addresses of families that the source has, its primary family first. Raises UsageError when there is none."""
    found = tuple(
        address
        for version in source.versions
        for address in addresses
        if ip_address(address).version == version
    )
    if not found:
        raise UsageError(
            f"{source.title} ({', '.join(source.addresses)}) and {title} ({', '.join(addresses)}) have no family in common"
        )
    return found


def service_port(
    seen: Mapping[str, Any], source: Location, target: Target, protocol: str, port: int | None
) -> ResolvedDestination:
    """Return the requested port of a Service, else its first of the protocol, at its address of the source's first common family.

    protocol: empty for any. Raises UsageError for a Service without such an address.
    """
    service = (target.namespace, target.name)
    of_kind = [entry for entry in service_ports(seen) if entry.is_outside == (target.kind == "lb")]
    all_ports = [entry for entry in of_kind if (entry.namespace, entry.name) == service]
    ports = [
        entry
        for version in source.versions
        for entry in all_ports
        if ip_address(entry.address).version == version
    ]
    if all_ports and not ports:
        raise UsageError(
            f"{source.title} and svc:{target.namespace}/{target.name} ({all_ports[0].address}) have no family in common"
        )
    if not ports:
        _refuse_nameless(seen, target)
        known = sorted({f"{target.kind}:{entry.namespace}/{entry.name}" for entry in of_kind})
        what = "cluster IP" if target.kind == "svc" else "load balancer's address"
        similar = (
            near(target.name, seen, with_services=True)
            if service_named(seen, *service) is None
            else ""
        )
        raise UsageError(
            f"there is no Service {'/'.join(service)} with a {what}{similar}; known: {', '.join(known) or 'none'}"
        )
    fitting = [
        entry
        for entry in ports
        if (not protocol or entry.protocol == protocol) and (port is None or entry.port == port)
    ]
    if fitting:
        return ResolvedDestination(
            fitting[0].title,
            fitting[0].address,
            fitting[0].port,
            fitting[0].protocol,
            fitting[0],
            service=service,
        )
    missing = structs.replace(
        ports[0], port=port or ports[0].port, protocol=protocol or "TCP", endpoints=(), nodes=()
    )
    has = ", ".join(dict.fromkeys(f"{entry.port}/{entry.protocol}" for entry in ports))
    lacking = f"the Service has no port {missing.port}/{missing.protocol}; it has {has}"
    behind = (
        None if missing.is_outside else missing
    )  # a load balancer's address leads nowhere at other ports
    return ResolvedDestination(
        missing.title, missing.address, missing.port, missing.protocol, behind, lacking, service
    )


def _refuse_nameless(seen: Mapping[str, Any], target: Target) -> None:
    """Raise UsageError for a Service without an address of its own, which is reached by its name."""
    entry = service_named(seen, target.namespace, target.name)
    if entry is None or entry["cluster_ips"]:
        return
    what = "of type ExternalName" if entry["type"] == "ExternalName" else "headless"
    ports = [one["port"] for one in entry["endpoints"]] or [one["port"] for one in entry["ports"]]
    port = f" --{entry['ports'][0]['protocol'].lower()} {ports[0]}" if entry["ports"] else ""
    asked = f"kubenetlab ping SRC {target.name}.{target.namespace}{port}"
    raise UsageError(
        f"Service {target.namespace}/{target.name} is {what}, it has no address of its own; ask by its name: {asked}"
    )
