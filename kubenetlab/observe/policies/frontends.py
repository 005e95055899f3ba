"""Frontends: addresses and ports at which the destination of packets is translated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from kubenetlab.observe.policies.model import Party

if TYPE_CHECKING:
    from kubenetlab.observe.inspection import InspectedService


class Frontend(Struct, frozen=True):
    """Address and port at which kube-proxy translates the destination of packets."""

    kind: Literal["cluster", "external", "node port"]
    service: str
    """`namespace/name`"""
    address: str
    port: int
    endpoints: tuple[tuple[str, int], ...]
    """(address, port) of the ready endpoints."""
    is_source_kept: bool = False
    """True for external addresses and node ports with the policy Local."""
    is_sent_on: bool = False
    """True if packets first go to a load balancer outside the nodes."""
    node: str = ""
    """Node that has the address, for a node port."""

    def is_elsewhere(self, source: Party) -> bool:
        """Return True if packets leave the source's node before their translation."""
        return self.is_sent_on or self.node not in ("", source.node)


def frontends_of(
    service: InspectedService, nodes: Mapping[str, str]
) -> Iterator[tuple[tuple[str, int, str], Frontend]]:
    """Yield (address, port, protocol) and the frontend for each port and address of a Service.

    nodes: address → name of the node.
    """
    name = f"{service['namespace']}/{service['name']}"
    is_kept = service.get("external_traffic_policy") == "Local"
    for port in service["ports"]:
        endpoints = [
            (entry["address"], entry["port"])
            for entry in service["endpoints"]
            if entry["ready"] and entry.get("port_name", port["name"]) == port["name"]
        ]
        for address in service["cluster_ips"]:
            own = _of_family(endpoints, address)
            frontend = Frontend("cluster", name, address, port["port"], own)
            yield (address, port["port"], port["protocol"]), frontend
        for address in (*service["load_balancer_ips"], *service.get("external_ips", ())):
            is_sent_on = (
                address in service["load_balancer_ips"] and address not in service["virtual_ips"]
            )
            own = _of_family(endpoints, address)
            yield (
                (address, port["port"], port["protocol"]),
                Frontend("external", name, address, port["port"], own, is_kept, is_sent_on),
            )
        if node_port := port["node_port"]:
            for address, node in nodes.items():
                own = _of_family(endpoints, address)
                yield (
                    (address, node_port, port["protocol"]),
                    Frontend("node port", name, address, node_port, own, is_kept, node=node),
                )


def _of_family(endpoints: Sequence[tuple[str, int]], address: str) -> tuple[tuple[str, int], ...]:
    return tuple(entry for entry in endpoints if _is_same_family(entry[0], address))


def _is_same_family(first: str, second: str) -> bool:
    return (":" in first) == (":" in second)
