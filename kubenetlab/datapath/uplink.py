"""The uplink: the lab's router is linked to the machine's own network.

    pods, nodes, hosts ── router ── uplink ┄┄ knl-… ── the machine ── its network

The router has one address of the machine's for all of the lab, so that the machine needs to know no range of the lab's, and two labs
with the same ones go side by side. Towards the lab a published port is first the machine's, then the router's, then the node's.
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
"""Of the link between the two: nobody else is on it."""
FIRST_PORT = 20000
"""At the router: published ports are told apart by their number there, whatever they are at the machine."""


def inside(config: ClusterConfig, version: int) -> tuple[str, ...]:
    """The ranges of one family that are the lab's own: nobody outside is looked for there."""
    networking = config.networking
    networks = (*networking.pod_networks, *networking.service_networks, *config.node_networks)
    own = (INTERNET_SUBNETS[version], LOAD_BALANCER_SUBNETS[version])
    return tuple(str(network) for network in (*networks, *own) if network.version == version)


def router(
    uplink: Uplink, published: Sequence[PublishedPort], config: ClusterConfig
) -> Iterator[Object]:
    """What the router needs: the link's address, the way out, and what leaves or enters by it."""
    here, link = names.ROUTER, names.ROUTER_UPLINK
    if uplink.router:
        yield LinkUp(here, link)
    for own, machine in zip(uplink.router, uplink.machine, strict=True):
        version = ip.version_of(own)
        family = NFT_FAMILIES[version]
        yield Address(here, link, f"{own}/{PREFIX_LENGTHS[version]}")
        yield Route(here, DEFAULT_ROUTES[version], link, via=machine)
        yield Table(here, family, names.UPLINK_TABLE, "uplink to the machine's own network")
        leads = tuple(
            Rule(
                f'iifname "{link}" {port.protocol} dport {FIRST_PORT + number} dnat to {names.socket_address(port.address, port.node_port)}',
                f"Node {port.node}",
            )
            for number, port in enumerate(published)
            if port.version == version
        )
        yield Chain(
            here,
            family,
            names.UPLINK_TABLE,
            "prerouting",
            leads,
            "type nat hook prerouting priority -100",
        )
        lost = Rule(
            f'oifname "{link}" {family} daddr {{ {", ".join(inside(config, version))} }} reject with {_UNREACHABLE[version]}',
            "the lab's own ranges",
        )
        yield Chain(
            here,
            family,
            names.UPLINK_TABLE,
            "forward",
            (lost,),
            "type filter hook forward priority 0",
        )
        masquerade = Rule(f'oifname "{link}" masquerade', "the machine knows this router alone")
        yield Chain(
            here,
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
    """The tables of the machine: what comes from the lab leaves as the machine's own, and published ports lead to the router.

    Who asks from an address that the lab has, too, or from the machine's loopback, is masqueraded: else the answer would go astray.
    """
    link, table = names.machine_link(lab), f"kubenetlab-{lab}"
    for own in uplink.router:
        version = ip.version_of(own)
        family = NFT_FAMILIES[version]
        yield Table("", family, table, f"uplink of lab {lab}")
        leads = tuple(
            Rule(
                f"{port.match} dnat to {names.socket_address(own, FIRST_PORT + number)}",
                f"Node {port.node} of lab {lab}",
            )
            for number, port in enumerate(published)
            if port.version == version
        )
        yield Chain("", family, table, "ports", leads)
        for hook in ("prerouting", "output"):
            yield Chain(
                "",
                family,
                table,
                hook,
                (Rule("jump ports"),),
                f"type nat hook {hook} priority -100",
            )
        shut = Rule(
            f'oifname "{link}" ct state new ct status & dnat == 0 drop',
            "nobody comes in but by published ports",
        )
        yield Chain("", family, table, "forward", (shut,), "type filter hook forward priority 0")
        alike = ", ".join((_LOOPBACKS[version], *inside(config, version)))
        masquerades = (
            Rule(
                f'{family} saddr {own} oifname != "{link}" masquerade',
                "what the lab sends leaves as the machine's",
            ),
            Rule(
                f'oifname "{link}" {family} saddr {{ {alike} }} masquerade',
                "who asks from a range that the lab has, too",
            ),
        )
        yield Chain(
            "", family, table, "postrouting", masquerades, "type nat hook postrouting priority 100"
        )
