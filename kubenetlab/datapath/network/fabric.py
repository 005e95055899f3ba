"""The fabric: the switch between the nodes, the router, the internet with its hosts.

    node eth0 ─┐
    node eth0 ─┼ br0 (fabric/switch) ── eth0 (fabric/router) eth1 ─┐
    node eth0 ─┘                                                   │
                         ext/client eth0 ── br0 (fabric/internet) ─┘

The router knows the networks of the nodes and of the internet, but no pod range: from outside, a
pod's address is not reachable.

On a routed fabric each segment of nodes has a bridge in the switch, a subnet, and a link of the
router. Nodes of different segments reach each other by the router only:

    node eth0 ── br1 ── segment1 ┐
                                 ├ (fabric/router) eth1 ── the internet
    node eth0 ── br2 ── segment2 ┘
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct

from kubenetlab import names
from kubenetlab.api.config import DEFAULT_MTU, INTERNET_SUBNETS, ExternalHost
from kubenetlab.api.links import LinkSettings
from kubenetlab.api.segments import router_address
from kubenetlab.api.values import ip
from kubenetlab.datapath.network import port_mappings
from kubenetlab.datapath.network.port_mappings import PublishedPort
from kubenetlab.datapath.sandboxes import link_local, loopback_and_sysctls, router_sysctls
from kubenetlab.datapath.view import DEFAULT_ROUTES, NodeView
from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.links.bridge import Bridge
from kubenetlab.hoststate.links.veth import Port, Veth
from kubenetlab.hoststate.neighbor import Neighbor
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.programs import ListenPort, ProgramRun
from kubenetlab.hoststate.qdisc import Qdisc
from kubenetlab.hoststate.route import Route
from kubenetlab.hoststate.sandbox import Sandbox, Sysctl

INTERNET_GATEWAYS = {version: str(subnet[1]) for version, subnet in INTERNET_SUBNETS.items()}


class Segment(Struct, frozen=True):
    """A layer-2 segment of the fabric, and the nodes on it."""

    number: int
    """0 for the only segment of a switched fabric."""
    subnets: tuple[str, ...]
    """Network of each IP family, the primary family first."""
    neighbors: tuple[tuple[str, ...], ...] = ()
    """Addresses of each node, where neighbour entries are permanent."""
    mtu: int = DEFAULT_MTU
    """Largest MTU of its nodes, in bytes: that of the bridge and of the router's link."""


def segments(nodes: Sequence[NodeView]) -> tuple[Segment, ...]:
    """Return the segments of the nodes in order."""
    by_number: dict[int, list[NodeView]] = {}
    for node in nodes:
        by_number.setdefault(node.segment, []).append(node)
    return tuple(
        Segment(
            number,
            tuple(family.subnet for family in members[0].families),
            tuple(node.addresses for node in members if node.neighbors == "permanent"),
            max(node.mtu for node in members),
        )
        for number, members in sorted(by_number.items())
    )


def switch(netns: str, bridges: Mapping[str, tuple[str, int]]) -> Iterator[Object]:
    """Yield the objects of a namespace that is only a switch.

    bridges: name → MAC address and MTU.
    """
    yield Sandbox(netns, hostname=netns.rpartition("/")[2])
    yield from loopback_and_sysctls(netns, has_ipv6=False)
    alias = names.link_alias("fabric", netns.rpartition("/")[2])
    for bridge, (mac, mtu) in bridges.items():
        yield Bridge(netns, bridge, mac, mtu, alias)


def bridges_of(segments: Sequence[Segment]) -> Mapping[str, tuple[str, int]]:
    """Return the MAC address and the MTU of the bridge of each segment, by name."""
    return {
        names.segment_bridge(segment.number): (
            f"0a:58:00:00:{segment.number:02x}:01",
            segment.mtu,
        )
        for segment in segments
    }


def router(
    versions: Sequence[int], segments: Sequence[Segment], number: int = 1
) -> Iterator[Object]:
    """Yield the objects of a router; the second one has no link to the internet."""
    netns = names.ROUTERS[number - 1]
    yield Sandbox(netns, hostname=netns.rpartition("/")[2])
    yield from loopback_and_sysctls(netns, has_ipv6=6 in versions, forwards=True)
    yield from router_sysctls(netns, has_ipv6=6 in versions)
    internet_addresses = [
        (INTERNET_GATEWAYS[version], INTERNET_SUBNETS[version].prefixlen) for version in versions
    ]
    for segment in segments:
        subnets = [ip.network(subnet) for subnet in segment.subnets]
        yield from _uplink(
            netns,
            names.router_link(segment.number),
            [(router_address(subnet, number), subnet.prefixlen) for subnet in subnets],
            names.FABRIC_SWITCH,
            names.router_port(segment.number, number),
            names.segment_bridge(segment.number),
            LinkSettings(segment.mtu),
        )
    if number == 1:
        yield from _uplink(
            netns, names.ROUTER_INTERNET_LINK, internet_addresses, names.INTERNET_SWITCH, "router"
        )
    for segment in segments:
        for addresses in segment.neighbors:
            for address in addresses:
                link = names.router_link(segment.number)
                yield Neighbor(netns, link, address, names.mac_of(addresses[0]))


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
    for version in sorted({family.version for family in view.families} if view.routers > 1 else ()):
        # Flows to another segment are distributed to the routers by addresses and ports.
        yield Sysctl(view.netns, f"net/ipv{version}/fib_multipath_hash_policy", "1")
    subnets = [ip.network(family.subnet) for family in view.families]
    prefixed_addresses = [
        (address, subnet.prefixlen) for address, subnet in zip(view.addresses, subnets, strict=True)
    ]
    yield from _uplink(
        view.netns,
        names.NODE_UPLINK,
        prefixed_addresses,
        names.FABRIC_SWITCH,
        view.name,
        names.segment_bridge(view.segment),
        view.link,
    )
    routers = [
        [router_address(subnet, number + 1) for subnet in subnets] for number in range(view.routers)
    ]
    for subnet, address in zip(subnets, routers[0], strict=True):
        yield Route(view.netns, DEFAULT_ROUTES[subnet.version], names.NODE_UPLINK, via=address)
    if view.neighbors == "permanent":
        for neighbor_addresses in (
            *routers,
            *(
                [family.address for family in peer.families]
                for peer in view.peers
                if view.is_on_link(peer)
            ),
        ):
            for address in neighbor_addresses:
                yield Neighbor(
                    view.netns, names.NODE_UPLINK, address, names.mac_of(neighbor_addresses[0])
                )


def _uplink(
    netns: str,
    link: str,
    addresses: Sequence[tuple[str, int]],
    switch_netns: str,
    owner: str,
    bridge: str = names.SWITCH_BRIDGE,
    settings: LinkSettings = LinkSettings(),
) -> Iterator[Object]:
    """Yield the link from a machine to a switch: both ends and the machine's addresses.

    addresses: (address, prefix length), the primary family first.
    settings: MTU, and what slows, delays or drops packets, at both ends alike.
    """
    primary, _ = addresses[0]
    has_ipv6 = any(":" in address for address, _ in addresses)
    port = names.port_name(owner)
    alias = names.link_alias("fabric", owner)
    yield Veth(netns, link, names.mac_of(primary), switch_netns, port, settings.mtu, alias)
    yield Port(switch_netns, port, bridge, names.port_mac_of(primary), settings.mtu, alias)
    if settings.is_shaped:
        shaping = (settings.rate_bits, settings.delay_us, settings.loss_ppm)
        yield Qdisc(netns, link, *shaping)
        yield Qdisc(switch_netns, port, *shaping)
    for address, prefix_length in addresses:
        yield Address(netns, link, f"{address}/{prefix_length}")
    yield from link_local(netns, link, names.mac_of(primary), has_ipv6=has_ipv6)
