"""Destinations of connections that are explained and not made: found without name servers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from msgspec import Struct, structs

from kubenetlab.errors import UsageError, did_you_mean
from kubenetlab.observe.destinations import common, service_port
from kubenetlab.observe.policies.paths import Protocol
from kubenetlab.observe.request import RequestOptions, ip_version, make_request
from kubenetlab.observe.targets.grammar import Target, with_port
from kubenetlab.observe.targets.locations import Location
from kubenetlab.observe.targets.lookups import pod_named, service_named
from kubenetlab.observe.targets.meanings import resolve_name
from kubenetlab.observe.targets.resolution import node_ports, read, resolve
from kubenetlab.observe.targets.suggestions import suggest_similar

if TYPE_CHECKING:
    from kubenetlab.observe.inspection import InspectedService, Inspection

_PROTOCOL: Final = re.compile(
    r"(?P<rest>.+)/(?P<protocol>icmp|tcp|udp|sctp)(?P<family> IPv[46])?", re.IGNORECASE
)
"""Destination with a protocol, and with the family as commands print it."""

_PORT_AND_WORD: Final = re.compile(r"(?P<rest>.+:\d+)/(?P<word>\w+)(?: IPv[46])?")
"""Destination with a port, and a word in place of the protocol."""
_PROTOCOLS: Final[Mapping[str, Protocol]] = {
    "ICMP": "ICMP",
    "TCP": "TCP",
    "UDP": "UDP",
    "SCTP": "SCTP",
}


class StatedDestination(Struct, frozen=True):
    """Address, port and protocol of a connection."""

    title: str
    address: str
    port: int
    """0 for ICMP."""
    protocol: Protocol


def look_up(
    text: str,
    seen: Inspection,
    source: Location,
    namespace: str | None = None,
    version: int | None = None,
) -> list[StatedDestination]:
    """Return the destinations that `TARGET[:PORT][/PROTOCOL]` names.

    A port without a protocol is TCP; a Service without a port has its first one; any other
    destination without a port is pinged. A headless Service has one destination for each address.

    version: IP version of options -4 and -6; None for the family of the target, or the first one.
    Raises UsageError for a destination that does not exist, and for a name outside the lab.
    """
    target, protocol = _parsed(text, seen, namespace)
    source = source.of_version(ip_version(target, version))
    request = make_request(target, RequestOptions())
    port = request.http_port or None
    meant = resolve_name(target, seen, source)
    service = meant.service
    if meant.target.kind in ("svc", "lb"):
        service = meant.target.namespace, meant.target.name
    entry = service_named(seen, *service) if service is not None else None
    if entry is not None and not entry["cluster_ips"] and meant.target.kind != "lb":
        return _headless(entry, source, port, protocol, target.suffix)
    wanted = protocol if protocol is not None and protocol != "ICMP" else ""
    if meant.service is not None or meant.target.kind in ("svc", "lb"):
        assert service is not None
        named = Target("lb" if meant.target.kind == "lb" else "svc", *service)
        found = service_port(seen, source, named, wanted, port)
        if found.lacking:
            raise UsageError(f"{text}: {found.lacking}")
        return [StatedDestination(found.title, found.address, found.port, found.protocol)]
    if meant.target.kind == "nodeport":
        (first, *_) = node_ports(meant.target, seen, port, wanted or "TCP")
        address = common(source, first.title, first.addresses)[0]
        own_protocol = protocol or "TCP"
        return [_destination(first.title, address, first.port, own_protocol, target.suffix)]
    if (host := _external_host(meant.target, seen)) is not None:
        return [_place(text, host, seen, source, port, protocol)]
    return [_place(text, meant.target, seen, source, port, protocol)]


def _parsed(text: str, seen: Inspection, namespace: str | None) -> tuple[Target, Protocol | None]:
    """Return target and protocol; without a port, the protocol is no part of a target."""
    match = _PROTOCOL.fullmatch(text)
    if match is None:
        try:
            target = read(text, seen, namespace)
        except UsageError:
            _refuse_unknown_protocol(text)
            raise
        return target, target.protocol or ("TCP" if target.port else None)
    if pod_named(seen, match["rest"], match["protocol"]) is not None:
        return read(text, seen, namespace), None  # such as the pod `tcp` of a namespace
    protocol = _PROTOCOLS[match["protocol"].upper()]
    target = read(match["rest"] + (match["family"] or ""), seen, namespace)
    if protocol == "ICMP" and target.port is not None:
        raise UsageError(f"{text}: ICMP has no ports; omit :{target.port}")
    return target, protocol


def _refuse_unknown_protocol(text: str) -> None:
    """Raise UsageError if a destination ends with a port and a word that is no protocol."""
    match = _PORT_AND_WORD.fullmatch(text)
    if match is not None and "://" not in text:
        word = match["word"]
        guess = did_you_mean(word.upper(), tuple(_PROTOCOLS))
        raise UsageError(
            f'{text}: unknown protocol "{word}"{guess}\n  known protocols: {", ".join(_PROTOCOLS)}'
        )


def _headless(
    service: InspectedService,
    source: Location,
    port: int | None,
    protocol: Protocol | None,
    family: str,
) -> list[StatedDestination]:
    """Return the addresses of a Service without a cluster IP, with its port or the given one."""
    name = f"svc:{service['namespace']}/{service['name']}"
    ports = {entry["name"]: entry for entry in service["ports"]}
    destinations = []
    for entry in service["endpoints"]:
        own = ports.get(entry.get("port_name", ""))
        if (
            own is not None
            and entry["ready"]
            and protocol in (None, "ICMP", own["protocol"])
            and port in (None, entry["port"], own["port"])
            and any((":" in entry["address"]) == (":" in each) for each in source.addresses)
        ):
            # Nothing translates the port of a Service without a cluster IP.
            own_protocol = protocol or own["protocol"]
            destinations.append(
                _destination(name, entry["address"], entry["port"], own_protocol, family)
            )
    if not destinations:
        raise UsageError(f"{name} has no cluster IP, and no ready endpoint for the request")
    return list(dict.fromkeys(destinations))


def _place(
    text: str,
    target: Target,
    seen: Inspection,
    source: Location,
    port: int | None,
    protocol: Protocol | None,
) -> StatedDestination:
    """Return a pod, node, host or address as destination."""
    if protocol not in (None, "ICMP") and port is None:
        raise UsageError(f"{text}: {protocol} needs a port, such as {target.bare}:80/{protocol}")
    if target.kind == "name":
        similar = suggest_similar(target.name.partition(".")[0], seen, with_services=True)
        raise UsageError(
            f"{text}: there is no pod, Service or workload of this name{similar}; "
            "names outside the lab are not looked up"
        )
    if target.kind == "ip":
        if target.family not in (None, f"IPv{ip_address(target.name).version}"):
            raise UsageError(f"{text}: {target.name} is no {target.family} address")
        return _destination(target.name, target.name, port or 0, protocol or "ICMP")
    place = resolve(target, seen, is_destination=True)
    address = common(source, place.title, place.addresses)[0]
    return _destination(place.title, address, port or 0, protocol or "ICMP", target.suffix)


def _external_host(target: Target, seen: Inspection) -> Target | None:
    """Return the external host with a DNS name, which the lab's DNS servers resolve to it."""
    if target.kind != "name":
        return None
    name = target.name.lower().removesuffix(".")
    is_known = any(host["name"] == name for host in seen["external"])
    return structs.replace(target, kind="ext", name=name) if is_known else None


def _destination(
    title: str, address: str, port: int, protocol: Protocol, family: str = ""
) -> StatedDestination:
    """Return a destination with its title; no port if it is pinged.

    family: suffix of the title, if the target has one.
    """
    port = 0 if protocol == "ICMP" else port
    shown = with_port(title, port or None, protocol if port else "") + family
    return StatedDestination(shown, address, port, protocol)
