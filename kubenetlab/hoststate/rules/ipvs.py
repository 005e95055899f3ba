"""ipvs: virtual servers, and the real servers among which each spreads its connections.

A real server that is taken from one that stays gets no new connections (weight 0) and goes when its last one has ended; by UDP, where
nobody says when that is, it goes at once. Source: ipvsadm(8); k8s.io/kubernetes pkg/proxy/ipvs/graceful_termination.go (1.33).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from kubenetlab.hoststate.object import Key, Object
from kubenetlab.hoststate.rules import listing
from kubenetlab.hoststate.rules.listing import Difference, RuleContainer
from kubenetlab.hoststate.rules.rulesets import Name, NodeRules, RuleObject, different, members
from kubenetlab.names import socket_address

NAMES: Final[tuple[Name, ...]] = (("", "ipvs"),)
"""A namespace has one table of virtual servers: who uses it has it to himself."""
IS_WATCHED: Final = True
"""Somebody has to see when the last connection of a real server that leaves has ended, and what others change: the kernel tells neither."""
SOURCE_HASH: Final = "mh"
"""The scheduler that is told to look at the client's port, too."""
_OPTIONS: Final[Mapping[str, str]] = {"tcp": "-t", "udp": "-u", "sctp": "--sctp-service"}
"""Protocol → ipvsadm's option for a virtual server."""


class _Ipvs(RuleObject, frozen=True):
    dialect = "ipvs"

    protocol: str
    address: str
    port: int

    @property
    def service(self) -> str:
        """As ipvsadm writes it: `-t 10.96.12.7:80`."""
        return f"{_OPTIONS[self.protocol]} {socket_address(self.address, self.port)}"


class VirtualServer(_Ipvs, frozen=True):
    """An address and port of which the kernel takes in what comes."""

    rank = 110

    scheduler: str
    persistence_s: int = 0
    """How long a client stays with its real server; 0: each connection is placed anew."""

    @property
    def key(self) -> Key:
        return ("VirtualServer", self.protocol, self.address, str(self.port))

    def __str__(self) -> str:
        return f"ipvs {self.words}"

    @property
    def words(self) -> str:
        """Behind ipvsadm's -A."""
        return f"{self.service} {self.options}"

    @property
    def options(self) -> str:
        """Scheduler and persistence as ipvsadm writes them."""
        flags = " -b mh-port" if self.scheduler == SOURCE_HASH else ""
        return (
            f"-s {self.scheduler}{f' -p {self.persistence_s}' if self.persistence_s else ''}{flags}"
        )


class RealServer(_Ipvs, frozen=True):
    """One of those to which a virtual server leads, by network address translation."""

    rank = 120

    real_address: str
    real_port: int
    forwarding: str = "-m"
    """ipvsadm's option for how packets reach it; ours by network address translation."""

    @property
    def key(self) -> Key:
        return (
            "RealServer",
            self.protocol,
            self.address,
            str(self.port),
            self.real_address,
            str(self.real_port),
        )

    def __str__(self) -> str:
        return f"ipvs {self.words}"

    @property
    def words(self) -> str:
        """Behind ipvsadm's -a."""
        return f"{self.service} {self.destination} {self.forwarding}"

    @property
    def destination(self) -> str:
        """Its own address as ipvsadm writes it: `-r 10.244.1.2:8080`."""
        return f"-r {socket_address(self.real_address, self.real_port)}"


IpvsObject = VirtualServer | RealServer
Balanced = IpvsObject | NodeRules


class IpvsChanges(Struct, frozen=True):
    """What comes and what goes. With `is_anew` the virtual servers are all that shall be, and whatever else is there goes."""

    servers: tuple[VirtualServer, ...] = ()
    reals: tuple[RealServer, ...] = ()
    leaving: tuple[RealServer, ...] = ()
    gone: tuple[VirtualServer, ...] = ()
    is_anew: bool = False


class ListedServer(Struct, frozen=True):
    """A virtual server as the kernel lists it."""

    server: VirtualServer
    reals: tuple[tuple[RealServer, int, int], ...]
    """(real server, its weight, its connections)"""


def decode_orders(text: str) -> IpvsChanges:
    """The words of this dialect."""
    return msgspec.json.decode(text, type=IpvsChanges)


def update(old: Sequence[Balanced], new: Sequence[Balanced], former: Iterable[Name] = ()) -> str:
    """What is others now, or new, and what goes; a virtual server takes its real ones along."""
    before, after = different(old, new)
    come = [obj for key, obj in after.items() if before.get(key) != obj]
    gone = [obj for key, obj in before.items() if key not in after]
    dead = {obj.service for obj in gone if isinstance(obj, VirtualServer)}
    orders = IpvsChanges(
        servers=_servers(come),
        reals=tuple(obj for obj in come if isinstance(obj, RealServer)),
        leaving=tuple(
            obj for obj in gone if isinstance(obj, RealServer) and obj.service not in dead
        ),
        gone=_servers(gone),
    )
    return _encoded(orders) if come or gone else ""


def replacement(objects: Sequence[Balanced], former: Iterable[Name] = ()) -> str:
    """All of them; what is there already stays as it is."""
    found = list(members(objects))
    if not found and not tuple(former):
        return ""
    return _encoded(
        IpvsChanges(
            _servers(found),
            tuple(obj for obj in found if isinstance(obj, RealServer)),
            is_anew=True,
        )
    )


def against(orders: IpvsChanges, listed: Iterable[ListedServer]) -> IpvsChanges:
    """Orders that make all anew, as those that take away what a listing has beside."""
    servers, reals = {obj.key for obj in orders.servers}, {obj.key for obj in orders.reals}
    there = list(listed)
    return IpvsChanges(
        orders.servers,
        orders.reals,
        leaving=tuple(
            real
            for one in there
            if one.server.key in servers
            for real, _, _ in one.reals
            if real.key not in reals
        ),
        gone=tuple(one.server for one in there if one.server.key not in servers),
    )


def followed(told: Iterable[IpvsObject], orders: IpvsChanges) -> tuple[IpvsObject, ...]:
    """The servers that are there after these orders, if those were there before."""
    found = {
        obj.key: obj for obj in (*(() if orders.is_anew else told), *orders.servers, *orders.reals)
    }
    dead, leaving = (
        {server.service for server in orders.gone},
        {real.key for real in orders.leaving},
    )
    return tuple(
        obj for key, obj in found.items() if obj.service not in dead and key not in leaving
    )


def names(objects: Iterable[Balanced]) -> tuple[Name, ...]:
    """The one table, where anybody is in it."""
    return NAMES if any(True for _ in objects) else ()


def failed_object(said: str, objects: Iterable[Balanced]) -> tuple[Object, Object] | None:
    """The server that is named in the last line."""
    last = said.rpartition("\n")[2]
    return next(
        ((part, whole) for whole in objects for part in whole.parts if str(part) == last), None
    )


def commands(objects: Sequence[Balanced]) -> Iterator[str]:
    """One input for ipvsadm."""
    yield f"ipvsadm -R <<'EOF'\n{told(members(objects))}EOF"


def told(objects: Iterable[Any]) -> str:
    """As `ipvsadm -Sn` prints them: each virtual server with its real ones behind it."""
    found = list(objects)
    reals: dict[str, list[str]] = {}
    for obj in found:
        if isinstance(obj, RealServer):
            reals.setdefault(obj.service, []).append(f"-a {obj.words} -w 1\n")
    return "".join(
        f"-A {server.words}\n{''.join(reals.get(server.service, ()))}" for server in _servers(found)
    )


def differences(objects: Sequence[Balanced], listed: Any) -> Iterator[Difference]:
    """Compare with `Listed` of all virtual servers. A real server of weight 0 that is not desired waits for the end of its connections."""
    desired = list(members(objects))
    reals: dict[str, list[tuple[RealServer, int]]] = {}
    for obj in desired:
        if isinstance(obj, RealServer):
            reals.setdefault(obj.service, []).append((obj, 1))
    observed = msgspec.convert(listed, tuple[ListedServer, ...])
    return listing.differences(
        (_container(server, reals.get(server.service, ())) for server in _servers(desired)),
        (
            _container(one.server, [(real, weight) for real, weight, _ in one.reals])
            for one in observed
        ),
    )


def _container(server: VirtualServer, reals: Iterable[tuple[RealServer, int]]) -> RuleContainer:
    words = {
        real.destination: (f"{real.destination} {real.forwarding} -w {weight}", weight)
        for real, weight in reals
    }
    return RuleContainer(
        f"ipvs {server.service}",
        "real server",
        f"ipvs {server.service} ",
        properties=server.options,
        elements={destination: text for destination, (text, _) in words.items()},
        optional=frozenset(destination for destination, (_, weight) in words.items() if not weight),
    )


def _servers(objects: Iterable[Any]) -> tuple[VirtualServer, ...]:
    return tuple(obj for obj in objects if isinstance(obj, VirtualServer))


def _encoded(orders: IpvsChanges) -> str:
    return msgspec.json.encode(orders).decode()
