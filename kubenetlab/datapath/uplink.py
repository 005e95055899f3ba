"""The uplink: a link from the lab's router to the machine's own network.

    pods, nodes, hosts ── router ── uplink ┄┄ knl-… ── the machine ── its network

The router uses a single address of the machine for the whole lab. Therefore the machine needs no
route to any range of the lab, and two labs with the same ranges can run side by side. A published
port is translated twice: by the machine to the router, and by the router to the node.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kubenetlab import names
from kubenetlab.api import ip
from kubenetlab.api.config import INTERNET_SUBNETS, LOAD_BALANCER_SUBNETS, ClusterConfig
from kubenetlab.api.lab import Uplink
from kubenetlab.datapath.port_mappings import PublishedPort
from kubenetlab.datapath.view import DEFAULT_ROUTES
from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.link import LinkUp
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.route import Route
from kubenetlab.hoststate.rules.nftables import NFT_FAMILIES, Chain, Rule, Table

PREFIX_LENGTHS = {4: 30, 6: 126}
"""IP version → prefix length of the link, which has two addresses in use."""
FIRST_PORT = 20000
"""First port of the router for published ports.

The router tells published ports apart by its own port numbers, independent of the machine's.
"""


def inside(config: ClusterConfig, version: int) -> tuple[str, ...]:
    """Return the ranges of one family that belong to the lab and are never looked up outside it."""
    networking = config.networking
    networks = (*networking.pod_networks, *networking.service_networks, *config.node_networks)
    own = (INTERNET_SUBNETS[version], LOAD_BALANCER_SUBNETS[version])
    return tuple(str(network) for network in (*networks, *own) if network.version == version)


def router(
    uplink: Uplink, published: Sequence[PublishedPort], config: ClusterConfig
) -> Iterator[Object]:
    """Yield the objects of the router: the link's address, the default route, and the rules."""
    netns, link = names.ROUTER, names.ROUTER_UPLINK
    if uplink.router:
        yield LinkUp(netns, link)
    for own, machine in zip(uplink.router, uplink.machine, strict=True):
        version = ip.version_of(own)
        family = NFT_FAMILIES[version]
        yield Address(netns, link, f"{own}/{PREFIX_LENGTHS[version]}")
        yield Route(netns, DEFAULT_ROUTES[version], link, via=machine)
        yield Table(netns, family, names.UPLINK_TABLE, "uplink to the machine's own network")
        forwards = tuple(
            Rule(
                f'iifname "{link}" {port.protocol} dport {FIRST_PORT + number} '
                f"dnat to {names.socket_address(port.address, port.node_port)}",
                f"Node {port.node}",
            )
            for number, port in enumerate(published)
            if port.version == version
        )
        yield Chain(
            netns,
            family,
            names.UPLINK_TABLE,
            "prerouting",
            forwards,
            "type nat hook prerouting priority -100",
        )
        unreachable = Rule(
            f'oifname "{link}" {family} daddr {{ {", ".join(inside(config, version))} }} '
            f"reject with {_UNREACHABLE[version]}",
            "the lab's own ranges",
        )
        yield Chain(
            netns,
            family,
            names.UPLINK_TABLE,
            "forward",
            (unreachable,),
            "type filter hook forward priority 0",
        )
        masquerade = Rule(f'oifname "{link}" masquerade', "the machine knows this router alone")
        yield Chain(
            netns,
            family,
            names.UPLINK_TABLE,
            "postrouting",
            (masquerade,),
            "type nat hook postrouting priority 100",
        )


_UNREACHABLE = {4: "icmp type host-unreachable", 6: "icmpv6 type no-route"}
_LOOPBACKS = {4: "127.0.0.0/8", 6: "::1"}


def machine(
    lab: str, uplink: Uplink, published: Sequence[PublishedPort], config: ClusterConfig
) -> Iterator[Table | Chain]:
    """Yield the tables of the machine.

    Traffic from the lab leaves with the machine's address; published ports lead to the router. A
    client whose address is also a lab address or a loopback address is masqueraded, because the
    reply would not leave the lab otherwise.
    """
    link, table = names.machine_link(lab), f"kubenetlab-{lab}"
    for own in uplink.router:
        version = ip.version_of(own)
        family = NFT_FAMILIES[version]
        yield Table("", family, table, f"uplink of lab {lab}")
        forwards = tuple(
            Rule(
                f"{port.match} dnat to {names.socket_address(own, FIRST_PORT + number)}",
                f"Node {port.node} of lab {lab}",
            )
            for number, port in enumerate(published)
            if port.version == version
        )
        yield Chain("", family, table, "ports", forwards)
        for hook in ("prerouting", "output"):
            yield Chain(
                "",
                family,
                table,
                hook,
                (Rule("jump ports"),),
                f"type nat hook {hook} priority -100",
            )
        block = Rule(
            f'oifname "{link}" ct state new ct status & dnat == 0 drop',
            "only published ports are open",
        )
        yield Chain("", family, table, "forward", (block,), "type filter hook forward priority 0")
        ambiguous = ", ".join((_LOOPBACKS[version], *inside(config, version)))
        masquerades = (
            Rule(
                f'{family} saddr {own} oifname != "{link}" masquerade',
                "traffic of the lab leaves with the machine's address",
            ),
            Rule(
                f'oifname "{link}" {family} saddr {{ {ambiguous} }} masquerade',
                "clients whose range is also used in the lab",
            ),
        )
        yield Chain(
            "", family, table, "postrouting", masquerades, "type nat hook postrouting priority 100"
        )
