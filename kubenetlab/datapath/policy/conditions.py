"""Conditions of rules beyond peers and ports of the destination, all of which have to be met."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from msgspec import Struct

from kubenetlab.api.containers import MAX_PORT, Protocol
from kubenetlab.api.values import ip
from kubenetlab.datapath.policy.members import PodGroup

End = Literal["source", "destination"]
"""End of a connection, whatever its direction as a pod sees it."""


class PortRange(Struct, frozen=True, order=True):
    """Ports by number."""

    protocol: Protocol
    first: int
    last: int

    @property
    def is_all(self) -> bool:
        return (self.first, self.last) == (0, MAX_PORT)


class PortName(Struct, frozen=True, order=True):
    """Port of a pod, by name."""

    protocol: Protocol
    name: str


class AddressIn(Struct, frozen=True):
    """Address of an end in one of several groups of pods and ranges, or in none of them."""

    end: End
    groups: tuple[PodGroup, ...]
    ranges: tuple[str, ...]
    """Disjoint ranges of both IP versions."""
    is_negated: bool = False

    def ranges_of(self, version: int) -> tuple[str, ...]:
        """Return the ranges of one IP version."""
        return ip.of_version(self.ranges, version)


class PortIn(Struct, frozen=True):
    """Port of an end in one of several ranges and named ports, or in none of them.

    The rule also has a condition about the protocol, unless all ports have names.
    """

    end: End
    ranges: tuple[tuple[int, int], ...]
    """Disjoint ranges, in order."""
    names: tuple[PortName, ...]
    is_negated: bool = False


class ProtocolIs(Struct, frozen=True):
    """Protocol of the packets, by number."""

    protocol: int
    is_negated: bool = False


class ICMPIs(Struct, frozen=True):
    """Type and code of messages. The rule also has a condition about the protocol."""

    type: int
    code: int | None = None
    """None for all codes."""
    is_negated: bool = False


class EndpointIn(Struct, frozen=True):
    """Destination that is an endpoint of a Service, with its port."""

    endpoints: tuple[tuple[Protocol, int, tuple[str, ...]], ...]
    """Protocol, port, and the addresses of the endpoints that have it; both IP versions."""


class OwnNode(Struct, frozen=True):
    """Peer that is the node of the pod to which the rule applies, or any other peer."""

    is_negated: bool = False


Condition = AddressIn | PortIn | ProtocolIs | ICMPIs | EndpointIn | OwnNode


def groups_in(conditions: tuple[Condition, ...]) -> Iterator[PodGroup]:
    """Yield the groups of pods in conditions."""
    for condition in conditions:
        if isinstance(condition, AddressIn):
            yield from condition.groups


def port_names_in(conditions: tuple[Condition, ...]) -> Iterator[PortName]:
    """Yield the named ports in conditions."""
    for condition in conditions:
        if isinstance(condition, PortIn):
            yield from condition.names
