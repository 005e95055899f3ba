"""Balanced ports: load balancer addresses with ipMode Proxy.

The router owns such an address and forwards each port to node ports, with the balancer's own
address as the source. kube-proxy has no rules for the address: traffic of pods to it leaves the
cluster and comes back in. Therefore the balancer enforces loadBalancerSourceRanges, and refuses a
port without a node port.
Source: KEP-1860 (Make Kubernetes aware of the LoadBalancer behaviour).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from kubenetlab import names
from kubenetlab.api.store import Cluster
from kubenetlab.api.values import ip
from kubenetlab.datapath.network.load_balancers import target_nodes
from kubenetlab.datapath.proxy.services import source_ranges
from kubenetlab.datapath.proxy_views import ProxyViews
from kubenetlab.datapath.services.view import reached_from_outside
from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.rules.nftables import NFT_FAMILIES, Chain, Hook, Table, rule
from kubenetlab.hoststate.rules.nftables.statements import (
    DnatInTurn,
    Masquerade,
    Match,
    OneOf,
    drop,
)

WHY = "load balancer: ports of addresses with ipMode Proxy"


class BalancedPort(Struct, frozen=True):
    """One port of one address of the balancer."""

    service: str
    """`namespace/name`."""
    address: str
    protocol: str
    port: int
    node_port: int
    """Node port; 0 for a port without one."""
    nodes: tuple[str, ...]
    """Addresses of the nodes among which connections are distributed."""
    sources: tuple[str, ...]
    """Ranges of the allowed clients; empty allows every client."""


def balanced_ports(cluster: Cluster, proxies: ProxyViews) -> tuple[BalancedPort, ...]:
    """Return every port of every Service that has such an address, in order."""
    ports = []
    for service in reached_from_outside(cluster):
        own = [
            address for address in service.load_balancer_ips if address not in service.virtual_ips
        ]
        nodes = target_nodes(cluster, proxies, service) if own else ()
        for address in own:
            version = ip.version_of(address)
            node_addresses = tuple(
                own_address
                for node in nodes
                for own_address in node.addresses
                if ip.version_of(own_address) == version
            )
            sources = tuple(str(cidr) for cidr in source_ranges(service.spec, version))
            ports += [
                BalancedPort(
                    f"{service.namespace}/{service.name}",
                    address,
                    port.protocol.lower(),
                    port.port,
                    port.node_port,
                    node_addresses,
                    sources,
                )
                for port in service.spec.ports
            ]
    return tuple(ports)


def rules(ports: Sequence[BalancedPort]) -> Iterator[Object]:
    """Yield the objects of the router: the addresses, and one table per family."""
    netns = names.ROUTER
    for address in dict.fromkeys(port.address for port in ports):
        yield Address(netns, "lo", f"{address}/{128 if ':' in address else 32}")
    for version, family in NFT_FAMILIES.items():
        own = [port for port in ports if ip.version_of(port.address) == version]
        if own:
            yield from _table(netns, family, own)


def _table(netns: str, family: str, ports: Sequence[BalancedPort]) -> Iterator[Object]:
    table = names.LOAD_BALANCER_TABLE
    drops = [
        rule(
            *_match(family, port),
            OneOf(f"{family} saddr", port.sources, is_negated=True),
            drop,
            comment=port.service,
        )
        for port in ports
        if port.sources
    ]
    forwards = [
        rule(*_match(family, port), _target(port), comment=port.service)
        for port in ports
        if port.node_port and port.nodes
    ]
    yield Table(netns, family, table, WHY)
    yield Chain(
        netns,
        family,
        table,
        "firewall",
        tuple(drops),
        Hook("filter", "prerouting", -110),
    )
    yield Chain(netns, family, table, "ports", tuple(forwards), Hook("nat", "prerouting", -100))
    masquerade = rule(
        Match("ct status", "dnat"),
        Masquerade(),
        comment="connections to nodes are the balancer's own",
    )
    yield Chain(netns, family, table, "connections", (masquerade,), Hook("nat", "postrouting", 100))


def _match(family: str, port: BalancedPort) -> tuple[Match, Match]:
    return Match(f"{family} daddr", port.address), Match(f"{port.protocol} dport", str(port.port))


def _target(port: BalancedPort) -> DnatInTurn:
    """Return the rule's last statement, which uses the nodes in turn."""
    return DnatInTurn(tuple((node, port.node_port) for node in port.nodes))
