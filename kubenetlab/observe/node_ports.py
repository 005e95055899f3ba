"""Node ports as destinations of probes: at few nodes, from few sources that stand for all.

The number of all pairs grows with the square of the number of nodes, and with that of pods.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from kubenetlab.observe.expect import ClusterFacts, ServiceNodePort, expect
from kubenetlab.observe.service_ports import family_of, ready_endpoints
from kubenetlab.observe.targets.locations import Location

if TYPE_CHECKING:
    from kubenetlab.observe.inspection import (
        InspectedNode,
        InspectedPort,
        InspectedService,
        Inspection,
    )

MAX_NODES: Final = 3
"""Maximum number of nodes of which all are probed."""
MAX_PROBES: Final = 20_000
"""Maximum number of probes of node ports; with more, there are only those of hosts outside."""


class NodePortProbes(Struct, frozen=True):
    """Probes of node ports."""

    ports: Mapping[str, Sequence[ServiceNodePort]] = {}
    """Sandbox of a source → the node ports to which it connects."""
    are_from_outside: bool = False
    """True if only hosts outside connect, since there are more than `MAX_PROBES`."""


def node_port_probes(
    sources: Sequence[Location], seen: Inspection, context: ClusterFacts
) -> NodePortProbes:
    """Return the probes of the node ports of all Services, from some sources.

    All hosts outside connect. Of the nodes, and of the pods that policies do not distinguish, one
    on the node itself and one on another node connect. Nothing is promised to some pods of other
    nodes (see `expect`); these do not connect.
    """
    targets = list(_targets(seen))
    hosts = [source for source in sources if source.kind == "ext"]
    outside = {
        host.sandbox: own
        for host in hosts
        if (own := [target for target in targets if _shares_family(host, target)])
    }
    result = {sandbox: list(ports) for sandbox, ports in outside.items()}
    number = sum(map(len, result.values()))
    inside = {is_ipv6: _inside(sources, seen, context, is_ipv6) for is_ipv6 in (False, True)}
    for target in targets:
        known: set[Hashable] = set()
        endpoints = {address for address, _ in target.endpoints}
        for source, kind in inside[":" in target.address]:
            is_endpoint = not endpoints.isdisjoint(source.addresses)
            key = kind, is_endpoint, source.node == target.node
            if key not in known and _is_promised(source, target, context):
                known.add(key)
                result.setdefault(source.sandbox, []).append(target)
        number += len(known)
        if number > MAX_PROBES:
            return NodePortProbes(outside, are_from_outside=True)
    return NodePortProbes(result)


def at_node(
    seen: Inspection, node: str, namespace: str, name: str, port: int, protocol: str
) -> Sequence[ServiceNodePort]:
    """Return a node port of a Service at each address of a node where it answers.

    port: the node port.
    """
    return [
        _target(service, own, entry, address)
        for service in seen["services"]
        if (service["namespace"], service["name"]) == (namespace, name) and service["proxied"]
        for own in service["ports"]
        if (own["node_port"], own["protocol"]) == (port, protocol)
        for entry in seen["nodes"]
        if entry["name"] == node
        for address in _addresses(entry)
    ]


def _targets(seen: Inspection) -> Iterator[ServiceNodePort]:
    """Yield the node ports of all Services at the nodes that stand for all."""
    running = [node for node in seen["nodes"] if node["pid"]]
    for service in seen["services"]:
        if not service["proxied"]:
            continue
        for port in service["ports"]:
            if not port["node_port"]:
                continue
            with_endpoint = {
                entry["node"] or ""
                for entry in service["endpoints"]
                if entry["ready"] and entry.get("port_name", port["name"]) == port["name"]
            }
            for node in _representatives(running, with_endpoint):
                for address in _addresses(node):
                    yield _target(service, port, node, address)


def _representatives(
    nodes: Sequence[InspectedNode], with_endpoint: AbstractSet[str]
) -> Sequence[InspectedNode]:
    """Return all of few nodes, else the first one with a ready endpoint and the first without."""
    if len(nodes) <= MAX_NODES:
        return nodes
    first = {node["name"] in with_endpoint: node for node in reversed(nodes)}
    return [node for node in nodes if node in first.values()]


def _addresses(node: InspectedNode) -> Sequence[str]:
    return node.get("node_port_addresses", node["addresses"])


def _target(
    service: InspectedService, port: InspectedPort, node: InspectedNode, address: str
) -> ServiceNodePort:
    ready = ready_endpoints(service, port, address)
    return ServiceNodePort(
        service["namespace"],
        service["name"],
        address,
        port["node_port"] or 0,
        port["protocol"],
        tuple((entry["address"], entry["port"]) for entry in ready),
        family=family_of(address) if len(node["addresses"]) > 1 else "",
        node=node["name"],
        service_port=port["port"],
        endpoint_nodes=tuple(entry["node"] or "" for entry in ready),
        is_local_only=service.get("external_traffic_policy") == "Local",
    )


def _shares_family(source: Location, target: ServiceNodePort) -> bool:
    return any((":" in own) == (":" in target.address) for own in source.addresses)


def _inside(
    sources: Iterable[Location], seen: Inspection, context: ClusterFacts, is_ipv6: bool
) -> list[tuple[Location, Hashable]]:
    """Return the pods and nodes with an address of a family, pods of users first.

    Each has a key that it shares with those that policies do not distinguish from it.
    """
    system = seen["system_namespaces"]
    has_few_nodes = len(seen["nodes"]) <= MAX_NODES
    found: list[tuple[Location, Hashable]] = []
    for source in sorted(sources, key=lambda source: source.namespace in system):
        address = next((own for own in source.addresses if (":" in own) == is_ipv6), None)
        if address is None or source.kind not in ("pod", "node"):
            continue
        if source.kind == "node":
            found.append((source, ("node", source.node if has_few_nodes else "")))
        elif source.is_host_network or context.policies is None:
            found.append((source, ("pod", source.is_host_network)))
        else:
            found.append((source, context.policies.source_key(source, address)))
    return found


def _is_promised(source: Location, target: ServiceNodePort, context: ClusterFacts) -> bool:
    """Return False for pods of other nodes whose packets may be lost."""
    if source.kind != "pod" or source.node == target.node or not target.is_local_only:
        return True
    return expect(source, target, context) != "any"
