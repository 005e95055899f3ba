"""Ports to consider for connections between two groups: all that policies can distinguish."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import Struct

from kubenetlab.observe.changes.parties import Group
from kubenetlab.observe.policies.model import Traffic
from kubenetlab.observe.policies.policy_ports import PROTOCOLS, PortRange, other_port, partition

PING: Final = "ping"
OTHER_PORTS: Final = "other ports"

Pair = tuple[Group | None, Group | None]
"""Source and destination in one version; None for a group that the version does not have."""


class ConsideredPort(Struct, frozen=True):
    """Port, or ports between which policies do not distinguish."""

    title: str
    traffic: Traffic
    is_served: bool = False
    """True if the destination declares the port."""
    is_other: bool = False
    """True for all ports of a protocol that neither policies nor the destination name."""


def may_change(pair: Pair) -> bool:
    """Return True if policies apply to the connections of a pair, or one end does not exist."""
    source, destination = pair
    if source is None or destination is None:
        return True
    return source.egress.has_policies or destination.ingress.has_policies


def considered_ports(versions: Sequence[Pair]) -> list[ConsideredPort]:
    """Return the ports of a destination that it declares, or that policies of both ends name.

    A port stands for all ports between two bounds in the policies. Without policies, the protocols
    need no distinction.
    """
    served: set[PortRange] = set()
    named: set[PortRange] = set()
    has_policies = False
    for source, destination in versions:
        if source is not None:
            named |= source.egress.ranges
            has_policies |= source.egress.has_policies
        if destination is not None:
            served |= destination.ports
            named |= destination.ingress.ranges
            has_policies |= destination.ingress.has_policies
    ranges = partition(named | served)
    result = [
        ConsideredPort(str(each), Traffic(each.protocol, each.first), each in served)
        for each in ranges
    ]
    for protocol in PROTOCOLS if has_policies else PROTOCOLS[:1]:
        other = other_port(protocol, ranges)
        if other is not None:
            title = f"other {protocol} ports"
            result.append(ConsideredPort(title, Traffic(protocol, other), is_other=True))
    return [*result, ConsideredPort(PING, Traffic("ICMP"))]


def titles_of(
    ports: Sequence[ConsideredPort], considered: Sequence[ConsideredPort]
) -> tuple[str, ...]:
    """Return the titles of some of the considered ports of a destination.

    Other ports of all protocols have one title. If other ports are among them, ports that only
    policies name have no title of their own.
    """
    return tuple(dict.fromkeys(_titles(ports, considered)))


def _titles(ports: Sequence[ConsideredPort], considered: Sequence[ConsideredPort]) -> Iterator[str]:
    others = [port for port in ports if port.is_other]
    protocols = {port.traffic.protocol for port in others}
    has_all = len(others) == sum(port.is_other for port in considered)
    for port in ports:
        if port.is_other:
            yield OTHER_PORTS if has_all else port.title
        elif port.is_served or port.title == PING or port.traffic.protocol not in protocols:
            yield port.title
