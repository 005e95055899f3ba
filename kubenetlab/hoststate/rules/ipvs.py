"""Rule backend ipvs: virtual servers, and the real servers to which they forward connections.

A real server that is removed from a remaining virtual server gets no new connections (weight 0) and
is deleted when its last connection has ended. A UDP real server is deleted at once, because UDP has
no end of connection.
Source: ipvsadm(8); k8s.io/kubernetes pkg/proxy/ipvs/graceful_termination.go (1.33).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from kubenetlab.hoststate.object import Key, Object
from kubenetlab.hoststate.rules import listing
from kubenetlab.hoststate.rules.listing import Difference, RuleContainer
from kubenetlab.hoststate.rules.rules_diff import changed_members
from kubenetlab.hoststate.rules.rulesets import DiffCache, NodeRules, OwnedName, RuleObject, members
from kubenetlab.names import socket_address

NAMES: Final[tuple[OwnedName, ...]] = (("", "ipvs"),)
"""Names of this backend. A namespace has one table of virtual servers, owned by one component."""
IS_WATCHED: Final = True
"""The loader polls, because the kernel reports neither changes nor the end of connections."""
SOURCE_HASH: Final = "mh"
"""Maglev hashing scheduler, which is configured to hash the client's port, too."""
_OPTIONS: Final[Mapping[str, str]] = {"tcp": "-t", "udp": "-u", "sctp": "--sctp-service"}
"""ipvsadm's option for a virtual server, by protocol."""


class _Ipvs(RuleObject, frozen=True):
    """Base class of the objects of this backend: the key of a virtual server."""

    backend = "ipvs"

    protocol: str
    address: str
    port: int

    @property
    def service(self) -> str:
        """Virtual server in ipvsadm's notation: `-t 10.96.12.7:80`."""
        return f"{_OPTIONS[self.protocol]} {socket_address(self.address, self.port)}"


class VirtualServer(_Ipvs, frozen=True):
    """An address and port whose connections IPVS forwards to real servers."""

    rank = 110

    scheduler: str
    persistence_s: int = 0
    """Persistence timeout of a client's real server, in seconds; 0: no persistence."""

    @property
    def key(self) -> Key:
        return ("VirtualServer", self.protocol, self.address, str(self.port))

    def __str__(self) -> str:
        return f"ipvs {self.words}"

    @property
    def words(self) -> str:
        """Arguments of `ipvsadm -A`."""
        return f"{self.service} {self.options}"

    @property
    def options(self) -> str:
        """Scheduler and persistence in ipvsadm's notation."""
        flags = " -b mh-port" if self.scheduler == SOURCE_HASH else ""
        return (
            f"-s {self.scheduler}{f' -p {self.persistence_s}' if self.persistence_s else ''}{flags}"
        )


class RealServer(_Ipvs, frozen=True):
    """An endpoint of a virtual server."""

    rank = 120

    real_address: str
    real_port: int
    forwarding: str = "-m"
    """ipvsadm's option for the forwarding method; the lab uses network address translation."""

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
        """Arguments of `ipvsadm -a`."""
        return f"{self.service} {self.destination} {self.forwarding}"

    @property
    def destination(self) -> str:
        """Real server in ipvsadm's notation: `-r 10.244.1.2:8080`."""
        return f"-r {socket_address(self.real_address, self.real_port)}"


IpvsObject = VirtualServer | RealServer
IpvsRules = IpvsObject | NodeRules[IpvsObject]


class IpvsChanges(Struct, frozen=True):
    """Servers to add, change or remove."""

    servers: tuple[VirtualServer, ...] = ()
    """Virtual servers to add or change."""
    reals: tuple[RealServer, ...] = ()
    """Real servers to add or change."""
    leaving: tuple[RealServer, ...] = ()
    """Real servers to remove from remaining virtual servers, when their connections have ended."""
    gone: tuple[VirtualServer, ...] = ()
    """Virtual servers to remove, with their real servers."""
    is_anew: bool = False
    """True if `servers` and `reals` are complete: all other servers are removed."""


class ListedServer(Struct, frozen=True):
    """A virtual server in a listing of the kernel."""

    server: VirtualServer
    reals: tuple[tuple[RealServer, int, int], ...]
    """Real servers, each with its weight and its number of connections."""


def decode_changes(text: str) -> IpvsChanges:
    """Decode a transaction of this backend."""
    return msgspec.json.decode(text, type=IpvsChanges)


def update(
    old: Sequence[IpvsRules],
    new: Sequence[IpvsRules],
    former: Iterable[OwnedName] = (),
    cache: DiffCache | None = None,
) -> str:
    """Return the servers to add, change or remove.

    Real servers of a removed virtual server are not listed: the kernel removes them with it.
    """
    before, after = changed_members(old, new, cache)
    added = [obj for key, obj in after.items() if before.get(key) != obj]
    removed = [obj for key, obj in before.items() if key not in after]
    removed_servers = {obj.service for obj in removed if isinstance(obj, VirtualServer)}
    changes = IpvsChanges(
        servers=_servers(added),
        reals=tuple(obj for obj in added if isinstance(obj, RealServer)),
        leaving=tuple(
            obj
            for obj in removed
            if isinstance(obj, RealServer) and obj.service not in removed_servers
        ),
        gone=_servers(removed),
    )
    return _encode(changes) if added or removed else ""


def replacement(objects: Sequence[IpvsRules], former: Iterable[OwnedName] = ()) -> str:
    """Return a transaction with all servers, which keeps existing servers that match."""
    all_members = list(members(objects))
    if not all_members and not tuple(former):
        return ""
    return _encode(
        IpvsChanges(
            _servers(all_members),
            tuple(obj for obj in all_members if isinstance(obj, RealServer)),
            is_anew=True,
        )
    )


def with_removals(changes: IpvsChanges, listed: Iterable[ListedServer]) -> IpvsChanges:
    """Return complete changes together with the removals of all other listed servers."""
    servers, reals = {obj.key for obj in changes.servers}, {obj.key for obj in changes.reals}
    listed_servers = list(listed)
    return IpvsChanges(
        changes.servers,
        changes.reals,
        leaving=tuple(
            real
            for entry in listed_servers
            if entry.server.key in servers
            for real, _, _ in entry.reals
            if real.key not in reals
        ),
        gone=tuple(entry.server for entry in listed_servers if entry.server.key not in servers),
    )


def servers_after(before: Iterable[IpvsObject], changes: IpvsChanges) -> tuple[IpvsObject, ...]:
    """Return the servers that exist after `changes`, if `before` existed."""
    expected = {
        obj.key: obj
        for obj in (*(() if changes.is_anew else before), *changes.servers, *changes.reals)
    }
    removed_servers, removed_reals = (
        {server.service for server in changes.gone},
        {real.key for real in changes.leaving},
    )
    return tuple(
        obj
        for key, obj in expected.items()
        if obj.service not in removed_servers and key not in removed_reals
    )


def names(objects: Iterable[IpvsRules]) -> tuple[OwnedName, ...]:
    """Return the name of the only table if there are any objects."""
    return NAMES if any(True for _ in objects) else ()


def failed_object(message: str, objects: Iterable[IpvsRules]) -> tuple[Object, Object] | None:
    """Return the server named in the last line of the message."""
    last = message.rpartition("\n")[2]
    return next(
        ((part, whole) for whole in objects for part in whole.parts if str(part) == last), None
    )


def commands(objects: Sequence[IpvsRules]) -> Iterator[str]:
    """Yield one `ipvsadm -R` command."""
    yield f"ipvsadm -R <<'EOF'\n{ipvsadm_listing(members(objects))}EOF"


def ipvsadm_listing(objects: Iterable[RuleObject]) -> str:
    """Return servers in the format of `ipvsadm -Sn`: real servers follow their virtual server."""
    all_members = list(objects)
    reals: dict[str, list[str]] = {}
    for obj in all_members:
        if isinstance(obj, RealServer):
            reals.setdefault(obj.service, []).append(f"-a {obj.words} -w 1\n")
    return "".join(
        f"-A {server.words}\n{''.join(reals.get(server.service, ()))}"
        for server in _servers(all_members)
    )


def differences(objects: Sequence[IpvsRules], listed: object) -> Iterator[Difference]:
    """Compare with `ListedServer` of all virtual servers.

    An additional real server of weight 0 is no difference: it waits for the end of its connections.
    """
    desired = list(members(objects))
    reals: dict[str, list[tuple[RealServer, int]]] = {}
    for obj in desired:
        if isinstance(obj, RealServer):
            reals.setdefault(obj.service, []).append((obj, 1))
    observed = msgspec.convert(listed, tuple[ListedServer, ...])
    return listing.differences(
        (_container(server, reals.get(server.service, ())) for server in _servers(desired)),
        (
            _container(entry.server, [(real, weight) for real, weight, _ in entry.reals])
            for entry in observed
        ),
    )


def _container(server: VirtualServer, reals: Iterable[tuple[RealServer, int]]) -> RuleContainer:
    texts = {
        real.destination: (f"{real.destination} {real.forwarding} -w {weight}", weight)
        for real, weight in reals
    }
    return RuleContainer(
        f"ipvs {server.service}",
        "real server",
        f"ipvs {server.service} ",
        properties=server.options,
        elements={destination: text for destination, (text, _) in texts.items()},
        optional=frozenset(destination for destination, (_, weight) in texts.items() if not weight),
    )


def _servers(objects: Iterable[RuleObject]) -> tuple[VirtualServer, ...]:
    return tuple(obj for obj in objects if isinstance(obj, VirtualServer))


def _encode(changes: IpvsChanges) -> str:
    return msgspec.json.encode(changes).decode()
