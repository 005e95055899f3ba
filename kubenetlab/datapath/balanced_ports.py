"""The lab's load balancer where it is a proxy (ipMode Proxy): its addresses are its own, and what comes for a port of one is sent on to a
node port, from the balancer's own address.

kube-proxy does not know such an address: what a pod sends to it leaves the cluster and comes back in. So the ranges from which it may be
reached are the balancer's task, and a port without a node port is refused.
Source: KEP-1860 (Make Kubernetes aware of the LoadBalancer behaviour).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from kubenetlab import names
from kubenetlab.api import ip
from kubenetlab.api.store import Cluster
from kubenetlab.datapath.loadbalancers import fit_nodes
from kubenetlab.datapath.proxy.services import source_ranges
from kubenetlab.datapath.view import reached_from_outside
from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.rules.nftables import NFT_FAMILIES, Chain, Rule, Table

WHY = "load balancer: ports of addresses with ipMode Proxy"


class BalancedPort(Struct, frozen=True):
    """One port of one address of the balancer's."""

    service: str
    """`namespace/name`."""
    address: str
    protocol: str
    port: int
    node_port: int
    """0: it has none."""
    nodes: tuple[str, ...]
    """The addresses of the nodes among which connections are shared."""
    sources: tuple[str, ...]
    """Who may come; everybody when nothing is given."""


def balanced_ports(cluster: Cluster) -> tuple[BalancedPort, ...]:
    """Every port of every Service that has such an address, in order."""
    found = []
    for service in reached_from_outside(cluster):
        own = [
            address for address in service.load_balancer_ips if address not in service.virtual_ips
        ]
        nodes = fit_nodes(cluster, service) if own else ()
        for address in own:
            version = ip.version_of(address)
            ways = tuple(
                way for node in nodes for way in node.addresses if ip.version_of(way) == version
            )
            sources = tuple(str(found) for found in source_ranges(service.spec, version))
            found += [
                BalancedPort(
                    f"{service.namespace}/{service.name}",
                    address,
                    port.protocol.lower(),
                    port.port,
                    port.node_port,
                    ways,
                    sources,
                )
                for port in service.spec.ports
            ]
    return tuple(found)


def rules(ports: Sequence[BalancedPort]) -> Iterator[Object]:
    """What the router needs for them: the addresses, and one table per family."""
    here = names.ROUTER
    for address in dict.fromkeys(port.address for port in ports):
        yield Address(here, "lo", f"{address}/{128 if ':' in address else 32}")
    for version, family in NFT_FAMILIES.items():
        own = [port for port in ports if ip.version_of(port.address) == version]
        if own:
            yield from _table(here, family, own)


def _table(netns: str, family: str, ports: Sequence[BalancedPort]) -> Iterator[Object]:
    table = names.LOAD_BALANCER_TABLE
    kept_out = [
        Rule(
            f"{_match(family, port)} {family} saddr != {{ {', '.join(port.sources)} }} drop",
            port.service,
        )
        for port in ports
        if port.sources
    ]
    sent_on = [
        Rule(f"{_match(family, port)} {_target(port)}", port.service)
        for port in ports
        if port.node_port and port.nodes
    ]
    yield Table(netns, family, table, WHY)
    yield Chain(
        netns,
        family,
        table,
        "firewall",
        tuple(kept_out),
        "type filter hook prerouting priority -110",
    )
    yield Chain(
        netns, family, table, "ports", tuple(sent_on), "type nat hook prerouting priority -100"
    )
    masquerade = Rule("ct status dnat masquerade", "connections to nodes are the balancer's own")
    yield Chain(
        netns, family, table, "connections", (masquerade,), "type nat hook postrouting priority 100"
    )


def _match(family: str, port: BalancedPort) -> str:
    return f"{family} daddr {port.address} {port.protocol} dport {port.port}"


def _target(port: BalancedPort) -> str:
    """The node ports in turn."""
    ways = ", ".join(
        f"{number} : {node} . {port.node_port}" for number, node in enumerate(port.nodes)
    )
    return f"dnat to numgen inc mod {len(port.nodes)} map {{ {ways} }}"
