"""The fabric: the switch between the nodes, the router, the internet with its hosts.

    node eth0 ─┐
    node eth0 ─┼ br0 (fabric/switch) ── eth0 (fabric/router) eth1 ─┐
    node eth0 ─┘                                                   │
                         ext/client eth0 ── br0 (fabric/internet) ─┘

The router knows the networks of the nodes and of the internet, but no pod range: from outside, a
pod's address is not reachable.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kubenetlab import names
from kubenetlab.api.config import INTERNET_SUBNETS, ExternalHost, Network
from kubenetlab.api.values import ip
from kubenetlab.datapath.network import port_mappings
from kubenetlab.datapath.network.port_mappings import PublishedPort
from kubenetlab.datapath.sandboxes import link_local, loopback_and_sysctls, router_sysctls
from kubenetlab.datapath.view import DEFAULT_ROUTES, NodeView, router_address
from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.links.bridge import Bridge
from kubenetlab.hoststate.links.veth import Port, Veth
from kubenetlab.hoststate.neighbor import Neighbor
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.programs import ListenPort, ProgramRun
from kubenetlab.hoststate.route import Route
from kubenetlab.hoststate.sandbox import Sandbox

INTERNET_GATEWAYS = {version: str(subnet[1]) for version, subnet in INTERNET_SUBNETS.items()}


def switch(netns: str, mac: str) -> Iterator[Object]:
    """Yield the objects of a namespace that is only a switch."""
    yield Sandbox(netns, hostname=netns.rpartition("/")[2])
    yield from loopback_and_sysctls(netns, has_ipv6=False)
    yield Bridge(
        netns, names.SWITCH_BRIDGE, mac, alias=names.link_alias("fabric", netns.rpartition("/")[2])
    )


def router(
    node_networks: Sequence[Network], neighbors: Sequence[Sequence[str]]
) -> Iterator[Object]:
    """Yield the objects of the router.

    neighbors: addresses of each node, where neighbour entries are permanent.
    """
    netns = names.ROUTER
    yield Sandbox(netns, hostname="router")
    versions = [subnet.version for subnet in node_networks]
    yield from loopback_and_sysctls(netns, has_ipv6=6 in versions, forwards=True)
    yield from router_sysctls(netns, has_ipv6=6 in versions)
    fabric_addresses = [(router_address(subnet), subnet.prefixlen) for subnet in node_networks]
    internet_addresses = [
        (INTERNET_GATEWAYS[version], INTERNET_SUBNETS[version].prefixlen) for version in versions
    ]
    yield from _uplink(
        netns, names.ROUTER_FABRIC_LINK, fabric_addresses, names.FABRIC_SWITCH, "router"
    )
    yield from _uplink(
        netns, names.ROUTER_INTERNET_LINK, internet_addresses, names.INTERNET_SWITCH, "router"
    )
    for addresses in neighbors:
        for address in addresses:
            yield Neighbor(netns, names.ROUTER_FABRIC_LINK, address, names.mac_of(addresses[0]))


def external(
    host: ExternalHost, versions: Sequence[int], published: Sequence[PublishedPort]
) -> Iterator[Object]:
    """Yield the objects of a host in the internet, which is a server if it has ports.

    published: ports of this host that are forwarded to nodes.
    """
    netns = names.external_netns(host.name)
    addresses = host.addresses(versions)
    own_versions = [ip.version_of(address) for address in addresses]
    yield Sandbox(netns, hostname=names.hostname(host.name))
    yield from loopback_and_sysctls(netns, has_ipv6=6 in own_versions, forwards=bool(published))
    yield from port_mappings.rules(netns, published)
    prefixed_addresses = [
        (address, INTERNET_SUBNETS[version].prefixlen)
        for address, version in zip(addresses, own_versions, strict=True)
    ]
    yield from _uplink(netns, names.HOST_LINK, prefixed_addresses, names.INTERNET_SWITCH, host.name)
    for version in own_versions:
        yield Route(netns, DEFAULT_ROUTES[version], names.HOST_LINK, via=INTERNET_GATEWAYS[version])
    if host.ports:
        yield ProgramRun(
            netns,
            host.name,
            0,
            "default",
            {},
            tuple(ListenPort("TCP", port) for port in host.ports),
        )


def node(view: NodeView) -> Iterator[Object]:
    """Yield the objects of a node before any part of Kubernetes runs on it."""
    yield Sandbox(view.netns, hostname=names.hostname(view.name))
    yield from loopback_and_sysctls(view.netns, has_ipv6=view.has_ipv6, forwards=True)
    yield from router_sysctls(view.netns, has_ipv6=view.has_ipv6)
    subnets = [ip.network(cidr) for cidr in view.node_cidrs]
    prefixed_addresses = [
        (address, subnet.prefixlen) for address, subnet in zip(view.addresses, subnets, strict=True)
    ]
    yield from _uplink(
        view.netns, names.NODE_UPLINK, prefixed_addresses, names.FABRIC_SWITCH, view.name
    )
    routers = [router_address(subnet) for subnet in subnets]
    for subnet, address in zip(subnets, routers, strict=True):
        yield Route(view.netns, DEFAULT_ROUTES[subnet.version], names.NODE_UPLINK, via=address)
    if view.neighbors == "permanent":
        for neighbor_addresses in (
            routers,
            *([family.address for family in peer.families] for peer in view.peers),
        ):
            for address in neighbor_addresses:
                yield Neighbor(
                    view.netns, names.NODE_UPLINK, address, names.mac_of(neighbor_addresses[0])
                )


def _uplink(
    netns: str, link: str, addresses: Sequence[tuple[str, int]], switch_netns: str, owner: str
) -> Iterator[Object]:
    """Yield the link from a machine to a switch: both ends and the machine's addresses.

    addresses: (address, prefix length), the primary family first.
    """
    primary, _ = addresses[0]
    has_ipv6 = any(":" in address for address, _ in addresses)
    port = names.port_name(owner)
    alias = names.link_alias("fabric", owner)
    yield Veth(netns, link, names.mac_of(primary), switch_netns, port, alias=alias)
    yield Port(switch_netns, port, names.SWITCH_BRIDGE, names.port_mac_of(primary), alias=alias)
    for address, prefix_length in addresses:
        yield Address(netns, link, f"{address}/{prefix_length}")
    yield from link_local(netns, link, names.mac_of(primary), has_ipv6=has_ipv6)
