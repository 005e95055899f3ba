"""The uplink: a link from the lab's router to the machine's own network.

    pods, nodes, hosts ── router ── uplink ┄┄ knl-… ── the machine ── its network

The router uses a single address of the machine for the whole lab. Therefore the machine needs no
route to any range of the lab, and two labs with the same ranges can run side by side. A published
port is translated twice: by the machine to the router, and by the router to the node.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kubenetlab import names
from kubenetlab.api.config import INTERNET_SUBNETS, LOAD_BALANCER_SUBNETS, ClusterConfig
from kubenetlab.api.lab import Uplink
from kubenetlab.api.values import ip
from kubenetlab.datapath.network.port_mappings import PublishedPort
from kubenetlab.datapath.view import DEFAULT_ROUTES
from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.links.existing import LinkUp
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.route import Route
from kubenetlab.hoststate.rules.nftables import NFT_FAMILIES, Chain, Hook, Table, rule
from kubenetlab.hoststate.rules.nftables.statements import (
    Dnat,
    Masked,
    Masquerade,
    Match,
    OneOf,
    Reject,
    drop,
    jump,
)

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
            rule(
                Match("iifname", link),
                Match(f"{port.protocol} dport", str(FIRST_PORT + number)),
                Dnat(port.address, port.node_port),
                comment=f"Node {port.node}",
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
            Hook("nat", "prerouting", -100),
        )
        unreachable = rule(
            Match("oifname", link),
            OneOf(f"{family} daddr", inside(config, version)),
            Reject(_UNREACHABLE[version]),
            comment="the lab's own ranges",
        )
        yield Chain(
            netns,
            family,
            names.UPLINK_TABLE,
            "forward",
            (unreachable,),
            Hook("filter", "forward", 0),
        )
        masquerade = rule(
            Match("oifname", link), Masquerade(), comment="the machine knows this router alone"
        )
        yield Chain(
            netns,
            family,
            names.UPLINK_TABLE,
            "postrouting",
            (masquerade,),
            Hook("nat", "postrouting", 100),
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
            rule(
                *port.match,
                Dnat(own, FIRST_PORT + number),
                comment=f"Node {port.node} of lab {lab}",
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
                (rule(jump("ports")),),
                Hook("nat", hook, -100),
            )
        block = rule(
            Match("oifname", link),
            Match("ct state", "new"),
            Masked("ct status", "dnat"),
            drop,
            comment="only published ports are open",
        )
        yield Chain("", family, table, "forward", (block,), Hook("filter", "forward", 0))
        ambiguous = (_LOOPBACKS[version], *inside(config, version))
        masquerades = (
            rule(
                Match(f"{family} saddr", own),
                Match("oifname", link, is_negated=True),
                Masquerade(),
                comment="traffic of the lab leaves with the machine's address",
            ),
            rule(
                Match("oifname", link),
                OneOf(f"{family} saddr", ambiguous),
                Masquerade(),
                comment="clients whose range is also used in the lab",
            ),
        )
        yield Chain("", family, table, "postrouting", masquerades, Hook("nat", "postrouting", 100))
