"""Destinations of the rows of a truth table: addresses and ports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from kubenetlab.errors import UsageError
from kubenetlab.observe.checks.truth_table import Row
from kubenetlab.observe.targets.grammar import Target
from kubenetlab.observe.targets.locations import Location
from kubenetlab.observe.targets.lookups import service_named
from kubenetlab.observe.targets.meanings import Meaning
from kubenetlab.observe.targets.resolution import named_places, node_ports, resolve
from kubenetlab.observe.targets.suggestions import suggest_similar

if TYPE_CHECKING:
    from kubenetlab.observe.inspection import Inspection


class RowDestination(Struct, frozen=True):
    """Destination of a row. A DNS name has no addresses until it is resolved."""

    title: str
    addresses: tuple[str, ...]
    port: int
    name: str = ""
    """DNS name, where there are no addresses."""


def row_destinations(target: Target, row: Row, seen: Inspection) -> list[RowDestination]:
    """Return the destinations of a row: one, or each node for `nodeport:*`, or pod for `each:`."""
    if target.kind == "each":
        return [
            RowDestination(place.title, place.addresses, row.port or 0)
            for place in named_places(target.bare, seen)
        ]
    if target.kind == "nodeport":
        return [
            RowDestination(node_port.title, node_port.addresses, node_port.port)
            for node_port in node_ports(target, seen, row.port, row.protocol)
        ]
    title, addresses = (
        (target.name, ()) if target.kind == "name" else _title_and_addresses(target, seen)
    )
    title = str(target) if target.path else title
    return [RowDestination(title, addresses, row.port or 0, target.name)]


def _title_and_addresses(target: Target, seen: Inspection) -> tuple[str, tuple[str, ...]]:
    """Return the title and the addresses of a destination. Raises UsageError when it has none."""
    if target.kind == "ip":
        return target.name, (target.name,)
    if target.kind in ("svc", "lb"):
        service = service_named(seen, target.namespace, target.name)
        is_cluster_ip = target.kind == "svc"
        addresses = (
            service["cluster_ips" if is_cluster_ip else "load_balancer_ips"] if service else []
        )
        if not addresses:
            address_kind = "cluster IP" if is_cluster_ip else "load balancer's address"
            similar = (
                suggest_similar(target.name, seen, with_services=True) if service is None else ""
            )
            name = f"{target.namespace}/{target.name}"
            raise UsageError(f"there is no Service {name} with a {address_kind}{similar}")
        return str(target.bare), tuple(addresses)
    place = resolve(target, seen, is_destination=True)
    return place.title, place.addresses


def address_of_family(source: Location, title: str, addresses: Sequence[str]) -> str:
    """Return the destination's address of the first IP version of the source that it has.

    Raises OSError when source and destination have no family in common.
    """
    for version in source.versions:
        for address in addresses:
            if (":" in address) == (version == 6):
                return address
    raise OSError(
        f"{source.title} ({', '.join(source.addresses)}) and {title} ({', '.join(addresses)}) "
        "have no family in common"
    )


def with_service_port(row: Row, meant: Meaning, seen: Inspection) -> Row:
    """Return a row without a port with the first port of its Service, as `ping` uses it.

    Raises UsageError for UDP or SCTP, and for a row with `source`, when there is no such port.
    """
    if row.port is not None or row.protocol == "ICMP":
        return row
    target = meant.target
    key = (
        (target.namespace, target.name.rpartition("/")[2])
        if target.kind in ("svc", "lb", "nodeport")
        else meant.service
    )
    service = service_named(seen, *key) if key is not None else None
    ports = [
        port
        for port in (service["ports"] if service is not None and service["cluster_ips"] else ())
        if row.protocol_ in (None, port["protocol"])
        and (port["node_port"] or target.kind != "nodeport")
    ]
    if ports:
        return structs.replace(row, port=ports[0]["port"], protocol_=ports[0]["protocol"])
    if row.protocol_ is not None and target.kind != "nodeport":
        raise UsageError(
            f"{row.protocol_} needs a port, and {target.bare} is not a Service with one; add port"
        )
    if row.source:
        raise UsageError(
            f"source needs a port, and {target.bare} is not a Service with one; add port"
        )
    return row
