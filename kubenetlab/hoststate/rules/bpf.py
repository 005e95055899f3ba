"""bpf: programs on a node's links, and what is in their maps.

A Service port is a front: an address and a port that are looked up; it names lists of endpoints. A list never changes: another choice of
endpoints is another list, and the front is set to that in one stroke.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_address
from typing import Any, Final

from msgspec import Struct

from kubenetlab.hoststate.object import Key, Object
from kubenetlab.hoststate.rules.bpf_entries import (
    AT_ADDRESS,
    AT_NODE,
    ENDPOINT,
    FRONT,
    FRONT_KEY,
    HOME_KEY,
    IS_DETECTING,
    IS_DIRECT,
    IS_FENCED,
    IS_HIDING,
    IS_LOCAL,
    IS_OUTSIDE,
    PROTOCOLS,
    SLOT,
    SOURCE_KEY,
    UNSPECIFIED,
    packed_address,
    packed_id,
    packed_port,
    packed_prefix,
    packed_range,
)
from kubenetlab.hoststate.rules.listing import Difference
from kubenetlab.hoststate.rules.rulesets import (
    Name,
    NodeRules,
    RuleObject,
    changed_members,
    members,
)

LOOPBACK: Final = "lo"
COMING, GOING = "coming", "going"
"""The programs: at tc ingress and at tc egress."""
NAME: Final[Name] = ("tc", "services")
"""What the programs are to a namespace: they, their maps and where they are attached come and go together."""

IS_WATCHED: Final = True
"""Links come and lose their programs at any time: somebody has to listen."""


Entry = tuple[str, bytes]
"""(map, key)"""
Listing = tuple[str, int]
"""(name of a list of endpoints, how many they are)"""
NOWHERE: Final[Listing] = ("", 0)


class _Bpf(RuleObject, frozen=True):
    @property
    def dialect(self) -> str:
        return "bpf"

    @property
    def links(self) -> tuple[str, ...]:
        """On which the programs are to be."""
        return ()

    def entries(self) -> Iterator[tuple[Entry, bytes]]:
        """What it is in the maps."""
        raise NotImplementedError


class FamilyConfig(Struct, frozen=True):
    """What a node knows of one address family."""

    node: str
    pods: str
    services: str
    doors: tuple[str, ...] = ()
    """The node's addresses at which node ports answer."""
    local: str | None = None
    """Sources that count as pods where a policy asks for it; None: nothing asks, empty: there are none."""


class BpfPrograms(_Bpf, frozen=True):
    """The programs with their maps, on the links that a node has by itself."""

    rank = 100

    ranges: tuple[FamilyConfig, ...]
    uplink: str

    @property
    def key(self) -> Key:
        return ("BpfPrograms",)

    @property
    def links(self) -> tuple[str, ...]:
        return (self.uplink, LOOPBACK)

    def entries(self) -> Iterator[tuple[Entry, bytes]]:
        found = {ip_address(one.node).version: one for one in self.ranges}
        both = [
            found.get(version, FamilyConfig(UNSPECIFIED[version], "", "")) for version in (4, 6)
        ]
        value = b"".join(packed_address(one.node) for one in both)
        kinds = (
            [one.pods for one in both],
            [one.services for one in both],
            [one.local or "" for one in both],
        )
        value += b"".join(packed_range(cidr) for ranges in kinds for cidr in ranges)
        yield (
            ("settings", bytes(4)),
            value + IS_DETECTING.pack(any(one.local is not None for one in both)),
        )
        for address in (address for one in self.ranges for address in one.doors):
            yield ("doors", packed_address(address)), b"\1"

    def __str__(self) -> str:
        return f"bpf programs {COMING} and {GOING} on {self.uplink}, {GOING} on {LOOPBACK}"


class PodLink(_Bpf, frozen=True):
    """A pod's link, on which the programs are, too."""

    rank = 140

    link: str

    @property
    def key(self) -> Key:
        return ("PodLink", self.link)

    @property
    def links(self) -> tuple[str, ...]:
        return (self.link,)

    def entries(self) -> Iterator[tuple[Entry, bytes]]:
        return iter(())

    def __str__(self) -> str:
        return f"bpf programs {COMING} and {GOING} on {self.link}"


class RemoteRange(_Bpf, frozen=True):
    """On which other node the addresses of a range are."""

    rank = 110

    cidr: str
    node: str

    @property
    def key(self) -> Key:
        return ("RemoteRange", self.cidr)

    def entries(self) -> Iterator[tuple[Entry, bytes]]:
        length, address = packed_prefix(self.cidr)
        yield ("homes", HOME_KEY.pack(length, address)), packed_address(self.node)

    def __str__(self) -> str:
        return f"bpf home of {self.cidr}: {self.node}"


class BpfEndpoints(_Bpf, frozen=True):
    """A list of endpoints, of which one is drawn."""

    rank = 110

    name: str
    endpoints: tuple[tuple[str, int], ...]

    @property
    def key(self) -> Key:
        return ("BpfEndpoints", self.name)

    def entries(self) -> Iterator[tuple[Entry, bytes]]:
        own = packed_id(self.name)
        for index, (address, port) in enumerate(self.endpoints):
            endpoint = ENDPOINT.pack(packed_address(address), packed_port(port))
            yield ("endpoints", SLOT.pack(own, index, 0)), endpoint
            yield ("members", own + endpoint), b"\1"

    def __str__(self) -> str:
        return f"bpf endpoints {self.name}: {', '.join(f'{address} {port}' for address, port in self.endpoints)}"


class AllowedSource(_Bpf, frozen=True):
    """A range from which a Service may be asked at its load balancer's address."""

    rank = 110

    service: str
    cidr: str

    @property
    def key(self) -> Key:
        return ("AllowedSource", self.service, self.cidr)

    def entries(self) -> Iterator[tuple[Entry, bytes]]:
        length, address = packed_prefix(self.cidr)
        yield ("sources", SOURCE_KEY.pack(64 + length, packed_id(self.service), address)), b"\1"

    def __str__(self) -> str:
        return f"bpf source {self.cidr} of {self.service}"


class ClusterIp(_Bpf, frozen=True):
    """An address of which the ports that no Service has refuse."""

    rank = 120

    address: str

    @property
    def key(self) -> Key:
        return ("ClusterIp", self.address)

    def entries(self) -> Iterator[tuple[Entry, bytes]]:
        yield (
            ("fronts", FRONT_KEY.pack(packed_address(self.address), bytes(2), 0, AT_ADDRESS)),
            bytes(FRONT.size),
        )

    def __str__(self) -> str:
        return f"bpf cluster IP {self.address}"


class Frontend(_Bpf, frozen=True):
    """Where a Service port is reached: at an address; at 0.0.0.0 or :: under a node port, at the node's doors."""

    rank = 120

    address: str
    port: int
    protocol: str
    service: str
    """`namespace/name:port/protocol`: who is faithful to it is so at all its addresses."""
    everywhere: Listing
    here: Listing = NOWHERE
    affinity_s: int = 0
    is_outside: bool = False
    is_local: bool = False
    is_fenced: bool = False
    """Only a Source may ask."""
    is_hiding: bool = False
    """Endpoints see none of their clients, but the node."""
    is_direct: bool = False
    """Endpoints see their clients, and those on other nodes answer them from there."""

    @property
    def key(self) -> Key:
        return ("Frontend", self.address, str(self.port), self.protocol)

    def entries(self) -> Iterator[tuple[Entry, bytes]]:
        kind = AT_NODE if self.address in UNSPECIFIED.values() else AT_ADDRESS
        key = FRONT_KEY.pack(
            packed_address(self.address), packed_port(self.port), PROTOCOLS[self.protocol], kind
        )
        flags = self.is_outside * IS_OUTSIDE | self.is_local * IS_LOCAL | self.is_fenced * IS_FENCED
        flags |= self.is_hiding * IS_HIDING | self.is_direct * IS_DIRECT
        lists = (packed_id(self.everywhere[0]), packed_id(self.here[0]), packed_id(self.service))
        yield (
            ("fronts", key),
            FRONT.pack(*lists, self.everywhere[1], self.here[1], self.affinity_s, flags),
        )

    def __str__(self) -> str:
        policy = "Local" if self.is_local else "Cluster"
        return f"bpf front {self.address} {self.port}/{self.protocol} of {self.service}: {policy} {(self.here if self.is_local else self.everywhere)[1]}"


Bpf = BpfPrograms | PodLink | RemoteRange | BpfEndpoints | AllowedSource | ClusterIp | Frontend
Ruled = Bpf | NodeRules


def endpoints(service: str, policy: str, found: Sequence[tuple[str, int]]) -> BpfEndpoints:
    """The list of a Service port by one policy, under a name that no other choice of endpoints has."""
    told = hashlib.sha256(repr(found).encode()).hexdigest()[:8]
    return BpfEndpoints("", f"{service} {policy} {told}", tuple(found))


class MapUpdate(Struct, omit_defaults=True):
    """What is to be done, as JSON; keys and values of maps in hexadecimal."""

    links: list[str] = []
    """On which the programs are to be, as soon as they are there; without any the programs go."""
    is_anew: bool = False
    """What is in the maps and not to be set goes."""
    set: list[tuple[str, str, str]] = []
    delete: list[tuple[str, str]] = []


def update(old: Sequence[Ruled], new: Sequence[Ruled], former: Iterable[Name] = ()) -> str:
    """New lists before the fronts that name them, old ones after."""
    if not _links(old) or not _links(new):
        return replacement(new, former if _links(new) or not _links(old) else (NAME,))
    before, after = (_entries(side.values()) for side in changed_members(old, new))
    words = MapUpdate(_links(new))
    words.set = [
        (name, key.hex(), value.hex())
        for (name, key), value in after.items()
        if before.get((name, key)) != value
    ]
    words.delete = [(name, key.hex()) for name, key in reversed(before) if (name, key) not in after]
    return _text(words) if words.set or words.delete or words.links != _links(old) else ""


def replacement(objects: Sequence[Ruled], former: Iterable[Name] = ()) -> str:
    """All maps but those that packets fill; flows go on."""
    if not (links := _links(objects)):
        return _text(MapUpdate()) if NAME in tuple(former) else ""
    entries = _entries(members(objects))
    return _text(
        MapUpdate(
            links, True, [(name, key.hex(), value.hex()) for (name, key), value in entries.items()]
        )
    )


def names(objects: Iterable[Ruled]) -> tuple[Name, ...]:
    """One, where there is anything."""
    return (NAME,) if _links(objects) else ()


def failed_object(said: str, objects: Iterable[Ruled]) -> tuple[Object, Object] | None:
    """The object of the map's entry that a refusal names, or what stands for all of it."""
    for whole in objects:
        for part in whole.parts:
            entries = part.entries() if isinstance(part, _Bpf) else ()
            if isinstance(part, BpfPrograms) or any(
                f"{name} {key.hex()}" in said for (name, key), _ in entries
            ):
                return part, whole
    return None


def differences(objects: Sequence[Ruled], listed: Any) -> Iterator[Difference]:
    """Compare with the programs on each link, and the maps but for those that packets fill: `{"links": {…}, "maps": {…}}`."""
    from kubenetlab.hoststate.rules import bpf_listing

    desired = list(members(objects))
    entries: dict[str, dict[bytes, bytes]] = {}
    for (name, key), value in _entries(desired).items():
        entries.setdefault(name, {})[key] = value
    links = {link: programs_on(link) for obj in desired for link in obj.links}
    ids = [obj.name for obj in desired if isinstance(obj, BpfEndpoints)]
    ids += [obj.service for obj in desired if isinstance(obj, Frontend | AllowedSource)]
    ids += [
        name
        for obj in desired
        if isinstance(obj, Frontend)
        for name, _ in (obj.everywhere, obj.here)
    ]
    return bpf_listing.differences(links, entries, listed, {packed_id(name): name for name in ids})


def commands(objects: Sequence[Ruled]) -> Iterator[str]:
    """Nothing that one would type: maps have no names in a namespace, and pods' links get the programs when they come."""
    if any(isinstance(obj, BpfPrograms) for obj in objects):
        yield "true 'not made here: Services by programs of BPF, see kubenetlab/bpf/service.bpf.c'"


def programs_on(link: str) -> tuple[str, ...]:
    """Which programs a link gets: to lo nothing comes that has not gone there before."""
    return (GOING,) if link == LOOPBACK else (COMING, GOING)


def _links(objects: Iterable[Ruled]) -> list[str]:
    return [link for obj in objects if isinstance(obj, BpfPrograms | PodLink) for link in obj.links]


def _text(words: MapUpdate) -> str:
    found = {name: getattr(words, name) for name in words.__struct_fields__ if getattr(words, name)}
    return json.dumps(found)


def _entries(objects: Iterable[Any]) -> dict[Entry, bytes]:
    """In the order in which they may be set; taken away they are from the last to the first."""
    ordered = sorted(objects, key=lambda obj: obj.rank)
    return {entry: value for obj in ordered for entry, value in obj.entries()}
