"""The wire: the switch between the nodes, the router, the internet with its hosts, and each node's way onto it.

    node eth0 ─┐
    node eth0 ─┼ br0 (fabric/switch) ── eth0 (fabric/router) eth1 ── br0 (fabric/internet) ── eth0 ext/client
    node eth0 ─┘

The router knows the nodes' and the internet's networks, and no pod: from outside, a pod's address leads nowhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kubenetlab import names
from kubenetlab.api import ip
from kubenetlab.api.config import INTERNET_SUBNETS, ExternalHost, Network
from kubenetlab.datapath import port_mappings
from kubenetlab.datapath.port_mappings import PublishedPort
from kubenetlab.datapath.sandboxes import link_local, loopback_and_sysctls, router_sysctls
from kubenetlab.datapath.view import DEFAULT_ROUTES, NodeView, router_address
from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.link import Bridge, Port, Veth
from kubenetlab.hoststate.neighbor import Neighbor
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.programs import ListenPort, ProgramRun
from kubenetlab.hoststate.route import Route
from kubenetlab.hoststate.sandbox import Sandbox

INTERNET_GATEWAYS = {version: str(subnet[1]) for version, subnet in INTERNET_SUBNETS.items()}


def switch(netns: str, mac: str) -> Iterator[Object]:
    """A namespace that is nothing but a switch."""
    yield Sandbox(netns, hostname=netns.rpartition("/")[2])
    yield from loopback_and_sysctls(netns, has_ipv6=False)
    yield Bridge(
        netns, names.SWITCH_BRIDGE, mac, alias=names.link_alias("fabric", netns.rpartition("/")[2])
    )


def router(
    node_networks: Sequence[Network], neighbors: Sequence[Sequence[str]]
) -> Iterator[Object]:
    """`neighbors` are the nodes' addresses, node by node, where they are written down instead of asked for."""
    here = names.ROUTER
    yield Sandbox(here, hostname="router")
    versions = [subnet.version for subnet in node_networks]
    yield from loopback_and_sysctls(here, has_ipv6=6 in versions, forwards=True)
    yield from router_sysctls(here, has_ipv6=6 in versions)
    ways_in = [(router_address(subnet), subnet.prefixlen) for subnet in node_networks]
    ways_out = [
        (INTERNET_GATEWAYS[version], INTERNET_SUBNETS[version].prefixlen) for version in versions
    ]
    yield from _uplink(here, names.ROUTER_FABRIC_LINK, ways_in, names.FABRIC_SWITCH, "router")
    yield from _uplink(here, names.ROUTER_INTERNET_LINK, ways_out, names.INTERNET_SWITCH, "router")
    for addresses in neighbors:
        for address in addresses:
            yield Neighbor(here, names.ROUTER_FABRIC_LINK, address, names.mac_of(addresses[0]))


def external(
    host: ExternalHost, versions: Sequence[int], published: Sequence[PublishedPort]
) -> Iterator[Object]:
    """A host in the internet; with ports it is a server. What it publishes of the nodes' it forwards to them."""
    here = names.external_netns(host.name)
    addresses = host.addresses(versions)
    present = [ip.version_of(address) for address in addresses]
    yield Sandbox(here, hostname=names.hostname(host.name))
    yield from loopback_and_sysctls(here, has_ipv6=6 in present, forwards=bool(published))
    yield from port_mappings.rules(here, published)
    ways_in = [
        (address, INTERNET_SUBNETS[version].prefixlen)
        for address, version in zip(addresses, present, strict=True)
    ]
    yield from _uplink(here, names.HOST_LINK, ways_in, names.INTERNET_SWITCH, host.name)
    for version in present:
        yield Route(here, DEFAULT_ROUTES[version], names.HOST_LINK, via=INTERNET_GATEWAYS[version])
    if host.ports:
        yield ProgramRun(
            here, host.name, 0, "default", {}, tuple(ListenPort("TCP", port) for port in host.ports)
        )


def node(view: NodeView) -> Iterator[Object]:
    """A node as it is before anything of Kubernetes runs on it: a machine with an address."""
    yield Sandbox(view.netns, hostname=names.hostname(view.name))
    yield from loopback_and_sysctls(view.netns, has_ipv6=view.has_ipv6, forwards=True)
    yield from router_sysctls(view.netns, has_ipv6=view.has_ipv6)
    subnets = [ip.network(cidr) for cidr in view.node_cidrs]
    ways_in = [
        (address, subnet.prefixlen) for address, subnet in zip(view.addresses, subnets, strict=True)
    ]
    yield from _uplink(view.netns, names.NODE_UPLINK, ways_in, names.FABRIC_SWITCH, view.name)
    routers = [router_address(subnet) for subnet in subnets]
    for subnet, address in zip(subnets, routers, strict=True):
        yield Route(view.netns, DEFAULT_ROUTES[subnet.version], names.NODE_UPLINK, via=address)
    if view.neighbors == "permanent":
        for others in (
            routers,
            *([family.address for family in peer.families] for peer in view.peers),
        ):
            for address in others:
                yield Neighbor(view.netns, names.NODE_UPLINK, address, names.mac_of(others[0]))


def _uplink(
    netns: str, link: str, addresses: Sequence[tuple[str, int]], switch_netns: str, whose: str
) -> Iterator[Object]:
    """A link from a machine to a switch: both ends, and the machine's addresses with their prefix lengths, the primary family first."""
    primary, _ = addresses[0]
    has_ipv6 = any(":" in address for address, _ in addresses)
    port = names.port_name(whose)
    alias = names.link_alias("fabric", whose)
    yield Veth(netns, link, names.mac_of(primary), switch_netns, port, alias=alias)
    yield Port(switch_netns, port, names.SWITCH_BRIDGE, names.port_mac_of(primary), alias=alias)
    for address, prefix_length in addresses:
        yield Address(netns, link, f"{address}/{prefix_length}")
    yield from link_local(netns, link, names.mac_of(primary), has_ipv6=has_ipv6)
